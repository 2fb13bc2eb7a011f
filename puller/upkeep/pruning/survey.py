"""Survey: the unreached slots of each stored pack, and whether their removal is worth it."""

from __future__ import annotations

from collections.abc import Callable, Collection

import numpy as np

from puller.errors import DamagedData
from puller.repository.collecting.compaction import present
from puller.repository.collecting.inventory import Inventory, PackObject
from puller.repository.collecting.reach import Reach
from puller.repository.format.bits import column_of
from puller.repository.format.footer import Footer
from puller.repository.format.index import IndexedPack, PackEntry
from puller.repository.format.packname import PackKind, parse_pack_name
from puller.repository.reading.packs import PackReader, StoredPack
from puller.repository.records.condemned import ALL, CondemnedSlots
from puller.repository.repository import Repository
from puller.units import KIB

LEAST_GAIN = 64 * KIB
"""Least bytes that a compaction has to free: it costs three requests and an index entry."""


class Survey:
    """``garbage`` is what to condemn by now, age aside; ``unindexed`` is live and missing from the index.

    Sizes come from the listing, numbers of slots from the index. A footer is only read where the index does
    not know a pack as it is, or little of it is reached; a pack whose footer cannot be read is left alone,
    unless nothing at all reaches it.
    """

    def __init__(
        self,
        repository: Repository,
        reach: Reach,
        inventory: Inventory,
        watched: Collection[bytes],
        beat: Callable[[], None],
    ) -> None:
        """``watched`` are packs that are condemned already; ``beat`` is called now and then."""
        self._repository = repository
        self._reach = reach
        self._watched = watched
        self._beat = beat
        self._present: dict[bytes, int] = {}
        self.reader = PackReader(repository.store, repository.keys)
        self.garbage: dict[bytes, CondemnedSlots] = {}
        self.unindexed: list[bytes] = []
        self.inventory = inventory
        for entry in self.inventory.read_indexes(repository.store, repository.keys):
            self._survey_pack(entry)
        for pack_id, stored in self.inventory.packs.items():
            self._survey_rest(pack_id, stored)

    @property
    def packs(self) -> dict[bytes, PackObject]:
        """The stored packs by id."""
        return self.inventory.packs

    def matters(self, pack_id: bytes) -> bool:
        """Return whether a pack is stored, or a point needs it nevertheless."""
        number = self._repository.maps.table.number(pack_id)
        return pack_id in self.packs or number in self._reach.packs or number in self._reach.map_packs

    def misses(self, key: str) -> bool:
        """Return whether ``key`` is of a pack that a point needs, and of which nothing is stored."""
        named = parse_pack_name(key)
        return named is not None and named[1] not in self.packs and self.matters(named[1])

    def live(self, pack_id: bytes) -> int:
        """The set of the slots of a pack that something reaches."""
        number = self._repository.maps.table.number(pack_id)
        slots = self._reach.data if self.packs[pack_id].kind is PackKind.DATA else self._reach.maps
        return slots.bits(number)

    def present(self, pack_id: bytes) -> int | None:
        """Return the set of the slots that a pack still has; None if unknown."""
        if pack_id not in self._present:
            opened = self.open(pack_id)
            if opened is None:
                return None
            self._present[pack_id] = present(opened.footer)
        return self._present[pack_id]

    def open(self, pack_id: bytes, generation: int | None = None) -> StoredPack | None:
        """Return the pack as stored now, by default its highest generation; None if it is damaged or gone."""
        pack = self.packs[pack_id]
        try:
            return self.reader.open(pack.kind, pack_id, pack.generation if generation is None else generation)
        except DamagedData:
            return None

    def _survey_pack(self, pack: PackEntry) -> None:
        """Return the unreached slots of a pack that has reached ones, if removing them is worth it."""
        self._beat()
        live, alive = self.live(pack.pack_id), pack.present
        unreached = alive & ~live
        condemnable = bool(live) and _may_be_worth_it(pack, unreached) and self._is_worth_it(pack, unreached)
        if condemnable:
            self.garbage[pack.pack_id] = CondemnedSlots(pack.kind, unreached)
        if condemnable or pack.pack_id in self._watched:
            self._present[pack.pack_id] = alive

    def _is_worth_it(self, pack: PackEntry, unreached: int) -> bool:
        opened = self.open(pack.pack_id)
        return opened is not None and _is_worth_it(opened.footer, unreached)

    def _survey_rest(self, pack_id: bytes, pack: PackObject) -> None:
        """Find packs that are unreached as a whole, and reached packs without a correct index entry."""
        if not self.live(pack_id):
            self.garbage[pack_id] = CondemnedSlots(pack.kind, ALL)
        elif pack_id not in self.inventory.homes:
            self._beat()
            opened = self.open(pack_id)
            if opened is not None:
                self.unindexed.append(pack_id)
                indexed = IndexedPack(pack.kind, pack_id, pack.size, opened.footer, pack.generation)
                self._survey_pack(PackEntry.of(indexed))


def _may_be_worth_it(pack: PackEntry, unreached: int) -> bool:
    """Whether the footer is worth a look: the pack is not small, and half of it or less is reached."""
    return pack.size >= LEAST_GAIN and 2 * unreached.bit_count() >= pack.present.bit_count()


def _is_worth_it(footer: Footer, unreached: int) -> bool:
    """Whether less than half of what is stored is reached, and the rest is worth the requests."""
    gain = int(footer.lengths[column_of(unreached, footer.count)].sum(dtype=np.int64))
    return gain >= LEAST_GAIN and 2 * gain > int(footer.lengths.sum(dtype=np.int64))
