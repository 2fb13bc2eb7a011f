"""The keys of a repository and their derivation (docs/format.md, "Keys").

All keys follow from the master secret. A host that holds only the backup-only part (id key, metadata key,
public data key) can write and deduplicate, but cannot open any stored chunk of guest data.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from puller.errors import DamagedData, KeyNotHeld
from puller.repository.format.sealing import Boxes, Cipher, Seal, seal_for
from puller.repository.keys import key_box as boxes
from puller.repository.keys.key_box import PUBLIC_KEY

KEY = 32
BACKUP_ONLY_KEYS = 2 * KEY + PUBLIC_KEY
"""Bytes of the content of a backup-only slot."""

NO_KEY_BOX = b""


def derive(secret: bytes, salt: bytes, info: bytes) -> bytes:
    """Derive 32 bytes by HKDF-SHA256 (RFC 5869)."""
    return HKDF(algorithm=SHA256(), length=KEY, salt=salt, info=info).derive(secret)


@dataclass(frozen=True, slots=True)
class KeyRing:
    """The keys one process holds. ``private`` is None for backup-only; both are None without cipher.

    ``private`` is the seed of the data key pair; the keys of data packs are sealed to ``public``. All of them
    are those of the ``family``, the repositories with one master secret.
    """

    repository_id: bytes
    family: bytes
    cipher: Cipher
    id_key: bytes = field(repr=False)
    metadata_key: bytes = field(repr=False)
    public: bytes | None = None
    private: bytes | None = field(default=None, repr=False)

    @classmethod
    def from_master(cls, repository_id: bytes, family: bytes, master: bytes) -> KeyRing:
        """Return all keys of a master secret. Raises UnsupportedFormat if this build lacks an algorithm."""
        private = derive(master, family, b"puller v1 data")
        return cls(
            repository_id,
            family,
            Cipher.AES_256_GCM,
            derive(master, family, b"puller v1 chunk id"),
            derive(master, family, b"puller v1 metadata"),
            boxes.public_key(private),
            private,
        )

    @classmethod
    def from_backup_only(cls, repository_id: bytes, family: bytes, content: bytes) -> KeyRing:
        """Return the keys of a backup-only slot. Raises UnsupportedFormat, DamagedData."""
        parts = content[:KEY], content[KEY : 2 * KEY], content[2 * KEY :]
        boxes.require_usable(parts[2])
        return cls(repository_id, family, Cipher.AES_256_GCM, *parts)

    @classmethod
    def unencrypted(cls, repository_id: bytes, family: bytes) -> KeyRing:
        """Return the public keys of a repository without encryption."""
        return cls(
            repository_id,
            family,
            Cipher.NONE,
            derive(family, family, b"puller v1 chunk id"),
            derive(family, family, b"puller v1 metadata"),
        )

    def backup_only(self) -> bytes:
        """Return the content of a backup-only slot."""
        assert self.public is not None
        return self.id_key + self.metadata_key + self.public

    def seals_like(self, other: KeyRing) -> bool:
        """Return whether what these keys seal opens with the ``other`` ones, and equal contents have equal
        ids.
        """
        mine, others = (
            (ring.family, ring.cipher, ring.id_key, ring.metadata_key, ring.public) for ring in (self, other)
        )
        return mine == others

    @property
    def can_read_data(self) -> bool:
        """Whether these keys can open stored guest data."""
        return self.cipher is Cipher.NONE or self.private is not None

    def require_guest_data(self) -> None:
        """Raise KeyNotHeld if these keys cannot open stored guest data."""
        if not self.can_read_data:
            raise KeyNotHeld("cannot read stored guest data with this key: its role is backup-only")

    def boxes(self) -> Boxes:
        """The boxes of the repository."""
        return Boxes(self.repository_id, self.cipher, self.metadata_key)

    def footer_seal(self) -> Seal:
        """The seal of pack footers."""
        return seal_for(self.cipher, self.metadata_key)

    def new_data_key(self, pack_id: bytes) -> tuple[bytes, bytes]:
        """Return a random key for a data pack, and the key box with it for holders of the private key."""
        if self.public is None:
            return b"", NO_KEY_BOX
        pack_key = os.urandom(KEY)
        return pack_key, boxes.seal(self.public, pack_key, self._box_info(pack_id))

    def _box_info(self, pack_id: bytes) -> bytes:
        return b"puller v1 pack key" + self.family + pack_id

    def open_data_key(self, pack_id: bytes, key_box: bytes) -> bytes:
        """Return the key of a data pack. Raises KeyNotHeld with a backup-only ring, DamagedData."""
        if self.private is None:
            raise KeyNotHeld("cannot read stored guest data with this key: its role is backup-only")
        try:
            return boxes.open_box(self.private, key_box, self._box_info(pack_id))
        except DamagedData as error:
            raise DamagedData(f"cannot open the key box of pack {pack_id.hex()}: {error.message}") from error

    def seal_guest_data(self, content: bytes, info: bytes) -> bytes:
        """Return ``content`` sealed for holders of the private key; ``info`` is its place."""
        return content if self.public is None else boxes.seal(self.public, content, info)

    def open_guest_data(self, sealed: bytes, info: bytes) -> bytes:
        """Undo ``seal_guest_data``. Raises KeyNotHeld with a backup-only ring, DamagedData."""
        if self.public is None:
            return sealed
        if self.private is None:
            raise KeyNotHeld("cannot read stored guest data with this key: its role is backup-only")
        return boxes.open_box(self.private, sealed, info)

    def map_key(self, pack_id: bytes) -> bytes:
        """Return the key of a map pack."""
        return derive(self.metadata_key, pack_id, b"puller v1 map pack")
