"""What restore points reach: every slot of every pack that some map names.

Pages are shared between points, so each distinct page is read once however many points have it.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from puller.repository.format.pages import ZERO, Address, Root, Slots
from puller.repository.reading.damage import Damage, read_pages
from puller.repository.reading.mapreader import MapReader
from puller.units import CHUNK, PAGE_CHUNKS

_NONE = np.zeros(0, np.bool_)


class SlotSet:
    """Slots of many packs: ``columns`` maps a pack's number to booleans, up to the last slot in the set."""

    def __init__(self) -> None:
        self.columns: dict[int, NDArray[np.bool_]] = {}

    def of(self, pack: int) -> NDArray[np.bool_]:
        """The column of a pack, empty if no slot of it is in the set."""
        return self.columns.get(pack, _NONE)

    def add(self, pack: int, slots: Slots) -> None:
        """Put in slots of one pack, at least one."""
        column, needed = self.of(pack), int(np.max(slots)) + 1
        if len(column) < needed:
            column = np.concatenate([column, np.zeros(needed - len(column), np.bool_)])
            self.columns[pack] = column
        column[slots] = True

    def discard(self, pack: int, slot: int) -> None:
        """Take out a slot that is in the set."""
        self.columns[pack][slot] = False

    def holds(self, pack: int, slots: Slots) -> NDArray[np.bool_]:
        """For each of some slots of one pack whether it is in the set."""
        column = self.of(pack)
        held = np.zeros(len(slots), np.bool_)
        inside = slots < len(column)
        held[inside] = column[slots[inside]]
        return held


class Reach:
    """Collects reached slots: ``data`` of data packs; ``maps`` of map packs, that is pages and roots."""

    def __init__(self, maps: MapReader) -> None:
        self._reader = maps
        self.data = SlotSet()
        self.maps = SlotSet()

    @property
    def packs(self) -> dict[int, NDArray[np.bool_]]:
        """The reached data packs by number: a column of booleans, one a slot."""
        return self.data.columns

    @property
    def map_packs(self) -> Collection[int]:
        """Numbers of the reached map packs."""
        return self.maps.columns.keys()

    def has_root(self, address: Address) -> bool:
        """Whether the root was taken in."""
        pack, slots = self._place(address)
        return bool(self.maps.holds(pack, slots)[0])

    def note_root(self, address: Address) -> None:
        """Take in a root that has been read."""
        self.maps.add(*self._place(address))

    def _place(self, address: Address) -> tuple[int, Slots]:
        return self._reader.table.number(address.pack), np.array([address.slot], np.uint16)

    def add(self, root: Root) -> list[Damage]:
        """Take in the pages of one disk; return the parts of it whose pages cannot be read."""
        damage: list[Damage] = []
        for _, refs in read_pages(self._reader, root, self._fresh(root), damage):
            for pack in np.unique(refs.packs[refs.packs != ZERO]).tolist():
                self.data.add(pack, refs.slots[refs.packs == pack])
        self._forget(root, damage)
        return damage

    def _fresh(self, root: Root) -> list[int]:
        """Numbers of the pages that no disk had before, pack by pack, so that each pack is read once."""
        fresh: list[int] = []
        packs, slots = root.pages.packs, root.pages.slots
        for pack in np.unique(packs[packs != ZERO]).tolist():
            numbers = np.flatnonzero(packs == pack)
            fresh += numbers[~self.maps.holds(pack, slots[numbers])].tolist()
            self.maps.add(pack, slots[numbers])
        return fresh

    def _forget(self, root: Root, damage: list[Damage]) -> None:
        """A damaged page is reported for every disk that has it, so it does not count as seen."""
        for item in damage:
            number = item.offset // (PAGE_CHUNKS * CHUNK)
            self.maps.discard(int(root.pages.packs[number]), int(root.pages.slots[number]))
