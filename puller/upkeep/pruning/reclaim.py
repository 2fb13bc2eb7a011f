"""Reclaim: packs deleted and compacted, and the index after them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial

from puller.errors import DamagedData, MissingObject, ObjectChanged, ObjectExists, ObjectNotFound
from puller.repository.collecting.compaction import compact, compacted, is_copied, present
from puller.repository.collecting.disposal import Disposal
from puller.repository.collecting.inventory import PackObject
from puller.repository.collecting.reindex import IndexWriter, mergeable
from puller.repository.format.index import IndexedPack, PackEntry
from puller.repository.format.packname import MAX_GENERATION
from puller.repository.reading.packs import StoredPack
from puller.repository.records.condemned import ALL, Condemnations, slots_in
from puller.repository.repository import Repository
from puller.store.base import Store
from puller.upkeep.pruning.survey import Survey

_DELETED_AT_ONCE = 1000


class Reclaim:
    """Counts its work. ``beat`` is called regularly. After a crash, the next prune can finish the rest.

    ``left`` are packs that still have condemned slots, ``unlike`` the names of packs whose generations
    differ, or of which the highest cannot be read.
    """

    def __init__(
        self,
        repository: Repository,
        survey: Survey,
        disposal: Disposal,
        beat: Callable[[], None],
        like: Callable[[str], Store],
    ) -> None:
        """``like`` returns the store for an object that replaces the one of this name."""
        self._like = like
        self._repository = repository
        self._survey = survey
        self._disposal = disposal
        self._beat = beat
        self._index = IndexWriter(repository.store, repository.keys)
        self.left: set[bytes] = set()
        self.unlike: list[str] = []
        self.deleted = 0
        self.compacted = 0
        self.bytes_freed = 0

    def run(self, final: Condemnations) -> None:
        """Remove the slots of ``final`` that exist and are unreachable. Raises StoreError, Locked."""
        doomed = dict(self._doomed(final))
        if not self._delete_lower(final):
            # A store that keeps old generations would only collect more of them.
            self.left.update(pack_id for pack_id, slots in doomed.items() if slots != ALL)
            doomed = {pack_id: slots for pack_id, slots in doomed.items() if slots == ALL}
        self._delete([pack_id for pack_id, slots in doomed.items() if slots == ALL])
        partly = [
            (pack_id, slots) for pack_id, slots in doomed.items() if slots != ALL and pack_id not in self.left
        ]
        if not all(self._compact(pack_id, slots) for pack_id, slots in partly):
            self.left.update(pack_id for pack_id, _ in partly)
        self._rewrite_index(doomed)

    def _delete_lower(self, final: Condemnations) -> bool:
        """Delete lower generations that an earlier prune left behind; return False if the store refuses.

        Generations that stay still have condemned slots, so the records of these slots have to stay too.
        """
        packs = [(pack_id, pack) for pack_id, pack in self._survey.packs.items() if pack.lower]
        packs.sort(key=lambda item: item[1].modified)  # a store lets the oldest go first
        for place, (pack_id, pack) in enumerate(packs):
            self._beat()
            if not self._stands_alone(pack_id, pack, slots_in(final, pack_id)):
                self.left.add(pack_id)
                self.unlike.append(pack.kind.object_name(pack_id, pack.generation))
            elif not self._delete_all(pack.lower_names(pack_id)):
                self.left.update(other for other, _ in packs[place:])
                return False
        return True

    def _stands_alone(self, pack_id: bytes, pack: PackObject, condemned: int) -> bool:
        """Whether the highest generation can be read, and has what points and runs may find in lower ones."""
        survey, live = self._survey, self._survey.live(pack_id)
        high, needed = survey.open(pack_id), ~condemned | live
        if high is None or live & ~present(high.footer):
            return False
        try:
            lower = [survey.open(pack_id, generation) for generation in pack.lower]
            return all(low is None or is_copied(survey.reader, low, high, needed) for low in lower)
        except (ObjectChanged, DamagedData):
            return False

    def _doomed(self, final: Condemnations) -> Iterator[tuple[bytes, int]]:
        """Return the slots to remove for each pack; ALL for packs of which nothing stays."""
        for pack_id, sentence in final.items():
            if pack_id not in self._survey.packs:
                continue
            live = self._survey.live(pack_id)
            if sentence.slots == ALL and not live:
                yield pack_id, ALL
                continue
            there = self._survey.present(pack_id)
            if there is None:
                self.left.add(pack_id)
                continue
            dead = sentence.slots & ~live & there
            if dead:
                # An index may have told what is there; it is not believed if all of a pack is at stake.
                yield pack_id, ALL if dead == there and not live else dead

    def _rewrite_index(self, doomed: Mapping[bytes, int]) -> None:
        """Add missing packs to the index; remove outdated entries and merge small objects."""
        inventory = self._survey.inventory
        names = inventory.outdated(doomed.keys()) | mergeable(inventory.needed)
        for pack_id in self._survey.unindexed:
            if pack_id not in doomed:
                self._name(pack_id)
        said: set[bytes] = set()

        def keep(name: str, pack: PackEntry) -> bool:
            self._beat()
            if pack.pack_id in doomed or pack.pack_id in said or not inventory.is_right(name, pack):
                return False
            said.add(pack.pack_id)
            return True

        by_age = sorted(inventory.indexes, key=lambda info: info.modified)
        replaced = self._index.replace([info for info in by_age if info.key in names], keep)
        self._delete_all(replaced)

    def _name(self, pack_id: bytes) -> None:
        self._beat()
        opened = self._survey.open(pack_id)
        if opened is not None:
            self._index.add(_indexed(opened))

    def _delete(self, pack_ids: list[bytes]) -> None:
        packs = self._survey.packs
        for start in range(0, len(pack_ids), _DELETED_AT_ONCE):
            self._beat()
            batch = pack_ids[start : start + _DELETED_AT_ONCE]
            if self._delete_all([name for pack_id in batch for name in packs[pack_id].names(pack_id)]):
                self.deleted += len(batch)
                self.bytes_freed += sum(packs[pack_id].size for pack_id in batch)
            else:
                self.left.update(batch)

    def _compact(self, pack_id: bytes, slots: int) -> bool:
        """Compact a pack; False if the store refuses to delete the generation before."""
        self._beat()
        opened = self._survey.open(pack_id)
        if opened is None or opened.generation == MAX_GENERATION:
            self.left.add(pack_id)
            return True
        repository = self._repository
        try:
            store = self._like(opened.name)
            freed = compact(store, repository.keys, self._survey.reader, opened, slots)
        except (
            ObjectExists,
            ObjectChanged,
            ObjectNotFound,
            MissingObject,
        ):  # another prune is ahead of this one
            self.left.add(pack_id)
            return True
        self.compacted += 1
        self._index.add(compacted(repository.keys, _indexed(opened), slots))
        if not self._delete_all([opened.name]):
            return False
        self.bytes_freed += freed
        return True

    def _delete_all(self, names: list[str]) -> bool:
        return self._disposal.attempt(partial(self._repository.store.delete, names)) if names else True


def _indexed(pack: StoredPack) -> IndexedPack:
    return IndexedPack(pack.kind, pack.pack_id, pack.size, pack.footer, pack.generation)
