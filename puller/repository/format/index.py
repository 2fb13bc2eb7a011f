"""Index objects: the stored packs, and the pack in which to look for an id (docs/format.md, "Index").

::

    | header 40 | sealed table of packs | block of 512 rows | block | …        rows ascend by id

They are never needed for a restore, and never trusted without a pack's footer: an index may be missing, have
duplicate entries, or be rebuilt from the packs at any time.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from puller.errors import DamagedData
from puller.repository.format import compression
from puller.repository.format.footer import DEAD, MAX_SLOTS, Footer, Ids
from puller.repository.format.packname import ID, PackKind
from puller.repository.format.pages import from_planes, planes
from puller.repository.format.sealing import NONCE, TAG, Keys
from puller.units import MIB

INDEX_PREFIX = "index/"
HEADER = 40
MAX_PACKS = 1 << 16
MAX_ROWS = 1 << 24
TABLE_LIMIT = 16 * MIB
BLOCK_ROWS = 512
LIMIT = HEADER + TABLE_LIMIT + MAX_ROWS * 9
"""Upper bound for the bytes of an index object."""

_MAGIC = b"PULLERIX"
_VERSION = 1
_HEADER = struct.Struct("<8sHBBIQI12s")
_ROW = 8
_KINDS = {kind.value: kind for kind in PackKind}
_COLUMNS = ("<u1", "<u4", "<u8", "<u4", "<u4")
_ENTRY = ID + sum(np.dtype(form).itemsize for form in _COLUMNS)

IndexRows = NDArray[np.uint64]
"""Ascending: 48 bits of an id above 16 bits of its pack's position in the table."""


@dataclass(frozen=True)
class IndexedPack:
    """A pack to be indexed; ``size`` is the object's of this ``generation``, in bytes."""

    kind: PackKind
    pack_id: bytes
    size: int
    footer: Footer
    generation: int = 0


class PackEntry(NamedTuple):
    """Entry of a pack in an index: bit k of ``dead`` stands for slot k of the ``slots``."""

    kind: PackKind
    pack_id: bytes
    generation: int
    size: int
    slots: int
    dead: int

    @property
    def present(self) -> int:
        """The set of the slots that are not dead."""
        return (1 << self.slots) - 1 & ~self.dead

    @classmethod
    def of(cls, pack: IndexedPack) -> PackEntry:
        """Return the entry of ``pack``."""
        bits = np.packbits(pack.footer.flags & DEAD != 0, bitorder="little").tobytes()
        dead = int.from_bytes(bits, "little")
        return cls(pack.kind, pack.pack_id, pack.generation, pack.size, pack.footer.count, dead)


@dataclass(frozen=True, slots=True)
class IndexPart:
    """Packs, and rows for some of the ids in them."""

    packs: Sequence[PackEntry]
    rows: IndexRows

    @classmethod
    def of(cls, packs: Iterable[IndexedPack]) -> IndexPart:
        """Return the part of an index for ``packs``."""
        named = list(packs)
        parts = [
            id_bits(pack.footer.ids[pack.footer.flags & DEAD == 0]) | np.uint64(place)
            for place, pack in enumerate(named)
        ]
        return cls([PackEntry.of(pack) for pack in named], _ascending(parts))

    @classmethod
    def join(cls, parts: Sequence[IndexPart]) -> IndexPart:
        """Join the packs of all parts, in order, with all rows."""
        first, rows = 0, []
        for part in parts:
            rows.append(part.rows + np.uint64(first))
            first += len(part.packs)
        return cls([pack for part in parts for pack in part.packs], _ascending(rows))

    def only(self, kept: NDArray[np.bool_]) -> IndexPart:
        """Return the part without the packs for which ``kept`` is false, and without their rows."""
        places = place_of(self.rows)
        numbers = (np.cumsum(kept) - 1).astype(np.int64)
        chosen = kept[places]
        rows = self.rows[chosen] & ~np.uint64(MAX_PACKS - 1) | numbers[places[chosen]].astype(np.uint64)
        return IndexPart([pack for pack, keep in zip(self.packs, kept, strict=True) if keep], rows)


def place_of(rows: IndexRows) -> NDArray[np.int64]:
    """Return for each row the position of its pack in the table."""
    return (rows & np.uint64(MAX_PACKS - 1)).astype(np.int64)


def _ascending(parts: Sequence[IndexRows]) -> IndexRows:
    rows = np.concatenate([np.zeros(0, np.uint64), *parts])
    rows.sort()
    return rows


def id_bits(ids: Ids) -> IndexRows:
    """Return the first 6 bytes of each id as the upper bits of a number; the lower 16 bits are zero."""
    numbers = np.ascontiguousarray(ids).view(">u8").reshape(-1, 2)[:, 0].astype(np.uint64)
    return numbers & ~np.uint64(MAX_PACKS - 1)


