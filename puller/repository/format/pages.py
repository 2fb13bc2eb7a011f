"""Map pages and roots: which (pack, slot) holds each chunk of a disk (docs/format.md, "Map").

In memory a page is two columns of numbers (packs are numbers of a PackTable), so that overlaying and
comparing are array operations.
"""

from __future__ import annotations

import struct
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from puller.errors import DamagedData
from puller.repository.format.packname import ID
from puller.units import PAGE_CHUNKS, TIB, chunk_count, page_count

ZERO = -1
"""Pack number for content of zero bytes only."""

_PAGE_HEAD = struct.Struct("<4sHH")
_ROOT_HEAD = struct.Struct("<4sIQ")
_PAGE_INDEX = 2
_ROOT_INDEX = 4
"""Bytes of an entry of the index into the packs."""

LARGEST_DISK = 256 * TIB
"""Bytes. The root of a larger disk might not fit into a slot, which a run would notice only at its end."""

Numbers = NDArray[np.int64]
Slots = NDArray[np.uint16]


class PackTable:
    """Numbers for the pack ids of one process. Safe for many threads."""

    def __init__(self) -> None:
        self._ids: list[bytes] = []
        self._numbers: dict[bytes, int] = {}
        self._lock = threading.Lock()

    def number(self, pack_id: bytes) -> int:
        """Return the number of ``pack_id``, a new one if necessary."""
        known = self._numbers.get(pack_id)
        if known is not None:
            return known
        with self._lock:
            if pack_id not in self._numbers:
                self._ids.append(pack_id)
                self._numbers[pack_id] = len(self._ids) - 1
            return self._numbers[pack_id]

    def pack_id(self, number: int) -> bytes:
        """Return the id with ``number``."""
        return self._ids[number]


@dataclass(frozen=True, slots=True)
class Refs:
    """Two columns of equal length: pack numbers (ZERO for zero content) and slots."""

    packs: Numbers
    slots: Slots

    @classmethod
    def zeros(cls, count: int) -> Refs:
        """Return ``count`` references to zero bytes."""
        return cls(np.full(count, ZERO, np.int64), np.zeros(count, np.uint16))

    def resized(self, count: int) -> Refs:
        """Return a copy of the first ``count`` references, or of all plus zeros up to ``count``."""
        refs = Refs.zeros(count)
        kept = min(count, len(self.packs))
        refs.packs[:kept], refs.slots[:kept] = self.packs[:kept], self.slots[:kept]
        return refs

    @property
    def is_zero(self) -> bool:
        """Return whether all references are to zero bytes."""
        return bool((self.packs == ZERO).all())


def _places(packs: Numbers) -> tuple[list[int], list[int], NDArray[np.intp]]:
    """Numbers of packs in order of first use; for each run of equal entries its pack's place among them,
    from 1; for each entry its run."""
    begins = np.ones(len(packs), np.bool_)
    np.not_equal(packs[1:], packs[:-1], out=begins[1:])
    places: dict[int, int] = {}
    # Neighbours mostly share a pack, so there are few runs; np.unique sorts every entry, ten times as slow.
    runs = [places.setdefault(number, len(places) + 1) for number in packs[begins].tolist()]
    return list(places), runs, begins.cumsum() - 1


def planes(column: NDArray[Any]) -> bytes:
    """All lowest bytes of a little-endian column, then the next ones: most of the higher ones are equal."""
    return column.view(np.uint8).reshape(-1, column.itemsize).T.tobytes()


def from_planes(content: bytes, width: int) -> NDArray[Any]:
    """The column whose planes these are."""
    rows = np.frombuffer(content, np.uint8).reshape(width, -1)
    column = np.empty(rows.shape[1], f"<u{width}")
    single = column.view(np.uint8)
    for place in range(width):  # half the time of a transposed copy
        single[place::width] = rows[place]
    return column


def _encode(refs: Refs, table: PackTable, width: int) -> tuple[int, bytes]:
    """Number of packs, and the references as stored: pack ids, index, steps (docs/format.md)."""
    (present,) = (refs.packs != ZERO).nonzero()
    used, runs, run_of = _places(refs.packs[present])
    places = np.array(runs, f"<u{width}")[run_of]
    index = np.zeros(len(refs.packs), places.dtype)
    index[present] = places
    slots = refs.slots[present[places.argsort(kind="stable")]].astype("<u2")
    steps = slots.copy()
    steps[1:] -= slots[:-1]
    return len(used), b"".join(map(table.pack_id, used)) + planes(index) + planes(steps)


def _decode(body: bytes, packs: int, count: int, width: int, table: PackTable) -> Refs:
    """Parse ``count`` references to slots of ``packs`` packs. Raises DamagedData."""
    steps_at = ID * packs + width * count
    if len(body) < steps_at:
        raise DamagedData("a map is truncated")
    index = from_planes(body[ID * packs : steps_at], width)
    (present,) = index.nonzero()
    places = index[present]
    if len(body) != steps_at + 2 * len(present):
        raise DamagedData("a map does not have the length that its index requires")
    if len(present) and int(places.max()) > packs:
        raise DamagedData("a map refers to a pack that it does not list")
    numbers = [table.number(body[at : at + ID]) for at in range(0, ID * packs, ID)]
    refs = Refs.zeros(count)
    refs.packs[present] = np.array([ZERO, *numbers], np.int64)[places]
    refs.slots[present[places.argsort(kind="stable")]] = from_planes(body[steps_at:], 2).cumsum(
        dtype=np.uint16
    )
    return refs


def encode_page(refs: Refs, table: PackTable) -> bytes:
    """Return the content of a page. Equal references give equal bytes, so equal pages are stored once."""
    packs, body = _encode(refs, table, _PAGE_INDEX)
    return _PAGE_HEAD.pack(b"PAGE", packs, len(refs.packs)) + body


def decode_page(content: bytes, table: PackTable, count: int) -> Refs:
    """Parse a page of ``count`` chunks. Raises DamagedData."""
    if len(content) < _PAGE_HEAD.size:
        raise DamagedData("a map page is truncated")
    magic, packs, chunks = _PAGE_HEAD.unpack_from(content)
    if magic != b"PAGE" or chunks != count or packs > chunks:
        raise DamagedData("a map page has an invalid form")
    return _decode(content[_PAGE_HEAD.size :], packs, chunks, _PAGE_INDEX, table)


@dataclass(frozen=True, slots=True)
class Root:
    """One disk: its size in bytes, and the address of each page."""

    size: int
    pages: Refs


def chunks_in_page(size: int, page: int) -> int:
    """Return the number of chunks in page number ``page`` of a disk of ``size`` bytes."""
    return min(PAGE_CHUNKS, chunk_count(size) - page * PAGE_CHUNKS)


def encode_root(root: Root, table: PackTable) -> bytes:
    """Return the content of a root."""
    packs, body = _encode(root.pages, table, _ROOT_INDEX)
    return _ROOT_HEAD.pack(b"ROOT", packs, root.size) + body


def decode_root(content: bytes, table: PackTable) -> Root:
    """Parse a root. Raises DamagedData."""
    if len(content) < _ROOT_HEAD.size:
        raise DamagedData("a map root is truncated")
    magic, packs, size = _ROOT_HEAD.unpack_from(content)
    pages = page_count(size)
    if magic != b"ROOT" or packs > pages:
        raise DamagedData("a map root has an invalid form")
    return Root(size, _decode(content[_ROOT_HEAD.size :], packs, pages, _ROOT_INDEX, table))
