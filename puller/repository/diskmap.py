"""The map of one disk while a backup writes it.

Extents are announced in disk order; chunks come back from the codec threads in any order. A page is
*closed* once the announcements have passed it, and *ready* once all its announced chunks have come.

::

    announced   ├──────── closed ────────┤ open │            (disk order)
    page            0      1      2         3
    chunks       8 of 8  2 of 5  0 of 0   1 of …
                 ready           ready

Ready pages are laid over the parent's and stored, some at a time, so the memory needed does not grow
with the disk, and an incremental touches only the pages that changed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from puller.repository.mapreader import MapReader
from puller.repository.pages import (
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
from puller.units import CHUNK, PAGE_CHUNKS, Extent, Kind, chunk_count, page_count

UNTOUCHED = -2
"""Pack number, in a pending page only, of a chunk that stays as it is in the parent."""

READY_BATCH = 64
"""Ready pages are written together, so that the parent's pages are fetched with few requests."""

StoreContent = Callable[[bytes], tuple[int, int]]


@dataclass(slots=True)
class _Pending:
    """A page that waits for chunks. ``zeros`` are (first, last + 1) chunk ranges within the page."""

    expected: int = 0
    done: int = 0
    closed: bool = False
    zeros: list[tuple[int, int]] = field(default_factory=list)
    refs: Refs | None = None

    @property
    def ready(self) -> bool:
        return self.closed and self.done == self.expected

    def overlay(self, count: int) -> Refs:
        """What this run says of the page's ``count`` chunks; UNTOUCHED for the rest."""
        refs = self.refs or _untouched(count)
        for first, last in self.zeros:
            refs.packs[first:last] = ZERO
            refs.slots[first:last] = 0
        return refs


def _untouched(count: int) -> Refs:
    return Refs(np.full(count, UNTOUCHED, np.int64), np.zeros(count, np.uint16))


def _by_page(first: int, last: int) -> Iterator[tuple[int, int, int]]:
    """Cut chunks first … last - 1 at page borders: (page, first in page, last + 1 in page)."""
    while first < last:
        page = first // PAGE_CHUNKS
        stop = min(last, (page + 1) * PAGE_CHUNKS)
        yield page, first - page * PAGE_CHUNKS, stop - page * PAGE_CHUNKS
        first = stop


class DiskMap:
    """Builds the root of one disk. ``announce`` has one caller; ``place`` may be called by many threads.

    ``base`` is the parent's root, or None for a full. ``store`` puts a content into a map pack and
    returns (pack number, slot).
    """

    def __init__(self, size: int, base: Root | None, reader: MapReader, store: StoreContent) -> None:
        self._size = size
        self._base = base
        self._reader = reader
        self._store = store
        self._pages = reader.rebase(base, size).pages if base else Refs.zeros(page_count(size))
        self._pending: dict[int, _Pending] = {}
        self._ready: list[tuple[int, _Pending]] = []
        self._reached = 0
        self._lock = threading.Lock()
        self._reshape()

    @property
    def table(self) -> PackTable:
        """Numbers of the packs."""
        return self._reader.table

    def _reshape(self) -> None:
        """Rewrite the page at which the old and the new end differ, if the disk was resized."""
        if self._base is None or self._base.size == self._size:
            return
        page = (min(chunk_count(self._base.size), chunk_count(self._size)) - 1) // PAGE_CHUNKS
        if page >= 0 and chunks_in_page(self._base.size, page) != chunks_in_page(self._size, page):
            self._pending[page] = _Pending()

    def announce(self, extent: Extent) -> None:
        """Say what the run will bring, in ascending order. DATA waits for ``place``."""
        first, last = extent.offset // CHUNK, chunk_count(extent.end)
        with self._lock:
            self._close_before(first // PAGE_CHUNKS)
            for page, start, stop in _by_page(first, last):
                self._announce_in(page, start, stop, extent.kind)
            self._close_before((last - 1) // PAGE_CHUNKS)
        self._write_ready(READY_BATCH)

    def _announce_in(self, page: int, start: int, stop: int, kind: Kind) -> None:
        if kind is Kind.ZERO and stop - start == chunks_in_page(self._size, page):
            self._pages.packs[page], self._pages.slots[page] = ZERO, 0
            self._pending.pop(page, None)
            return
        pending = self._pending.setdefault(page, _Pending())
        if kind is Kind.ZERO:
            pending.zeros.append((start, stop))
        else:
            pending.expected += stop - start

    def _close_before(self, page: int) -> None:
        for number in range(self._reached, page):
            pending = self._pending.get(number)
            if pending is not None:
                pending.closed = True
                self._collect(number, pending)
        self._reached = max(self._reached, page)

    def _collect(self, number: int, pending: _Pending) -> None:
        if pending.ready:
            self._ready.append((number, self._pending.pop(number)))

    def place(self, chunks: NDArray[np.int64], packs: Numbers, slots: Slots) -> None:
        """Say where announced chunks are stored; three columns of equal length."""
        pages = chunks // PAGE_CHUNKS
        with self._lock:
            for page in np.unique(pages):
                chosen = pages == page
                self._place_in(int(page), chunks[chosen] % PAGE_CHUNKS, packs[chosen], slots[chosen])
        self._write_ready(READY_BATCH)

    def _place_in(self, page: int, positions: NDArray[np.int64], packs: Numbers, slots: Slots) -> None:
        pending = self._pending[page]
        if pending.refs is None:
            pending.refs = _untouched(chunks_in_page(self._size, page))
        pending.refs.packs[positions] = packs
        pending.refs.slots[positions] = slots
        pending.done += len(positions)
        self._collect(page, pending)

    def _write_ready(self, least: int) -> None:
        with self._lock:
            if len(self._ready) < least:
                return
            ready, self._ready = self._ready, []
        overlays = {page: pending.overlay(chunks_in_page(self._size, page)) for page, pending in ready}
        base = self._parent_pages(
            [page for page, refs in overlays.items() if (refs.packs == UNTOUCHED).any()]
        )
        for page, refs in overlays.items():
            self._write_page(page, refs, base.get(page))

    def _parent_pages(self, pages: Sequence[int]) -> dict[int, Refs]:
        if self._base is None:
            return {}
        count = len(self._base.pages.packs)
        return self._reader.pages(self._base, [page for page in pages if page < count])

    def _write_page(self, page: int, refs: Refs, parent: Refs | None) -> None:
        kept = np.flatnonzero(refs.packs == UNTOUCHED)
        refs.packs[kept] = ZERO
        if parent is not None:
            kept = kept[kept < len(parent.packs)]
            refs.packs[kept], refs.slots[kept] = parent.packs[kept], parent.slots[kept]
        if refs.is_zero:
            self._pages.packs[page], self._pages.slots[page] = ZERO, 0
        else:
            self._pages.packs[page], self._pages.slots[page] = self._store(encode_page(refs, self.table))

    def finish(self) -> tuple[int, int]:
        """Write what is left and the root; return the root's (pack number, slot). All chunks have come."""
        with self._lock:
            self._close_before(page_count(self._size))
            if self._pending:
                raise RuntimeError(f"{len(self._pending)} pages were announced and never completed")
        self._write_ready(1)
        return self._store(encode_root(Root(self._size, self._pages), self.table))
