"""Authenticated sealing, and the boxes of small objects (docs/format.md, "Sealing").

A seal binds bytes to a place: object name, or pack and slot, are part of the additional data. So an object
that was moved, swapped or truncated is detected, even without encryption.
"""

from __future__ import annotations

import enum
import hmac
import os
from typing import Protocol

from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from puller.errors import DamagedData, RepositoryError, UnknownKind
from puller.repository.format import compression
from puller.units import MIB

TAG = 16
NONCE = 12

BOX_HEADER = 20
BOX_MAGIC = b"PLRB"
BOX_VERSION = 1
BOX_LIMIT = 256 * MIB


class Cipher(enum.IntEnum):
    """Cipher of a repository."""

    NONE = 0
    AES_256_GCM = 1


class BoxKind(enum.IntEnum):
    """Content of a box."""

    POINT = 1
    CONDEMNED = 3
    LOCK = 4
    DAMAGED = 5
    VERIFIED = 6
    KEEP = 7
    PROOF = 8
    LOCK_POLICY = 9


_KINDS = frozenset(BoxKind)


class Seal(Protocol):
    """Seals with one key. Sealed bytes are ``TAG`` longer than the content."""

    def seal(self, nonce: bytes, content: bytes, aad: bytes) -> bytes:
        """Return the sealed ``content``. A nonce is used once per key."""

    def open(self, nonce: bytes, sealed: bytes, aad: bytes) -> bytes:
        """Return the content. Raises DamagedData if key, nonce, aad or a single bit differ."""


class Keys(Protocol):
    """Interface of a key ring for sealing a pack (``puller.repository.keys.keyring``)."""

    @property
    def repository_id(self) -> bytes:
        """16 bytes to which every seal is bound, but those of chunks."""

    @property
    def family(self) -> bytes:
        """16 bytes to which the seals of chunks are bound."""

    @property
    def cipher(self) -> Cipher:
        """The cipher of the repository."""

    @property
    def id_key(self) -> bytes:
        """The key of chunk ids."""

    @property
    def can_read_data(self) -> bool:
        """Whether the keys can open stored guest data."""

    def footer_seal(self) -> Seal:
        """The seal of pack footers."""

    def open_data_key(self, pack_id: bytes, key_box: bytes) -> bytes:
        """The key of a data pack. Raises KeyNotHeld, DamagedData."""

    def map_key(self, pack_id: bytes) -> bytes:
        """The key of a map pack."""


class AesSeal:
    """AES-256-GCM: nobody without the key can read or change the content."""

    def __init__(self, key: bytes) -> None:
        self._aes = AESGCM(key)

    def seal(self, nonce: bytes, content: bytes, aad: bytes) -> bytes:
        """See Seal."""
        return self._aes.encrypt(nonce, content, aad)

    def open(self, nonce: bytes, sealed: bytes, aad: bytes) -> bytes:
        """See Seal."""
        try:
            return self._aes.decrypt(nonce, sealed, aad)
        except InvalidTag as error:
            raise DamagedData("the seal does not match the content") from error


class PlainSeal:
    """Keyed BLAKE3: detects accidental changes, hides nothing."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def _tag(self, nonce: bytes, content: bytes, aad: bytes) -> bytes:
        framed = len(aad).to_bytes(8, "little") + aad + nonce
        return blake3(framed, key=self._key).update(content).digest(TAG)

    def seal(self, nonce: bytes, content: bytes, aad: bytes) -> bytes:
        """See Seal."""
        return content + self._tag(nonce, content, aad)

    def open(self, nonce: bytes, sealed: bytes, aad: bytes) -> bytes:
        """See Seal."""
        content, tag = sealed[:-TAG], sealed[-TAG:]
        if not hmac.compare_digest(tag, self._tag(nonce, content, aad)):
            raise DamagedData("the seal does not match the content")
        return content


def seal_for(cipher: Cipher, key: bytes) -> Seal:
    """Return the seal of a repository with ``cipher`` under ``key`` (32 bytes)."""
    return AesSeal(key) if cipher is Cipher.AES_256_GCM else PlainSeal(key)


class Boxes:
    """Packs and unpacks the boxes of one repository."""

    def __init__(self, repository_id: bytes, cipher: Cipher, metadata_key: bytes) -> None:
        self._repository_id = repository_id
        self._cipher = cipher
        self._seal = seal_for(cipher, metadata_key)

    def _aad(self, head: bytes, name: str) -> bytes:
        return b"puller box" + self._repository_id + head + name.encode()

    def pack(self, kind: BoxKind, name: str, content: bytes) -> bytes:
        """Return the box with ``content`` for the object ``name``.

        Raises RepositoryError if it is too large for readers, so that it is never stored.
        """
        if len(content) > BOX_LIMIT:
            raise RepositoryError(f"cannot store {name}: {len(content)} bytes are too many for a box")
        head = BOX_MAGIC + bytes((BOX_VERSION, kind, self._cipher, 0))
        nonce = os.urandom(NONCE)
        return head + nonce + self._seal.seal(nonce, compression.frame(content), self._aad(head, name))

    def unpack(self, kind: BoxKind, name: str, box: bytes, limit: int = BOX_LIMIT) -> bytes:
        """Return the content of the object ``name``, at most ``limit`` bytes. Raises DamagedData."""
        head, nonce = box[:8], box[8:BOX_HEADER]
        if len(box) < BOX_HEADER + TAG or head[:4] != BOX_MAGIC:
            raise DamagedData(f"{name} is not an object of puller's")
        if head[4] != BOX_VERSION:
            # It is not authenticated yet; a newer format says so in the descriptor, which is read first.
            raise DamagedData(f"{name} has format version {head[4]}; this puller supports {BOX_VERSION}")
        if head != BOX_MAGIC + bytes((BOX_VERSION, kind, self._cipher, 0)) and head[5] in _KINDS:
            raise DamagedData(f"{name} has a different kind than its name says")
        try:
            frame = self._seal.open(nonce, box[BOX_HEADER:], self._aad(head, name))
            if head[5] not in _KINDS:
                # The seal authenticates the kind: a flipped bit must not hide a record.
                raise UnknownKind(f"{name} has kind {head[5]}, which this puller does not support")
            return compression.unframe(frame, limit)
        except UnknownKind:
            raise
        except DamagedData as error:
            raise DamagedData(f"{name} is damaged: {error.message}") from error
