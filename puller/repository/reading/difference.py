"""Which chunks of a disk differ, as far as two maps tell, a dirty bitmap, or a look at every chunk.

Two references are compared, not two contents: a page that has the same address in both maps is the same and
is not read; within a page a chunk is the same where both maps name the same slot of the same pack. A content
that is stored twice counts as a difference, which costs a rollback a chunk and nothing else.

::

    pages of one map      a   b   c   d   .        (. is zero)
    pages of the other    a   x   c   .   e
    read and compared         ^                    two pages of the maps
    without a look                    ^   ^        stored in one of them only
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from puller.errors import DamagedData
from puller.repository.format.pages import Refs, Root, chunks_in_page
from puller.repository.reading.image import Flags, runs
from puller.repository.reading.mapreader import MapReader
from puller.units import CHUNK, PAGE_CHUNKS, chunk_count

_PAGES_AT_ONCE = 64


class Changes:
    """The chunks of a disk of ``size`` bytes that differ: a flag for each chunk, of pages that have any."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.pages: dict[int, Flags] = {}

    def add(self, page: int, flags: Flags) -> None:
        """Take the chunks of ``page`` whose flag is set."""
        if flags.any():
            known = self.pages.get(page)
            self.pages[page] = flags if known is None else known | flags

    def add_all(self, other: Changes) -> None:
        """Take what ``other``, of the same disk, has."""
        for page, flags in other.pages.items():
            self.add(page, flags)

    def add_chunks(self, first: int, stop: int) -> None:
        """Take the chunks from number ``first`` up to ``stop``, as far as the disk goes."""
        stop = min(stop, chunk_count(self.size))
        for page in range(first // PAGE_CHUNKS, -(-stop // PAGE_CHUNKS) if first < stop else 0):
            begin = page * PAGE_CHUNKS
            flags = self.pages.get(page)
            if flags is None:
                flags = self.pages[page] = np.zeros(chunks_in_page(self.size, page), np.bool_)
            flags[max(first - begin, 0) : stop - begin] = True

    def ranges(self) -> Iterator[tuple[int, int]]:
        """(offset, length) of what differs, in bytes, ascending and merged."""
        held: tuple[int, int] | None = None
        for begin, stop in self._runs():
            if held is not None and held[1] == begin:
                held = held[0], stop
                continue
            if held is not None:
                yield self._bytes(*held)
            held = begin, stop
        if held is not None:
            yield self._bytes(*held)

    def _runs(self) -> Iterator[tuple[int, int]]:
        for page in sorted(self.pages):
            first = page * PAGE_CHUNKS
            yield from ((first + begin, first + stop) for begin, stop in runs(self.pages[page]))

    def _bytes(self, first: int, stop: int) -> tuple[int, int]:
        return first * CHUNK, min(stop * CHUNK, self.size) - first * CHUNK

    @property
    def bytes(self) -> int:
        """How much differs, in whole chunks cut at the disk's end."""
        count = sum(int(np.count_nonzero(flags)) for flags in self.pages.values())
        last = chunk_count(self.size) - 1
        ends = self.pages.get(last // PAGE_CHUNKS) if self.size else None
        missing = -self.size % CHUNK if ends is not None and ends[last % PAGE_CHUNKS] else 0
        return count * CHUNK - missing


def compare_maps(maps: MapReader, old: Root, new: Root) -> Changes:
    """Where the disk of ``new`` is not that of ``old``, which may have another size.

    A page of ``new`` that cannot be read counts as changed. Raises DamagedData for one of ``old``.
    """
    changes = Changes(new.size)
    unlike = _unlike(maps.rebase(old, new.size), new).tolist()
    for start in range(0, len(unlike), _PAGES_AT_ONCE):
        batch = unlike[start : start + _PAGES_AT_ONCE]
        before = maps.pages(old, [page for page in batch if page < len(old.pages.packs)])
        for page, after in _readable(maps, new, batch):
            count = chunks_in_page(new.size, page)
            was = before.get(page, Refs.zeros(0)).resized(count)
            changes.add(page, np.ones(count, np.bool_) if after is None else _differ(was, after))
    _add_border(changes, old.size, new.size)
    return changes


def _unlike(old: Root, new: Root) -> NDArray[np.int64]:
    pages = old.pages.packs != new.pages.packs
    return np.flatnonzero(pages | (old.pages.slots != new.pages.slots))


def _differ(one: Refs, other: Refs) -> Flags:
    return np.asarray((one.packs != other.packs) | (one.slots != other.slots))


def _readable(maps: MapReader, root: Root, pages: Iterable[int]) -> Iterator[tuple[int, Refs | None]]:
    numbers = list(pages)
    try:
        yield from maps.pages(root, numbers).items()
    except DamagedData:
        for number in numbers:
            try:
                yield number, maps.pages(root, [number])[number]
            except DamagedData:
                yield number, None


def _add_border(changes: Changes, old: int, new: int) -> None:
    """The chunk in which the shorter of two disks ends: what is padding in one is content in the other."""
    if old != new and (shorter := min(old, new)) % CHUNK:
        changes.add_chunks(shorter // CHUNK, shorter // CHUNK + 1)