@dataclass(frozen=True, slots=True)
class IndexHead:
    """Header of an index object."""

    header: bytes
    packs: int
    rows: int
    table_length: int
    nonce: bytes

    @property
    def blocks_at(self) -> int:
        """Offset of the blocks."""
        return HEADER + self.table_length

    @property
    def size(self) -> int:
        """Bytes of the object."""
        return self.end_of(self.rows)

    def end_of(self, rows: int) -> int:
        """Return the end of the block that has the last of the first ``rows`` rows."""
        blocks = -(-rows // BLOCK_ROWS)
        held = min(self.rows, blocks * BLOCK_ROWS)
        return self.blocks_at + blocks * (NONCE + TAG) + held * _ROW


def encode(keys: Keys, name: str, part: IndexPart) -> bytes:
    """Return the content of the index object ``name`` for ``part``."""
    table, nonce = compression.frame(_encode_table(part.packs)), os.urandom(NONCE)
    header = _HEADER.pack(
        _MAGIC, _VERSION, keys.cipher, 0, len(part.packs), len(part.rows), len(table) + TAG, nonce
    )
    seal, pieces = keys.footer_seal(), [header]
    pieces.append(seal.seal(nonce, table, _table_aad(keys, name, header)))
    for number, first in enumerate(range(0, len(part.rows), BLOCK_ROWS)):
        content, nonce = part.rows[first : first + BLOCK_ROWS].astype("<u8").tobytes(), os.urandom(NONCE)
        pieces += nonce, seal.seal(nonce, content, _block_aad(keys, name, number))
    return b"".join(pieces)


def _table_aad(keys: Keys, name: str, header: bytes) -> bytes:
    return b"puller index" + keys.repository_id + header + name.encode()


def _block_aad(keys: Keys, name: str, number: int) -> bytes:
    return b"puller index block" + keys.repository_id + number.to_bytes(4, "little") + name.encode()


def _encode_table(packs: Sequence[PackEntry]) -> bytes:
    sets = [pack.dead.to_bytes(-(-pack.dead.bit_length() // 8), "little") for pack in packs]
    numbers = (
        [pack.kind for pack in packs],
        [pack.generation for pack in packs],
        [pack.size for pack in packs],
        [pack.slots for pack in packs],
        [len(dead) for dead in sets],
    )
    columns = (planes(np.array(column, form)) for column, form in zip(numbers, _COLUMNS, strict=True))
    return b"".join([*(pack.pack_id for pack in packs), *columns, *sets])


def decode_head(keys: Keys, name: str, start: bytes) -> IndexHead:
    """Parse the first bytes of the object ``name``. Raises DamagedData."""
    if len(start) < HEADER or start[:8] != _MAGIC:
        raise DamagedData(f"{name} is not an index of puller's")
    _, version, cipher, _, packs, rows, length, nonce = _HEADER.unpack_from(start)
    if version != _VERSION:
        # It is not authenticated yet; a newer format says so in the descriptor, which is read first.
        raise DamagedData(f"{name} has format version {version}; this puller supports {_VERSION}")
    if cipher != keys.cipher or packs > MAX_PACKS or rows > MAX_ROWS or not TAG < length <= TABLE_LIMIT:
        raise DamagedData(f"{name} has an invalid header")
    return IndexHead(start[:HEADER], packs, rows, length, nonce)


def decode_table(keys: Keys, name: str, head: IndexHead, start: bytes) -> list[PackEntry]:
    """Parse the table of packs; ``start`` reaches at least to the blocks. Raises DamagedData."""
    sealed = start[HEADER : head.blocks_at]
    try:
        content = keys.footer_seal().open(head.nonce, sealed, _table_aad(keys, name, head.header))
        return list(_entries(compression.unframe(content, TABLE_LIMIT), head.packs))
    except DamagedData as error:
        raise DamagedData(f"{name} is damaged: {error.message}") from error


def _entries(content: bytes, count: int) -> Iterator[PackEntry]:
    if len(content) < _ENTRY * count:
        raise DamagedData("its table is truncated")
    at, columns = ID * count, []
    for form in _COLUMNS:
        width = np.dtype(form).itemsize * count
        columns.append(from_planes(content[at : at + width], np.dtype(form).itemsize).tolist())
        at += width
    if len(content) - at != sum(columns[-1]):
        raise DamagedData("its table has a wrong length")
    for place, (kind, generation, size, slots, length) in enumerate(zip(*columns, strict=True)):
        dead = int.from_bytes(content[at : at + length], "little") if length else 0
        at += length
        if kind not in _KINDS or slots > MAX_SLOTS or dead.bit_length() > slots:
            raise DamagedData("its table describes an impossible pack")
        pack_id = content[ID * place : ID * (place + 1)]
        yield PackEntry(_KINDS[kind], pack_id, generation, size, slots, dead)


def decode_rows(keys: Keys, name: str, head: IndexHead, start: bytes) -> IndexRows:
    """Parse the rows in the complete blocks of ``start``, the first bytes of the object.

    Raises DamagedData.
    """
    seal, at, parts = keys.footer_seal(), head.blocks_at, []
    for number, first in enumerate(range(0, head.rows, BLOCK_ROWS)):
        end = head.end_of(first + 1)
        if end > len(start):
            break
        nonce, sealed = start[at : at + NONCE], start[at + NONCE : end]
        try:
            parts.append(seal.open(nonce, sealed, _block_aad(keys, name, number)))
        except DamagedData as error:
            raise DamagedData(f"block {number} of {name} is damaged: {error.message}") from error
        at = end
    rows = np.frombuffer(b"".join(parts), "<u8").astype(np.uint64, copy=False)
    if len(rows) and int(place_of(rows).max()) >= head.packs:
        raise DamagedData(f"{name} refers to a pack that it does not list")
    if (rows[1:] < rows[:-1]).any():
        raise DamagedData(f"the rows of {name} are not in order")
    return rows
