"""The map of one disk during a backup.

Extents are announced in disk order; chunks come back from the codec threads in any order. A page is
*closed* once the announcements have passed it, and *ready* once all its announced chunks have come.

::

    announced   ├──────── closed ────────┤ open │            (disk order)
    page            0      1      2         3
    chunks       8 of 8  2 of 5  0 of 0   1 of …
                 ready           ready

Ready pages are overlaid on the parent's and stored, many at a time, so that the parent's pages need few
requests, lookups are made in batches, and memory does not grow with the disk. An incremental writes only the
pages that changed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from puller.repository.format.pages import (
    ZERO,
    Numbers,
    PackTable,
    Refs,
    Root,
    Slots,
    chunks_in_page,
    encode_page,
    encode_root,
)
from puller.repository.reading.mapreader import MapReader
from puller.repository.reading.parent import ROOT
from puller.units import CHUNK, PAGE_CHUNKS, Extent, Kind, chunk_count, page_count

READY_PAGES = 256
"""Number of ready pages to write at once, so that neighbours in the parent's map packs come in one range."""

READY_CHUNKS = 64 * PAGE_CHUNKS
"""... or this number of chunks in them, to bound the memory."""

StoreMaps = Callable[[Sequence[int], Sequence[bytes]], tuple[Numbers, Slots]]

_Part = tuple[NDArray[np.int64], Numbers, Slots]


@dataclass(slots=True)
class _Pending:
    """A page that waits for chunks. ``zeros`` are (first, last + 1) chunk ranges within the page.

    Extents do not overlap, so the ``left`` chunks, which were not announced, are the parent's.
    """

    left: int
    missing: int = 0
    placed: int = 0
    closed: bool = False
    zeros: list[tuple[int, int]] = field(default_factory=list)
    parts: list[_Part] = field(default_factory=list)

    @property
    def ready(self) -> bool:
        return self.closed and not self.missing

    def over(self, page: int, refs: Refs) -> None:
        """Overlay this run's references on ``refs``, the columns of page number ``page``."""
        for first, last in self.zeros:
            refs.packs[first:last] = ZERO
            refs.slots[first:last] = 0
        if self.parts:
            chunks, packs, slots = map(np.concatenate, zip(*self.parts, strict=True))
            positions = chunks - page * PAGE_CHUNKS
            refs.packs[positions] = packs
            refs.slots[positions] = slots


def _by_page(first: int, last: int) -> Iterator[tuple[int, int, int]]:
    """Split chunks first … last - 1 at page borders: (page, first in page, last + 1 in page)."""
    while first < last:
        page = first // PAGE_CHUNKS
        stop = min(last, (page + 1) * PAGE_CHUNKS)
        yield page, first - page * PAGE_CHUNKS, stop - page * PAGE_CHUNKS
        first = stop


