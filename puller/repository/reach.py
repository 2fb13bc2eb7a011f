"""What restore points reach: every slot of every pack that some map names.

Pages are shared between points, so each distinct page is read once however many points have it.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from puller.errors import DamagedData
from puller.repository.image import Damage
from puller.repository.mapreader import MapReader
from puller.repository.pages import ZERO, Refs, Root
from puller.units import CHUNK, PAGE_CHUNKS

_PAGES_AT_ONCE = 256


class Reach:
    """Collects reached slots: ``packs`` maps a data pack's number to a column of booleans, one a slot."""

    def __init__(self, maps: MapReader) -> None:
        self._maps = maps
        self._seen: set[int] = set()
        self.packs: dict[int, NDArray[np.bool_]] = {}
        self.map_packs: set[int] = set()

    def add(self, root: Root) -> list[Damage]:
        """Take in one disk; return the parts of it whose pages cannot be read."""
        fresh = self._fresh(root)
        damage: list[Damage] = []
        for number, refs in read_pages(self._maps, root, fresh, damage):
            self._forget_if_damaged(root, number, damage)
            self._mark(refs)
        return damage

    def _fresh(self, root: Root) -> list[int]:
        """Numbers of the pages that no disk had before."""
        present = np.flatnonzero(root.pages.packs != ZERO)
        self.map_packs.update(np.unique(root.pages.packs[present]).tolist())
        addresses = (root.pages.packs[present] << 16 | root.pages.slots[present]).tolist()
        fresh = [
            number for number, key in zip(present.tolist(), addresses, strict=True) if key not in self._seen
        ]
        self._seen.update(addresses)
        return fresh

    def _forget_if_damaged(self, root: Root, number: int, damage: list[Damage]) -> None:
        """A damaged page is reported for every disk that has it, so it does not count as seen."""
        if damage and damage[-1].offset == number * PAGE_CHUNKS * CHUNK:
            self._seen.discard(int(root.pages.packs[number]) << 16 | int(root.pages.slots[number]))

    def _mark(self, refs: Refs) -> None:
        for pack in np.unique(refs.packs[refs.packs != ZERO]).tolist():
            slots = refs.slots[refs.packs == pack]
            column = self.packs.get(pack, np.zeros(0, np.bool_))
            if len(column) <= int(slots.max()):
                column = np.concatenate([column, np.zeros(int(slots.max()) + 1 - len(column), np.bool_)])
                self.packs[pack] = column
            column[slots] = True


def read_pages(
    maps: MapReader, root: Root, numbers: list[int], damage: list[Damage]
) -> Iterator[tuple[int, Refs]]:
    """The pages with these numbers, some at a time. One that cannot be read goes to ``damage``, as zeros."""
    for start in range(0, len(numbers), _PAGES_AT_ONCE):
        batch = numbers[start : start + _PAGES_AT_ONCE]
        try:
            found = maps.pages(root, batch)
        except DamagedData:
            found = {number: _page(maps, root, number, damage) for number in batch}
        yield from found.items()


def _page(maps: MapReader, root: Root, number: int, damage: list[Damage]) -> Refs:
    try:
        return maps.pages(root, [number])[number]
    except DamagedData as error:
        start = number * PAGE_CHUNKS * CHUNK
        length = min(PAGE_CHUNKS * CHUNK, root.size - start)
        damage.append(Damage(start, length, error.message))
        return Refs.zeros(-(-length // CHUNK))
