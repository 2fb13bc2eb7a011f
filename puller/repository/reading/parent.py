"""Content of a disk's last point at each place, to compare a disk that is read as a whole.

::

    place on the disk ─► map of the parent: pack, slot ─► footer of the pack: id ─► is it what was read?

So unchanged content is found without the index. Unreadable parts of the map, and missing or damaged packs,
count as empty here: the index is used for them.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from puller.cancelling import CancelScope
from puller.errors import DamagedData
from puller.repository.format.address import Address
from puller.repository.format.footer import Ids
from puller.repository.format.packname import ID, PackKind
from puller.repository.format.pages import ZERO, Numbers, Refs
from puller.repository.reading.damage import read_pages
from puller.repository.reading.footers import Footers
from puller.repository.reading.mapreader import MapReader
from puller.store.parallel import READERS, each
from puller.units import PAGE_CHUNKS

ROOT = -1
"""Stands for the root in place of a page's number."""

WINDOW_PAGES = 16
"""Pages (1 GiB of disk) whose footers are read together."""

_WINDOWS = 3
"""Windows in the cache: batches come in disk order, a few out of order."""

_NOTHING = np.zeros((0, ID), np.uint8)


@dataclass(frozen=True, slots=True)
class ParentContents:
    """References, and the ``ids`` (n, 16) of their contents; zero bytes for none."""

    refs: Refs
    ids: Ids

    def equal(self, ids: Sequence[bytes]) -> Numbers:
        """Return the pack numbers of references whose contents have ``ids``, and ZERO for the others."""
        wanted = np.frombuffer(b"".join(ids), np.uint8).reshape(-1, ID)
        same = (self.ids == wanted).all(axis=1) & (self.refs.packs != ZERO)
        return np.where(same, self.refs.packs, ZERO)

    def at(self, places: NDArray[np.int64]) -> ParentContents:
        """Return the contents at ``places``."""
        return ParentContents(Refs(self.refs.packs[places], self.refs.slots[places]), self.ids[places])


class ParentDisk:
    """One disk of the point with which a run compares. Safe for many threads.

    Packs whose ids are in ``damaged`` count as empty. Raises DamagedData or MissingObject if its root cannot
    be read; later on only StoreError.
    """

    def __init__(
        self, maps: MapReader, footers: Footers, damaged: Collection[bytes], address: Address
    ) -> None:
        self._maps = maps
        self._footers = footers
        self._damaged = damaged
        self._address = address
        self._root = maps.root(address)
        self._span = WINDOW_PAGES * PAGE_CHUNKS
        self._windows: OrderedDict[int, ParentContents] = OrderedDict()
        self._lock = threading.Lock()

    def maps(self, pages: Sequence[int]) -> ParentContents:
        """Return the parent's contents for these pages of its map, or for its ROOT."""
        refs, known = Refs.zeros(len(pages)), self._root.pages
        for at, page in enumerate(pages):
            if page == ROOT:
                refs.packs[at], refs.slots[at] = (
                    self._maps.table.number(self._address.pack),
                    self._address.slot,
                )
            elif page < len(known.packs):
                refs.packs[at], refs.slots[at] = known.packs[page], known.slots[page]
        return self._identified(PackKind.MAP, refs)

    def chunks(self, numbers: NDArray[np.int64]) -> ParentContents:
        """Return the parent's contents for these chunks of the disk."""
        windows = numbers // self._span
        packs, slots = np.full(len(numbers), ZERO, np.int64), np.zeros(len(numbers), np.uint16)
        ids = np.zeros((len(numbers), ID), np.uint8)
        for window in np.unique(windows).tolist():
            (here,) = (windows == window).nonzero()
            found = self._window(window).at(numbers[here] - window * self._span)
            packs[here], slots[here], ids[here] = found.refs.packs, found.refs.slots, found.ids
        return ParentContents(Refs(packs, slots), ids)

    def _window(self, number: int) -> ParentContents:
        # A thread that waits here mostly needs the same window.
        with self._lock:
            known = self._windows.pop(number, None)
            if known is None:
                known = self._identified(PackKind.DATA, self._refs(number * WINDOW_PAGES))
            self._windows[number] = known
            if len(self._windows) > _WINDOWS:
                self._windows.popitem(last=False)
            return known

    def _refs(self, first: int) -> Refs:
        """Return the readable chunks of the pages from ``first`` on."""
        refs = Refs.zeros(self._span)
        pages = range(first, min(first + WINDOW_PAGES, len(self._root.pages.packs)))
        for page, found in read_pages(self._maps, self._root, pages, []):
            start = (page - first) * PAGE_CHUNKS
            refs.packs[start : start + len(found.packs)] = found.packs
            refs.slots[start : start + len(found.slots)] = found.slots
        return refs

    def _identified(self, kind: PackKind, refs: Refs) -> ParentContents:
        order = refs.packs.argsort(kind="stable")
        parts = np.split(order, np.flatnonzero(np.diff(refs.packs[order])) + 1)
        parts = [part for part in parts if len(part) and refs.packs[part[0]] != ZERO]
        ids = np.zeros((len(refs.packs), ID), np.uint8)
        for part, held in zip(
            parts, self._ids(kind, [int(refs.packs[part[0]]) for part in parts]), strict=True
        ):
            inside = part[refs.slots[part] < len(held)]
            ids[inside] = held[refs.slots[inside]]
        return ParentContents(refs, ids)

    def _ids(self, kind: PackKind, packs: Collection[int]) -> Sequence[Ids]:
        """Return the ids of the slots of each pack."""

        def read(scope: CancelScope, pack: int) -> Ids:
            return self._ids_of(self._footers.within(scope), kind, pack)

        scope = self._footers.scope
        if len(packs) < 2:  # threads are not worth it
            return [read(scope, pack) for pack in packs]
        return list(each(scope, read, packs, READERS))

    def _ids_of(self, footers: Footers, kind: PackKind, pack: int) -> Ids:
        pack_id = self._maps.table.pack_id(pack)
        if pack_id in self._damaged:
            return _NOTHING
        try:
            return footers.ids(kind, pack_id)
        except DamagedData:
            return _NOTHING
