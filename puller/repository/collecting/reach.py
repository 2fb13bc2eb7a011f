"""The slots that restore points reach: every slot of every pack that some map names.

Points share pages, so each distinct page is read only once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from puller.repository.format.address import Address
from puller.repository.format.bits import bits_of, column_of
from puller.repository.format.pages import ZERO, Root, Slots
from puller.repository.reading.damage import Damage, read_pages
from puller.repository.reading.mapreader import MapReader
from puller.units import CHUNK, PAGE_CHUNKS


class SlotSet:
    """Slots of many packs, by pack number: one bit for each slot, as a repository may have billions."""

    def __init__(self) -> None:
        self._bits: dict[int, int] = {}

    def __iter__(self) -> Iterator[int]:
        """Iterate over the packs of which a slot is, or was, in the set."""
        return iter(self._bits)

    def __len__(self) -> int:
        return len(self._bits)

    def __contains__(self, pack: int) -> bool:
        return pack in self._bits

    def bits(self, pack: int) -> int:
        """Return the slots of a pack: bit k stands for slot k."""
        return self._bits.get(pack, 0)

    def __getitem__(self, pack: int) -> NDArray[np.bool_]:
        """Return the slots of a pack as booleans, up to the last one in the set."""
        bits = self.bits(pack)
        return column_of(bits, bits.bit_length())

    def add(self, pack: int, slots: Slots) -> None:
        """Add slots of one pack, at least one."""
        column = np.zeros(int(np.max(slots)) + 1, np.bool_)
        column[slots] = True
        self._bits[pack] = self.bits(pack) | bits_of(column)

    def put(self, pack: int, bits: int) -> None:
        """Set the slots of a pack, in the form of ``bits``."""
        self._bits[pack] = bits

    def discard(self, pack: int, slot: int) -> None:
        """Remove a slot that is in the set."""
        self._bits[pack] &= ~(1 << slot)

    def holds(self, pack: int, slots: Slots) -> NDArray[np.bool_]:
        """Return for each of some slots of one pack whether it is in the set."""
        column = self[pack]
        held = np.zeros(len(slots), np.bool_)
        inside = slots < len(column)
        held[inside] = column[slots[inside]]
        return held


class Reach:
    """Collects reached slots: ``data`` of data packs; ``maps`` of map packs, that is pages and roots.

    Data packs whose ids ``wants`` declines are left out, which saves their memory.
    """

    def __init__(self, maps: MapReader, wants: Callable[[bytes], bool] = lambda _: True) -> None:
        self._reader = maps
        self._wants = wants
        self._wanted: dict[int, bool] = {}
        self.data = SlotSet()
        self.maps = SlotSet()

    @property
    def packs(self) -> SlotSet:
        """Return the reached slots of data packs."""
        return self.data

    @property
    def map_packs(self) -> SlotSet:
        """Return the reached slots of map packs."""
        return self.maps

    def has_root(self, address: Address) -> bool:
        """Return whether the root was added."""
        pack, slots = self._place(address)
        return bool(self.maps.holds(pack, slots)[0])

    def note_root(self, address: Address) -> None:
        """Add a root that has been read."""
        self.maps.add(*self._place(address))

    def _place(self, address: Address) -> tuple[int, Slots]:
        return self._reader.table.number(address.pack), np.array([address.slot], np.uint16)

    def add(self, root: Root) -> list[Damage]:
        """Add the pages of one disk; return the parts of it whose pages cannot be read."""
        damage: list[Damage] = []
        for _, refs in read_pages(self._reader, root, self._fresh(root), damage):
            for pack in self._chosen(np.unique(refs.packs[refs.packs != ZERO]).tolist()):
                self.data.add(pack, refs.slots[refs.packs == pack])
        self._forget(root, damage)
        return damage

    def _chosen(self, packs: Iterable[int]) -> Iterator[int]:
        for pack in packs:
            if pack not in self._wanted:
                self._wanted[pack] = self._wants(self._reader.table.pack_id(pack))
            if self._wanted[pack]:
                yield pack

    def _fresh(self, root: Root) -> list[int]:
        """Return the numbers of new pages, pack by pack, so that each pack is read once."""
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
