"""The key box of a data pack: its key, sealed to the repository's data public key (docs/format.md, "Pack").

HPKE (RFC 9180) with a hybrid of ML-KEM-768 and X25519: a copy of the bucket made today can be opened neither
with a later quantum computer nor through a flaw in ML-KEM alone.
"""

from __future__ import annotations

from hashlib import shake_256

from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import (
    AEAD,
    KDF,
    KEM,
    MLKEM768X25519PrivateKey,
    MLKEM768X25519PublicKey,
    Suite,
)

from puller.errors import DamagedData, UnsupportedFormat

PUBLIC_KEY = 1184 + 32
"""Bytes of a data public key: ML-KEM's, then X25519's."""

_MLKEM_PUBLIC, _MLKEM_SEED, _EXPANDED = 1184, 64, 96
_SUITE = Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


def _halves(seed: bytes) -> tuple[MLKEM768PrivateKey, X25519PrivateKey]:
    """The two private keys that the hybrid's 32 bytes stand for. Raises UnsupportedFormat."""
    expanded = shake_256(seed).digest(_EXPANDED)
    try:
        mlkem = MLKEM768PrivateKey.from_seed_bytes(expanded[:_MLKEM_SEED])
    except UnsupportedAlgorithm as error:
        raise _unsupported() from error
    return mlkem, X25519PrivateKey.from_private_bytes(expanded[_MLKEM_SEED:])


def _unsupported() -> UnsupportedFormat:
    return UnsupportedFormat(
        "this build of 'cryptography' has no ML-KEM-768",
        advice="Install the package 'cryptography' from PyPI, whose wheels include it.",
    )


def public_key(seed: bytes) -> bytes:
    """The public key that belongs to the private ``seed`` (32 bytes). Raises UnsupportedFormat."""
    mlkem, x25519 = _halves(seed)
    return mlkem.public_key().public_bytes_raw() + x25519.public_key().public_bytes_raw()


def _public(key: bytes) -> MLKEM768X25519PublicKey:
    """Parse a public key. Raises UnsupportedFormat, DamagedData."""
    try:
        mlkem = MLKEM768PublicKey.from_public_bytes(key[:_MLKEM_PUBLIC])
        return MLKEM768X25519PublicKey(mlkem, X25519PublicKey.from_public_bytes(key[_MLKEM_PUBLIC:]))
    except UnsupportedAlgorithm as error:
        raise _unsupported() from error
    except ValueError as error:
        raise DamagedData(f"a key slot holds an invalid public key: {error}") from error


def require_usable(public: bytes) -> None:
    """Raise UnsupportedFormat or DamagedData if nothing can be sealed to ``public``."""
    _public(public)


def seal(public: bytes, content: bytes, info: bytes) -> bytes:
    """Return ``content``, such as a pack key, sealed for the private seed; ``info`` is its place."""
    return _SUITE.encrypt(content, _public(public), info)


def open_box(seed: bytes, sealed: bytes, info: bytes) -> bytes:
    """Return what ``seal`` was given. Raises DamagedData if seed, ``info`` or a single bit differ."""
    try:
        return _SUITE.decrypt(sealed, MLKEM768X25519PrivateKey(*_halves(seed)), info)
    except (InvalidTag, ValueError) as error:
        raise DamagedData("its seal does not match") from error