class DiskMap:
    """Builds the root of one disk. ``announce`` has one caller; ``place`` may be called by many threads.

    ``base`` is the parent's root, or None for a full. ``store`` takes numbers of pages, or ROOT, and their
    contents; it puts them into map packs and returns their pack numbers and slots.
    """

    def __init__(self, size: int, base: Root | None, reader: MapReader, store: StoreMaps) -> None:
        self._size = size
        self._base = base
        self._reader = reader
        self._store = store
        self._pages = reader.rebase(base, size).pages if base else Refs.zeros(page_count(size))
        self._pending: dict[int, _Pending] = {}
        self._open: list[int] = []
        self._ready: list[tuple[int, _Pending]] = []
        self._ready_chunks = 0
        self._announced = 0
        self._closed = 0
        self._lock = threading.Lock()
        self._reshape()

    @property
    def table(self) -> PackTable:
        """The pack numbers."""
        return self._reader.table

    def _reshape(self) -> None:
        """Rewrite the page with the old end of the disk, if the disk was resized."""
        if self._base is None or self._base.size == self._size:
            return
        page = (min(chunk_count(self._base.size), chunk_count(self._size)) - 1) // PAGE_CHUNKS
        if page >= 0 and chunks_in_page(self._base.size, page) != chunks_in_page(self._size, page):
            self._pending_page(page)

    def _pending_page(self, page: int) -> _Pending:
        pending = self._pending.get(page)
        if pending is None:
            pending = self._pending[page] = _Pending(chunks_in_page(self._size, page))
            self._open.append(page)
        return pending

    def announce(self, extent: Extent) -> None:
        """Announce extents, ascending and without overlap. DATA waits for ``place``."""
        first, last = extent.offset // CHUNK, chunk_count(extent.end)
        if first < self._announced:
            raise RuntimeError(f"chunk {first} was announced after chunk {self._announced - 1}")
        with self._lock:
            for page, start, stop in _by_page(first, last):
                self._announce_in(page, start, stop, extent.kind)
            self._close_before((last - 1) // PAGE_CHUNKS)
            self._announced = last
        self._write_many()

    def _announce_in(self, page: int, start: int, stop: int, kind: Kind) -> None:
        if kind is Kind.ZERO and stop - start == chunks_in_page(self._size, page):
            self._pages.packs[page], self._pages.slots[page] = ZERO, 0
            self._pending.pop(page, None)
            return
        pending = self._pending_page(page)
        pending.left -= stop - start
        if kind is Kind.ZERO:
            pending.zeros.append((start, stop))
        else:
            pending.missing += stop - start

    def _close_before(self, page: int) -> None:
        if page <= self._closed:
            return
        self._closed = page
        passed = [number for number in self._open if number < page]
        self._open = [number for number in self._open if number >= page]
        for number in passed:
            pending = self._pending.get(number)
            if pending is not None:
                pending.closed = True
                self._collect(number, pending)

    def _collect(self, number: int, pending: _Pending) -> None:
        if pending.ready:
            self._ready.append((number, self._pending.pop(number)))
            self._ready_chunks += pending.placed

    def place(self, chunks: NDArray[np.int64], packs: Numbers, slots: Slots) -> None:
        """Set the places of announced chunks, in three columns of equal length."""
        pages = chunks // PAGE_CHUNKS
        borders = (pages[1:] != pages[:-1]).nonzero()[0] + 1
        with self._lock:
            for start, stop in pairwise([0, *borders.tolist(), len(chunks)]):
                self._place_in(int(pages[start]), (chunks[start:stop], packs[start:stop], slots[start:stop]))
        self._write_many()

    def _place_in(self, page: int, part: _Part) -> None:
        pending = self._pending[page]
        pending.parts.append(part)
        pending.missing -= len(part[0])
        pending.placed += len(part[0])
        self._collect(page, pending)

    def _write_many(self) -> None:
        if len(self._ready) >= READY_PAGES or self._ready_chunks >= READY_CHUNKS:
            self._write_ready()

    def _write_ready(self) -> None:
        with self._lock:
            ready, self._ready, self._ready_chunks = self._ready, [], 0
        base = self._parent_pages([page for page, pending in ready if pending.left])
        columns = {page: base.get(page) or Refs.zeros(chunks_in_page(self._size, page)) for page, _ in ready}
        for page, pending in ready:
            pending.over(page, columns[page])
        self._write(columns)

    def _parent_pages(self, pages: Sequence[int]) -> dict[int, Refs]:
        """Return the parent's columns of these pages, if any, in this disk's length."""
        if self._base is None:
            return {}
        count = len(self._base.pages.packs)
        found = self._reader.pages(self._base, [page for page in pages if page < count])
        for page, refs in found.items():
            if len(refs.packs) != chunks_in_page(self._size, page):
                found[page] = refs.resized(chunks_in_page(self._size, page))
        return found

    def _write(self, columns: dict[int, Refs]) -> None:
        """Store pages by number, none of them if all their chunks are zero."""
        held = [page for page, refs in columns.items() if not refs.is_zero]
        contents = [encode_page(columns[page], self.table) for page in held]
        everything = list(columns)
        self._pages.packs[everything], self._pages.slots[everything] = ZERO, 0
        self._pages.packs[held], self._pages.slots[held] = self._store(held, contents)

    def finish(self) -> tuple[int, int]:
        """Write the remaining pages and the root; return its (pack number, slot). All chunks are set."""
        with self._lock:
            self._close_before(page_count(self._size))
            if self._pending:
                raise RuntimeError(f"{len(self._pending)} pages were announced and never completed")
        self._write_ready()
        packs, slots = self._store([ROOT], [encode_root(Root(self._size, self._pages), self.table)])
        return int(packs[0]), int(slots[0])
