"""Authenticated sealing, and the boxes that small objects are stored in (docs/format.md, "Sealing").

A seal binds bytes to a place: object name or pack and slot go into the additional data, so an object
that was moved, swapped or cut is noticed, also where nothing is encrypted.
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
    """How a repository seals."""

    NONE = 0
    AES_256_GCM = 1


class BoxKind(enum.IntEnum):
    """What a box holds."""

    POINT = 1
    CONDEMNED = 3
    LOCK = 4
    DAMAGED = 5
    VERIFIED = 6
    KEEP = 7


_KINDS = frozenset(BoxKind)


class Seal(Protocol):
    """Seals with one key. Sealed bytes are ``TAG`` longer than the content."""

    def seal(self, nonce: bytes, content: bytes, aad: bytes) -> bytes:
        """Return the sealed ``content``. A nonce is used once per key."""

    def open(self, nonce: bytes, sealed: bytes, aad: bytes) -> bytes:
        """Return the content. Raises DamagedData if key, nonce, aad or a single bit differ."""


class Keys(Protocol):
    """What sealing a pack asks of a key ring (``puller.repository.keys.keyring``)."""

    @property
    def repository_id(self) -> bytes:
        """16 bytes that every seal is bound to."""

    @property
    def cipher(self) -> Cipher:
        """How the repository seals."""

    @property
    def id_key(self) -> bytes:
        """The key of chunk ids."""

    def footer_seal(self) -> Seal:
        """The seal of pack footers."""

    def open_data_key(self, pack_id: bytes, key_box: bytes) -> bytes:
        """The key of a data pack. Raises KeyNotHeld, DamagedData."""

    def map_key(self, pack_id: bytes) -> bytes:
        """The key of a map pack."""


class AesSeal:
    """AES-256-GCM: nobody without the key can read or alter."""

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
    """Keyed BLAKE3: notices accidents, hides nothing."""

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
    """The seal that a repository with ``cipher`` uses under ``key`` (32 bytes)."""
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
        """The box that holds ``content`` as the object ``name``.

        Raises RepositoryError if no reader would take it: it is not to be stored.
        """
        if len(content) > BOX_LIMIT:
            raise RepositoryError(f"{name} of {len(content)} bytes would be larger than a box may hold")
        head = BOX_MAGIC + bytes((BOX_VERSION, kind, self._cipher, 0))
        nonce = os.urandom(NONCE)
        return head + nonce + self._seal.seal(nonce, compression.frame(content), self._aad(head, name))

    def unpack(self, kind: BoxKind, name: str, box: bytes, limit: int = BOX_LIMIT) -> bytes:
        """The content of the object ``name``, at most ``limit`` bytes. Raises DamagedData."""
        head, nonce = box[:8], box[8:BOX_HEADER]
        if len(box) < BOX_HEADER + TAG or head[:4] != BOX_MAGIC:
            raise DamagedData(f"{name} is not an object of puller's")
        if head[4] != BOX_VERSION:
            # No seal vouches for it yet, and a newer format says so in the descriptor, which is read first.
            raise DamagedData(f"{name} has format version {head[4]}; this puller knows {BOX_VERSION}")
        if head != BOX_MAGIC + bytes((BOX_VERSION, kind, self._cipher, 0)) and head[5] in _KINDS:
            raise DamagedData(f"{name} is of another kind than its name says")
        try:
            frame = self._seal.open(nonce, box[BOX_HEADER:], self._aad(head, name))
            if head[5] not in _KINDS:
                # The seal vouches for the kind: a flipped bit must not hide a record.
                raise UnknownKind(f"{name} is of kind {head[5]}, which this puller does not know")
            return compression.unframe(frame, limit)
        except UnknownKind:
            raise
        except DamagedData as error:
            raise DamagedData(f"{name} is damaged: {error.message}") from error
