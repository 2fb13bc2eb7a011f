"""The footer and trailer of a pack (docs/format.md, "Pack").

::

    | slot 0 | slot 1 | … | slot n-1 |   sealed footer   | trailer 48 |
    0                                 size-48-F       size-48       size
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from puller.errors import DamagedData
from puller.repository.format import compression
from puller.repository.format.packname import ID, PackKind
from puller.repository.format.sealing import NONCE, TAG, Keys
from puller.units import GIB, MIB

TRAILER = 48
VERSION = 1
MAX_SLOTS = 65536
PACK_LIMIT = GIB
FOOTER_LIMIT = 4 * MIB
COMPRESSED = 1
DEAD = 0x80

_MAGIC = b"PULLERPK"
_TRAILER = struct.Struct("<8sHBBII12s16s")
_BOX_LENGTH = struct.Struct("<H")
_ROW = ID + 4 + 1

Ids = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class SealedPack:
    """The pack in which a slot was sealed: its id, and the key box that opens its slots."""

    pack_id: bytes
    key_box: bytes


@dataclass(frozen=True, slots=True)
class Origins:
    """Where the n slots of a pack were sealed, if not in this pack: ``packs``, and for each slot ``places``
    (n,), its pack's place among these, and ``slots`` (n,), its number there.
    """

    packs: tuple[SealedPack, ...]
    places: NDArray[np.uint16]
    slots: NDArray[np.uint16]

    def of(self, slot: int) -> tuple[SealedPack, int]:
        """Return where ``slot`` was sealed: the pack, and the number of the slot in it."""
        return self.packs[self.places[slot]], int(self.slots[slot])

    def encode(self) -> bytes:
        """Return the end of a footer's plain content."""
        heads = [pack.pack_id + _BOX_LENGTH.pack(len(pack.key_box)) + pack.key_box for pack in self.packs]
        columns = self.places.astype("<u2").tobytes() + self.slots.astype("<u2").tobytes()
        return _BOX_LENGTH.pack(len(self.packs)) + b"".join(heads) + columns

    @classmethod
    def decode(cls, content: bytes, at: int, count: int) -> Origins:
        """Parse the ``content`` from ``at`` on. Raises DamagedData."""
        try:
            (left,) = _BOX_LENGTH.unpack_from(content, at)
            at += _BOX_LENGTH.size
            packs = []
            for _ in range(left):
                (box,) = _BOX_LENGTH.unpack_from(content, at + ID)
                begin = at + ID + _BOX_LENGTH.size
                packs.append(SealedPack(content[at : at + ID], content[begin : begin + box]))
                at = begin + box
        except struct.error as error:
            raise DamagedData("a footer is truncated") from error
        if at + 4 * count != len(content):
            raise DamagedData(f"a footer of {len(content)} bytes cannot say where {count} slots were sealed")
        places = np.frombuffer(content, "<u2", count, at)
        if count and int(np.max(places)) >= len(packs):
            raise DamagedData("a footer names an origin that it does not have")
        return cls(tuple(packs), places, np.frombuffer(content, "<u2", count, at + 2 * count))


@dataclass(frozen=True)
class Footer:
    """Table of a pack's n slots: ``ids`` (n, 16), ``lengths`` (n,) in bytes, ``flags`` (n,). ``origins`` is
    None if they were sealed in this pack.
    """

    key_box: bytes
    ids: Ids
    lengths: NDArray[np.uint32]
    flags: NDArray[np.uint8]
    origins: Origins | None = None
    offsets: NDArray[np.int64] = field(init=False)
    """(n + 1,): where each slot begins in the object, and where the last one ends."""

    def __post_init__(self) -> None:
        """Find the offsets at once: a footer is shared by threads (see ``Scoped`` for what a cache costs)."""
        ends = np.cumsum(self.lengths, dtype=np.int64)
        object.__setattr__(self, "offsets", np.concatenate([np.zeros(1, np.int64), ends]))

    @property
    def count(self) -> int:
        """Number of slots, dead ones included."""
        return len(self.flags)

    def slot_id(self, slot: int) -> bytes:
        """Return the id of the content of ``slot``."""
        return bytes(self.ids[slot])

    def is_dead(self, slot: int) -> bool:
        """Return whether prune has removed ``slot``."""
        return bool(self.flags[slot] & DEAD)

    def encode(self) -> bytes:
        """Return the plain content: 2 + length of the key box + 21 × n bytes, and the origins."""
        columns = self.ids.astype(np.uint8), self.lengths.astype("<u4"), self.flags.astype(np.uint8)
        box = _BOX_LENGTH.pack(len(self.key_box)) + self.key_box
        table = box + b"".join(column.tobytes() for column in columns)
        return table if self.origins is None else table + self.origins.encode()

    @classmethod
    def decode(cls, content: bytes, count: int) -> Footer:
        """Parse the plain content. Raises DamagedData."""
        if len(content) < _BOX_LENGTH.size:
            raise DamagedData("a footer is truncated")
        at = _BOX_LENGTH.size + int(_BOX_LENGTH.unpack_from(content)[0])
        end = at + _ROW * count
        if count > MAX_SLOTS or len(content) < end:
            raise DamagedData(f"a footer of {len(content)} bytes cannot describe {count} slots")
        ids = np.frombuffer(content, np.uint8, ID * count, at).reshape(count, ID)
        lengths = np.frombuffer(content, "<u4", count, at + ID * count)
        flags = np.frombuffer(content, np.uint8, count, at + (ID + 4) * count)
        if int(lengths.sum(dtype=np.int64)) > PACK_LIMIT:
            raise DamagedData("a footer describes more bytes than a pack can have")
        origins = Origins.decode(content, end, count) if len(content) > end else None
        return cls(content[_BOX_LENGTH.size : at], ids, lengths, flags, origins)


