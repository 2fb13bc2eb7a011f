"""Find the parts of disks that faulty packs damage.

Points share most pages, and most pages need no faulty pack. So each distinct page is examined once, whole
columns at a time, and only the damaged ones are read for every disk that has them.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from puller.repository.collecting.reach import SlotSet
from puller.repository.format.pages import ZERO, Refs, Root
from puller.repository.reading.damage import Damage, merge_damage, read_pages
from puller.repository.reading.mapreader import MapReader
from puller.units import CHUNK, PAGE_CHUNKS
from puller.upkeep.checking.packcheck import Faults


class Attribution:
    """Remembers the damaged pages: a byte for each page of the repository."""

    def __init__(self, maps: MapReader, faults: Faults) -> None:
        self._maps = maps
        self._faults = faults
        self._judged = SlotSet()
        self._damaged = SlotSet()

    def damage(self, root: Root) -> list[Damage]:
        """Return the damaged parts of one disk, in disk order. Unreadable pages are skipped."""
        found: list[Damage] = []
        self._judge(root)
        for number, refs in read_pages(self._maps, root, self._pages(root, self._damaged, True), []):
            found += merge_damage(list(self._damage(root, number, refs)))
        return merge_damage(found)

    def _judge(self, root: Root) -> None:
        for number, refs in read_pages(self._maps, root, self._pages(root, self._judged, False), []):
            pack, slots = int(root.pages.packs[number]), root.pages.slots[number : number + 1]
            self._judged.add(pack, slots)
            if len(self._faults.hits(refs)):
                self._damaged.add(pack, slots)

    @staticmethod
    def _pages(root: Root, known: SlotSet, wanted: bool) -> list[int]:
        """Numbers of the stored pages that are in ``known``, or are not."""
        packs, slots = root.pages.packs, root.pages.slots
        found: list[int] = []
        for pack in np.unique(packs[packs != ZERO]).tolist():
            numbers = np.flatnonzero(packs == pack)
            found += numbers[known.holds(pack, slots[numbers]) == wanted].tolist()
        return sorted(found)

    def _damage(self, root: Root, page: int, refs: Refs) -> Iterator[Damage]:
        for position in self._faults.hits(refs).tolist():
            start = (page * PAGE_CHUNKS + position) * CHUNK
            reason = self._faults.reason(int(refs.packs[position]), int(refs.slots[position]))
            yield Damage(start, min(CHUNK, root.size - start), reason)
