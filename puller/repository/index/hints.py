"""Hints: in which pack to look for an id. One file of sorted rows, never changed once written.

::

    | packs, 17 bytes each | rows, 8 bytes each | tail | digest of the tail 16 | its length 8 |

    pack:   id, kind          row:   38 bits of an id above 26 bits of a pack's number

A row is only a hint: a run trusts only the footer of the pack. So a file may be outdated or damaged, which
costs a request or a content stored again. Rows are read by position: a memory mapping would hold the
interpreter's lock through page faults, and kill the process if another one truncates the file.
"""

from __future__ import annotations

import os
import weakref
from bisect import bisect_left
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec
import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from puller.errors import DamagedData
from puller.repository.format.index import IndexPart, IndexRows, place_of
from puller.repository.format.packname import ID, PackKind

ROW = 8
_PACK = ID + 1
_NUMBERS = (1 << 26) - 1
_END = 24
_STEP = 512
"""Rows that are read to find one row."""

_PIECE = 1 << 18
"""Rows or packs that are copied at once."""

_LARGEST_SHIFT = 32


def sample(rows: IndexRows, shift: int) -> IndexRows:
    """Return the ids or rows that begin with ``shift`` zero bits: 1 in 2 ** ``shift``."""
    return rows[rows >> np.uint64(64 - shift) == 0] if shift else rows


class _Tail(msgspec.Struct, array_like=True, tag="puller hints 1"):
    repository: bytes
    shift: int
    packs: int
    rows: int
    sources: list[tuple[str, int]]
    fences: bytes