@dataclass(frozen=True, slots=True)
class Trailer:
    """The fixed end of a pack."""

    kind: PackKind
    cipher: int
    count: int
    footer_length: int
    nonce: bytes
    pack_id: bytes

    def encode(self) -> bytes:
        """Return the trailer, 48 bytes."""
        return _TRAILER.pack(
            _MAGIC, VERSION, self.kind, self.cipher, self.count, self.footer_length, self.nonce, self.pack_id
        )


def _footer_aad(keys: Keys, trailer: bytes) -> bytes:
    return b"puller footer" + keys.repository_id + trailer


def encode_tail(keys: Keys, kind: PackKind, pack_id: bytes, footer: Footer) -> bytes:
    """Return the sealed footer and the trailer, which follow the slots."""
    content = compression.frame(footer.encode())
    nonce = os.urandom(NONCE)
    trailer = Trailer(kind, keys.cipher, footer.count, len(content) + TAG, nonce, pack_id).encode()
    return keys.footer_seal().seal(nonce, content, _footer_aad(keys, trailer)) + trailer


def decode_trailer(tail: bytes, kind: PackKind, pack_id: bytes) -> Trailer:
    """Parse the last 48 bytes of ``tail``. Raises DamagedData."""
    name = kind.object_name(pack_id)
    if len(tail) < TRAILER:
        raise DamagedData(f"{name} is truncated: {len(tail)} bytes are left")
    magic, version, found_kind, cipher, count, length, nonce, found_id = _TRAILER.unpack(tail[-TRAILER:])
    if magic != _MAGIC:
        raise DamagedData(f"{name} is truncated or overwritten: it has no trailer")
    if version != VERSION:
        # It is not authenticated yet; a newer format says so in the descriptor, which is read first.
        raise DamagedData(f"{name} has format version {version}; this puller supports {VERSION}")
    if found_kind != kind or found_id != pack_id:
        raise DamagedData(f"{name} holds a different pack than its name says")
    if not TAG < length <= FOOTER_LIMIT or count > MAX_SLOTS:
        raise DamagedData(f"{name} has an invalid trailer")
    return Trailer(kind, cipher, count, length, nonce, pack_id)


def decode_footer(keys: Keys, trailer: Trailer, sealed: bytes) -> Footer:
    """Open and parse a sealed footer. Raises DamagedData."""
    name = trailer.kind.object_name(trailer.pack_id)
    if trailer.cipher != keys.cipher:
        raise DamagedData(f"{name} has another cipher than its repository")
    try:
        content = keys.footer_seal().open(trailer.nonce, sealed, _footer_aad(keys, trailer.encode()))
        footer = Footer.decode(compression.unframe(content, FOOTER_LIMIT), trailer.count)
        # Slots are raw if compression does not help, so none is longer than its content. A reader
        # takes a whole slot into memory.
        if footer.count and int(np.max(footer.lengths)) > trailer.kind.content_limit + TAG:
            raise DamagedData("it describes a slot that is longer than its content can be")
        return footer
    except DamagedData as error:
        raise DamagedData(f"the footer of {name} is damaged: {error.message}") from error
