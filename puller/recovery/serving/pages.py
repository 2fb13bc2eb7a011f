"""The map pages of a served disk, as many as fit into a bounded memory."""

from __future__ import annotations

import threading
from collections import OrderedDict

from puller.errors import DamagedData
from puller.repository.format.pages import ZERO, Refs, Root, chunks_in_page
from puller.repository.reading.mapreader import MapReader
from puller.units import PAGE_CHUNKS

KEPT = 1536
"""Pages of 10 KiB that are kept in memory: 96 GiB of disk."""

TOGETHER = 16
"""Neighbouring pages that are read with a missing one, if they are in the same pack."""


class MapPages:
    """The pages of the disk with this ``root``. Safe for many threads."""

    def __init__(self, maps: MapReader, root: Root) -> None:
        self._maps = maps
        self._root = root
        self._kept: OrderedDict[int, Refs] = OrderedDict()
        self._lock = threading.Lock()
        self._loading = threading.Lock()

    def page(self, number: int) -> Refs:
        """Return the page. Raises DamagedData, StoreError."""
        if int(self._root.pages.packs[number]) == ZERO:
            return Refs.zeros(chunks_in_page(self._root.size, number))
        return self._known(number) or self._load(number)

    def is_hole(self, first: int, end: int) -> bool:
        """Return whether the chunks from ``first`` to before ``end``, of one page, are known to be zero."""
        number, start = divmod(first, PAGE_CHUNKS)
        if not 0 <= number < len(self._root.pages.packs):
            return False
        if int(self._root.pages.packs[number]) == ZERO:
            return True
        page = self._known(number)
        return page is not None and bool((page.packs[start : start + end - first] == ZERO).all())

    def _known(self, number: int) -> Refs | None:
        with self._lock:
            page = self._kept.get(number)
            if page is not None:
                self._kept.move_to_end(number)
            return page

    def _load(self, number: int) -> Refs:
        """Read it with its neighbours: threads that need the same page wait for one request."""
        with self._loading:
            known = self._known(number)
            if known is not None:
                return known
            try:
                found = self._maps.pages(self._root, self._neighbours(number))
            except DamagedData:
                found = self._maps.pages(self._root, [number])
            self._keep(found)
            return found[number]

    def _neighbours(self, number: int) -> list[int]:
        packs = self._root.pages.packs
        first = number - number % TOGETHER
        members = range(first, min(first + TOGETHER, len(packs)))
        return [page for page in members if packs[page] == packs[number]]

    def _keep(self, found: dict[int, Refs]) -> None:
        with self._lock:
            self._kept.update(found)
            for number in found:
                self._kept.move_to_end(number)
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
