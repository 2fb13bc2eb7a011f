"""One slot of a pack: content -> id, compressed, sealed; and back, verified (docs/format.md, "Slot")."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from puller.errors import DamagedData
from puller.repository.format import compression
from puller.repository.format.compression import Content
from puller.repository.format.footer import COMPRESSED, Footer, Origins, SealedPack
from puller.repository.format.packname import ID, PackKind
from puller.repository.format.sealing import TAG, Cipher, Keys
from puller.units import CHUNK


def content_id(id_key: bytes, content: Content) -> bytes:
    """Return the keyed BLAKE3 of the plain content, 16 bytes."""
    return blake3(content, key=id_key).digest(ID)


def compress(contents: Sequence[Content], level: int) -> list[tuple[Content, int]]:
    """Return for each content the bytes to seal and their flags: a zstd frame, or itself if not longer."""
    framed = compression.frames(contents, level)
    return [
        (frame, COMPRESSED) if len(frame) < len(content) else (content, 0)
        for content, frame in zip(contents, framed, strict=True)
    ]


class Piece(NamedTuple):
    """Content for a slot: its id, the bytes to seal, their flags. With an ``origin``, the slot of a pack, the
    bytes are sealed already.
    """

    content_id: bytes
    content: Content
    flags: int
    origin: tuple[SealedPack, int] | None = None


class SlotCipher:
    """Seals and opens the slots of one pack. ``overhead`` is the bytes that sealing adds to each slot."""

    def __init__(self, keys: Keys, pack_id: bytes, pack_key: bytes) -> None:
        self._aes = AESGCM(pack_key) if keys.cipher is Cipher.AES_256_GCM else None
        self._place = b"puller slot" + keys.family + pack_id
        self.overhead = TAG if self._aes else 0

    def seal_into(self, slot: int, content: Content, target: memoryview) -> None:
        """Write the sealed ``content`` to ``target``, which is ``overhead`` bytes longer."""
        if self._aes is None:
            target[:] = content
        else:
            number = slot.to_bytes(4, "little")
            self._aes.encrypt_into(number + bytes(8), content, self._place + number, target)

    def open(self, slot: int, stored: Content) -> Content:
        """Return the bytes that were sealed. Raises DamagedData."""
        if self._aes is None:
            return stored
        number = slot.to_bytes(4, "little")
        try:
            return self._aes.decrypt(number + bytes(8), stored, self._place + number)
        except (InvalidTag, ValueError) as error:
            raise DamagedData("the seal does not match the content") from error


class SealedSlots:
    """Slots that are stored as other packs sealed them, or are not sealed at all."""

    overhead = 0

    def seal_into(self, slot: int, content: Content, target: memoryview) -> None:
        """Write ``content``, which is sealed, to ``target``."""
        target[:] = content


class _OriginCiphers:
    """Opens slots that other packs sealed. Raises KeyNotHeld if the keys may not."""

    def __init__(self, keys: Keys, origins: Origins) -> None:
        self._keys = keys
        self._origins = origins
        self._opened: dict[bytes, SlotCipher] = {}

    def open(self, slot: int, stored: Content) -> Content:
        """See ``SlotCipher.open``."""
        pack, number = self._origins.of(slot)
        cipher = self._opened.get(pack.pack_id)
        if cipher is None:
            key = self._keys.open_data_key(pack.pack_id, pack.key_box)
            cipher = self._opened[pack.pack_id] = SlotCipher(self._keys, pack.pack_id, key)
        return cipher.open(number, stored)


def _cipher_of(keys: Keys, kind: PackKind, pack_id: bytes, footer: Footer) -> SlotCipher | _OriginCiphers:
    if keys.cipher is Cipher.NONE:
        return SlotCipher(keys, pack_id, b"")
    if kind is PackKind.MAP:
        return SlotCipher(keys, pack_id, keys.map_key(pack_id))
    if footer.origins is not None:
        return _OriginCiphers(keys, footer.origins)
    return SlotCipher(keys, pack_id, keys.open_data_key(pack_id, footer.key_box))


class SlotReader:
    """Reads verified contents from one stored pack. Raises KeyNotHeld if the keys do not open it."""

    def __init__(self, keys: Keys, kind: PackKind, pack_id: bytes, footer: Footer) -> None:
        self._id_key = keys.id_key
        self._kind = kind
        self._footer = footer
        self._cipher = _cipher_of(keys, kind, pack_id, footer)

    def content(self, slot: int, stored: Content) -> bytes:
        """Return the content of ``slot`` from its stored bytes. Raises DamagedData with the reason."""
        if self._footer.is_dead(slot):
            raise DamagedData(f"slot {slot} was removed by prune")
        try:
            content = self._plain(slot, self._cipher.open(slot, stored))
        except DamagedData as error:
            raise DamagedData(f"slot {slot}: {error.message}") from error
        if content_id(self._id_key, content) != self._footer.slot_id(slot):
            raise DamagedData(f"slot {slot}: the content does not match its id in the footer")
        return content

    def _plain(self, slot: int, opened: Content) -> bytes:
        limit = self._kind.content_limit
        compressed = self._footer.flags[slot] & COMPRESSED
        content = compression.unframe(memoryview(opened), limit) if compressed else bytes(opened)
        if self._kind is PackKind.DATA and len(content) != CHUNK:
            raise DamagedData(f"a chunk of {len(content)} bytes")
        return content


class SealedSlotReader:
    """Takes slots of a stored data pack as they are, for another repository of its family.

    They are verified if the keys open them: a backup-only key does not.
    """

    def __init__(self, keys: Keys, pack_id: bytes, footer: Footer) -> None:
        self._is_sealed = keys.cipher is not Cipher.NONE
        self._own = SealedPack(pack_id, footer.key_box)
        self._footer = footer
        self._reader = SlotReader(keys, PackKind.DATA, pack_id, footer) if keys.can_read_data else None

    def piece(self, slot: int, stored: Content) -> Piece:
        """Return ``slot`` as it is stored. Raises DamagedData with the reason."""
        if self._footer.is_dead(slot):
            raise DamagedData(f"slot {slot} was removed by prune")
        if self._reader is not None:
            self._reader.content(slot, stored)
        flags = int(self._footer.flags[slot])
        return Piece(
            self._footer.slot_id(slot), stored, flags, self._origin(slot) if self._is_sealed else None
        )

    def _origin(self, slot: int) -> tuple[SealedPack, int]:
        return (self._own, slot) if self._footer.origins is None else self._footer.origins.of(slot)
