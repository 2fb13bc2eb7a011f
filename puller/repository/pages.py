"""Map pages and roots: which (pack, slot) holds each chunk of a disk (docs/format.md, "Map").

In memory a page is two columns of numbers, the packs being numbers of a PackTable, so that overlaying
and comparing is array arithmetic.
"""

from __future__ import annotations

import struct
import threading
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from puller.errors import DamagedData
from puller.repository.footer import ID
from puller.units import PAGE_CHUNKS, chunk_count, page_count

ZERO = -1
"""Pack number that says "nothing but zero bytes"."""

_PAGE_ZERO = 0xFFFF
_ROOT_ZERO = 0xFFFFFFFF
_PAGE_HEAD = struct.Struct("<4sHH")
_ROOT_HEAD = struct.Struct("<4sIQ")

Numbers = NDArray[np.int64]
Slots = NDArray[np.uint16]


class Address(NamedTuple):
    """Where a content is stored."""

    pack: bytes
    slot: int


class PackTable:
    """Numbers for the pack ids that one process meets. Safe for many threads."""

    def __init__(self) -> None:
        self._ids: list[bytes] = []
        self._numbers: dict[bytes, int] = {}
        self._lock = threading.Lock()

    def number(self, pack_id: bytes) -> int:
        """The number of ``pack_id``, a new one if need be."""
        known = self._numbers.get(pack_id)
        if known is not None:
            return known
        with self._lock:
            if pack_id not in self._numbers:
                self._ids.append(pack_id)
                self._numbers[pack_id] = len(self._ids) - 1
            return self._numbers[pack_id]

    def pack_id(self, number: int) -> bytes:
        """The id that has ``number``."""
        return self._ids[number]


@dataclass(frozen=True, slots=True)
class Refs:
    """Two columns of equal length: pack numbers (ZERO for zero content) and slots."""

    packs: Numbers
    slots: Slots

    @classmethod
    def zeros(cls, count: int) -> Refs:
        """``count`` references to nothing but zero bytes."""
        return cls(np.full(count, ZERO, np.int64), np.zeros(count, np.uint16))

    @property
    def is_zero(self) -> bool:
        """Whether all of it is zero."""
        return bool((self.packs == ZERO).all())


def _intern(packs: Numbers, table: PackTable) -> tuple[bytes, Numbers]:
    """The used pack ids in order of first use, and for each entry an index into them (ZERO stays)."""
    used, first, inverse = np.unique(packs, return_index=True, return_inverse=True)
    order = np.argsort(np.where(used == ZERO, np.iinfo(np.int64).max, first), kind="stable")
    rank = np.empty(len(used), np.int64)
    rank[order] = np.arange(len(used))
    rank[used == ZERO] = ZERO
    ids = b"".join(table.pack_id(int(number)) for number in used[order] if number != ZERO)
    return ids, rank[inverse]


def encode_page(refs: Refs, table: PackTable) -> bytes:
    """The content of a page. Equal references give equal bytes, so equal pages are stored once."""
    ids, index = _intern(refs.packs, table)
    head = _PAGE_HEAD.pack(b"PAGE", len(ids) // ID, len(index))
    column = np.where(index == ZERO, _PAGE_ZERO, index).astype("<u2")
    return head + ids + column.tobytes() + refs.slots.astype("<u2").tobytes()


def decode_page(content: bytes, table: PackTable, count: int) -> Refs:
    """Parse a page of ``count`` chunks. Raises DamagedData."""
    if len(content) < _PAGE_HEAD.size:
        raise DamagedData("a map page is cut short")
    magic, packs, chunks = _PAGE_HEAD.unpack_from(content)
    length = _PAGE_HEAD.size + ID * packs + 4 * chunks
    if magic != b"PAGE" or chunks != count or packs > chunks or len(content) != length:
        raise DamagedData("a map page does not have the form of one")
    at = _PAGE_HEAD.size + ID * packs
    column = np.frombuffer(content, "<u2", chunks, at)
    slots = np.frombuffer(content, "<u2", chunks, at + 2 * chunks)
    return Refs(_resolve(content[_PAGE_HEAD.size : at], column, _PAGE_ZERO, table), slots.astype(np.uint16))


def _resolve(ids: bytes, column: NDArray[np.generic], zero: int, table: PackTable) -> Numbers:
    """Turn a stored column of indexes into ``ids`` into pack numbers."""
    count = len(ids) // ID
    numbers = [table.number(ids[ID * k : ID * (k + 1)]) for k in range(count)]
    index = column.astype(np.int64)
    if bool(((index != zero) & (index >= count)).any()):
        raise DamagedData("a map names a pack that it does not list")
    return np.array([*numbers, ZERO], np.int64)[np.where(index == zero, count, index)]


@dataclass(frozen=True, slots=True)
class Root:
    """One disk: its size in bytes, and where each of its pages is."""

    size: int
    pages: Refs


def chunks_in_page(size: int, page: int) -> int:
    """Number of chunks that page number ``page`` of a disk of ``size`` bytes has."""
    return min(PAGE_CHUNKS, chunk_count(size) - page * PAGE_CHUNKS)


def encode_root(root: Root, table: PackTable) -> bytes:
    """The content of a root."""
    ids, index = _intern(root.pages.packs, table)
    head = _ROOT_HEAD.pack(b"ROOT", len(ids) // ID, root.size)
    column = np.where(index == ZERO, _ROOT_ZERO, index).astype("<u4")
    return head + ids + column.tobytes() + root.pages.slots.astype("<u2").tobytes()


def decode_root(content: bytes, table: PackTable) -> Root:
    """Parse a root. Raises DamagedData."""
    if len(content) < _ROOT_HEAD.size:
        raise DamagedData("a map root is cut short")
    magic, packs, size = _ROOT_HEAD.unpack_from(content)
    pages = page_count(size)
    if magic != b"ROOT" or packs > pages or len(content) != _ROOT_HEAD.size + ID * packs + 6 * pages:
        raise DamagedData("a map root does not have the form of one")
    at = _ROOT_HEAD.size + ID * packs
    column = np.frombuffer(content, "<u4", pages, at)
    slots = np.frombuffer(content, "<u2", pages, at + 4 * pages)
    refs = Refs(_resolve(content[_ROOT_HEAD.size : at], column, _ROOT_ZERO, table), slots.astype(np.uint16))
    return Root(size, refs)