class HintFile:
    """An open file, closed when the object is collected. Safe for many threads.

    It has rows for the ids that begin with ``shift`` zero bits. ``sources`` are the index objects in it, each
    with its number of packs. Methods raise OSError, DamagedData.
    """

    def __init__(self, path: Path, repository_id: bytes) -> None:
        """Open the file. This verifies the tail; a row is verified only when it is used."""
        self.path = path
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        weakref.finalize(self, os.close, self._descriptor)
        size = os.fstat(self._descriptor).st_size
        end = self._read(max(0, size - _END), _END)
        length = int.from_bytes(end[16:], "little")
        content = self._read(max(0, size - _END - length), min(length, size))
        if blake3(content).digest(16) != end[:16]:
            raise DamagedData("the index cache is damaged")
        try:
            tail = msgspec.msgpack.decode(content, type=_Tail)
        except msgspec.MsgspecError as error:
            raise DamagedData("the index cache is of another version of puller") from error
        self.shift, self.packs, self.rows, self.sources = tail.shift, tail.packs, tail.rows, tail.sources
        self._fences = np.frombuffer(tail.fences, np.uint64)
        if tail.repository != repository_id or _PACK * self.packs + ROW * self.rows + length + _END != size:
            raise DamagedData("the index cache is of another repository, or cut short")

    def find(self, ids: IndexRows) -> Iterator[int]:
        """Return the numbers of packs that may hold some of the ids, given by their first bytes."""
        wanted = sample(ids, self.shift)
        blocks = self._fences.searchsorted(wanted | np.uint64(_NUMBERS), "right").tolist()
        for number, block in zip(wanted.tolist(), blocks, strict=True):
            yield from self._find_in(block - 1, number & ~_NUMBERS) if block else ()

    def _find_in(self, block: int, least: int) -> Iterator[int]:
        first, count = _STEP * block, min(_STEP, self.rows - _STEP * block)
        rows = memoryview(self._read(_PACK * self.packs + ROW * first, ROW * count)).cast("Q")
        if rows[0] != self._fences[block]:
            raise DamagedData("a row of the index cache is damaged")
        for place in range(bisect_left(rows, least), len(rows)):
            if rows[place] > least | _NUMBERS:
                break
            yield rows[place] & _NUMBERS

    def pack(self, number: int) -> tuple[PackKind, bytes] | None:
        """Return kind and id of a pack; None for an unknown number."""
        if number >= self.packs:
            return None
        record = self._read(_PACK * number, _PACK)
        return (PackKind(record[ID]), record[:ID]) if record[ID] in tuple(PackKind) else None

    def kept(self, listed: Collection[str]) -> NDArray[np.bool_]:
        """Return by pack number whether the pack's index object is still listed."""
        there = np.array([source in listed for source, _ in self.sources], np.bool_)
        return np.repeat(there, [count for _, count in self.sources])

    def all_rows(self) -> Iterator[IndexRows]:
        """All rows, some at a time. Raises DamagedData where they are not what was written."""
        for first, content in enumerate(self.pieces(_PACK * self.packs, ROW, self.rows)):
            rows, start = np.frombuffer(content, np.uint64), first * _PIECE
            fences = self._fences[-(-start // _STEP) : -(-(start + len(rows)) // _STEP)]
            is_sound = (rows[-start % _STEP :: _STEP] == fences).all() and (rows[1:] >= rows[:-1]).all()
            if not is_sound or ((rows & np.uint64(_NUMBERS)) >= self.packs).any():
                raise DamagedData("a row of the index cache is damaged")
            yield rows

    def pieces(self, offset: int, width: int, count: int) -> Iterator[bytes]:
        """Yield ``count`` records of ``width`` bytes from ``offset`` on, several at a time."""
        for first in range(0, count, _PIECE):
            yield self._read(offset + width * first, width * min(_PIECE, count - first))

    def _read(self, offset: int, length: int) -> bytes:
        content = os.pread(self._descriptor, length, offset)
        if len(content) < length:
            raise DamagedData("the index cache is truncated")
        return content


_FEW = 1 << 17
"""Rows with room from the beginning, 1 MiB: most repositories need no more."""


class HintWriter:
    """Writes a file: packs are written as they come, rows stay in memory until ``finish``.

    Rows use at most ``room`` bytes: before they exceed that, the sample is halved. Packs use at most as much:
    those of later index objects are omitted.
    """

    def __init__(self, file: BinaryIO, shift: int, room: int) -> None:
        self._file = file
        self._shift = shift
        self._packs = 0
        self._room = min(room // _PACK, _NUMBERS)
        self._most = room // ROW
        self._rows = np.empty(min(self._most, _FEW), np.uint64)
        self._count = 0
        self._sources: list[tuple[str, int]] = []

    def add(self, source: str, part: IndexPart) -> None:
        """Add the entries of an index object. Raises OSError."""
        fits = self._packs + len(part.packs) <= self._room
        packs, rows = (part.packs, part.rows) if fits else ((), part.rows[:0])
        self._put(rows, place_of(rows) + self._packs)
        self._file.write(b"".join(pack.pack_id + bytes((pack.kind,)) for pack in packs))
        self._sources.append((source, len(packs)))
        self._packs += len(packs)

    def take(self, file: HintFile, listed: Collection[str]) -> None:
        """Add another file's entries of ``listed`` index objects. Raises OSError, DamagedData."""
        kept = file.kept(listed)
        numbers = np.cumsum(kept, dtype=np.int32) + np.int32(self._packs - 1)
        for rows in file.all_rows():
            places = rows & np.uint64(_NUMBERS)
            chosen = kept[places]
            self._put(rows[chosen], numbers[places[chosen]])
        for number, content in enumerate(file.pieces(0, _PACK, file.packs)):
            packs = np.frombuffer(content, np.uint8).reshape(-1, _PACK)
            self._file.write(packs[kept[number * _PIECE : (number + 1) * _PIECE]].tobytes())
        self._sources += [source for source in file.sources if source[0] in listed]
        self._packs += int(kept.sum())

    def _put(self, ids: IndexRows, packs: NDArray[np.integer]) -> None:
        rows = sample(ids & ~np.uint64(_NUMBERS) | packs.astype(np.uint64), self._shift)
        if self._count + len(rows) > len(self._rows) and len(self._rows) < self._most:
            all_rows = np.empty(self._most, np.uint64)  # memory is taken as it is filled
            all_rows[: self._count] = self._rows[: self._count]
            self._rows = all_rows
        while self._count + len(rows) > len(self._rows) and self._shift < _LARGEST_SHIFT:
            self._shift += 1
            held, rows = sample(self._rows[: self._count], self._shift), sample(rows, self._shift)
            self._count = len(held)
            self._rows[: self._count] = held
        rows = rows[: len(self._rows) - self._count]
        self._rows[self._count : self._count + len(rows)] = rows
        self._count += len(rows)

    def finish(self, repository_id: bytes) -> None:
        """Write the rest. Raises OSError."""
        rows = self._rows[: self._count]
        rows.sort()
        fences = rows[::_STEP].tobytes()
        tail = _Tail(repository_id, self._shift, self._packs, self._count, self._sources, fences)
        content = msgspec.msgpack.encode(tail)
        self._file.write(rows.data)
        self._file.write(content + blake3(content).digest(16) + len(content).to_bytes(8, "little"))
