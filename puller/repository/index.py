"""Which contents the repository already holds, by id (docs/format.md, "Index").

The index never decides what can be restored. A content that it misses is stored once more; so it may
be incomplete, repeat itself, or be rebuilt from the packs at any time.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from puller.errors import DamagedData
from puller.repository.footer import DEAD, ID, Footer, PackKind
from puller.repository.keys import KEY_BOX
from puller.repository.pages import PackTable

_RECORD = struct.Struct("<16sBQI")
_FOOTER_ROW = ID + 5


@dataclass(frozen=True)
class IndexedPack:
    """What an index says of one pack; ``size`` is the object's, in bytes."""

    kind: PackKind
    pack_id: bytes
    size: int
    footer: Footer


def encode(packs: Iterable[IndexedPack]) -> bytes:
    """The content of an index object."""
    return b"".join(
        _RECORD.pack(pack.pack_id, pack.kind, pack.size, pack.footer.count) + pack.footer.encode()
        for pack in packs
    )


def decode(content: bytes) -> Iterator[IndexedPack]:
    """Parse the content of an index object. Raises DamagedData."""
    at = 0
    while at < len(content):
        if at + _RECORD.size > len(content):
            raise DamagedData("an index is cut short")
        pack_id, kind, size, count = _RECORD.unpack_from(content, at)
        at += _RECORD.size
        length = KEY_BOX + _FOOTER_ROW * count
        if kind not in tuple(PackKind) or at + length > len(content):
            raise DamagedData("an index describes a pack that cannot be")
        yield IndexedPack(PackKind(kind), pack_id, size, Footer.decode(content[at : at + length], count))
        at += length


@dataclass(frozen=True)
class _Columns:
    """Ids as two halves, sorted by the first; with the pack number and slot of each."""

    high: NDArray[np.uint64]
    low: NDArray[np.uint64]
    packs: NDArray[np.uint32]
    slots: NDArray[np.uint16]

    @classmethod
    def build(cls, ids: NDArray[np.uint8], packs: NDArray[np.uint32], slots: NDArray[np.uint16]) -> _Columns:
        halves = np.ascontiguousarray(ids).view(np.uint64).reshape(-1, 2)
        order = np.argsort(halves[:, 0], kind="stable")
        return cls(halves[order, 0], halves[order, 1], packs[order], slots[order])

    def find(self, high: int, low: int) -> tuple[int, int] | None:
        """(pack number, slot), or None. First halves are rarely equal, so the walk is short."""
        at = int(np.searchsorted(self.high, np.uint64(high)))
        while at < len(self.high) and self.high[at] == high:
            if self.low[at] == low:
                return int(self.packs[at]), int(self.slots[at])
            at += 1
        return None


class ChunkIndex:
    """Finds contents by id: those of earlier runs in sorted columns, those of this run in a dictionary."""

    def __init__(self, table: PackTable) -> None:
        self._table = table
        self._recent: dict[bytes, tuple[int, int]] = {}
        self._columns: _Columns | None = None
        self._lock = threading.Lock()

    def load(self, packs: Iterable[IndexedPack]) -> None:
        """Take in what the repository's index objects say. Dead slots are left out."""
        ids, numbers, slots = (
            [np.zeros((0, ID), np.uint8)],
            [np.zeros(0, np.uint32)],
            [np.zeros(0, np.uint16)],
        )
        for pack in packs:
            alive = np.flatnonzero(pack.footer.flags & DEAD == 0)
            ids.append(pack.footer.ids[alive])
            numbers.append(np.full(len(alive), self._table.number(pack.pack_id), np.uint32))
            slots.append(alive.astype(np.uint16))
        self._columns = _Columns.build(np.concatenate(ids), np.concatenate(numbers), np.concatenate(slots))

    def find(self, content_id: bytes) -> tuple[int, int] | None:
        """The (pack number, slot) that holds a content, or None."""
        return self._recent.get(content_id) or self._find_stored(content_id)

    def _find_stored(self, content_id: bytes) -> tuple[int, int] | None:
        if self._columns is None or not len(self._columns.high):
            return None
        high, low = struct.unpack("=QQ", content_id)
        return self._columns.find(high, low)

    def add(self, content_id: bytes, pack: int, slot: int) -> None:
        """Remember a content of this run."""
        with self._lock:
            self._recent.setdefault(content_id, (pack, slot))
