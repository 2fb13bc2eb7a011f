"""Reclaim: packs deleted and compacted, and the index after them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from puller.repository.collecting.compaction import compact, compacted
from puller.repository.collecting.reindex import IndexWriter, mergeable
from puller.repository.format.index import IndexedPack, PackEntry
from puller.repository.records.condemned import ALL, Condemnations
from puller.repository.repository import Repository
from puller.upkeep.survey import Survey

_DELETED_AT_ONCE = 1000


class Reclaim:
    """Counts what it did. ``beat`` is called now and then. A crash leaves what the next prune can finish."""

    def __init__(self, repository: Repository, survey: Survey, beat: Callable[[], None]) -> None:
        self._repository = repository
        self._survey = survey
        self._beat = beat
        self._index = IndexWriter(repository.store, repository.keys)
        self.deleted = 0
        self.compacted = 0
        self.bytes_freed = 0

    def run(self, final: Condemnations) -> None:
        """Remove what of ``final`` is there and unreachable. Raises StoreError, Locked."""
        doomed = dict(self._doomed(final))
        self._delete([pack_id for pack_id, slots in doomed.items() if slots == ALL])
        for pack_id, slots in doomed.items():
            if slots != ALL:
                self._compact(pack_id, slots)
        self._rewrite_index(doomed)

    def _doomed(self, final: Condemnations) -> Iterator[tuple[bytes, int]]:
        """For each pack the slots to remove; ALL for packs of which nothing stays."""
        for pack_id, sentence in final.items():
            if pack_id not in self._survey.packs:
                continue
            live = self._survey.live(pack_id)
            if sentence.slots == ALL and not live:
                yield pack_id, ALL
                continue
            present = self._survey.present(pack_id)
            dead = sentence.slots & ~live & (present or 0)
            if dead:
                yield pack_id, ALL if dead == present else dead

    def _rewrite_index(self, doomed: Mapping[bytes, int]) -> None:
        """Name what the index lacks; clear away what is not so any more, and small objects."""
        inventory = self._survey.inventory
        names = inventory.outdated(doomed.keys()) | mergeable(inventory.indexes)
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
        self._index.replace([info for info in by_age if info.key in names], keep)

    def _name(self, pack_id: bytes) -> None:
        self._beat()
        opened = self._survey.open(pack_id)
        if opened is not None:
            self._index.add(IndexedPack(opened.kind, pack_id, opened.size, opened.footer))

    def _delete(self, pack_ids: list[bytes]) -> None:
        packs = self._survey.packs
        for start in range(0, len(pack_ids), _DELETED_AT_ONCE):
            self._beat()
            batch = pack_ids[start : start + _DELETED_AT_ONCE]
            self._repository.store.delete([packs[pack_id].kind.object_name(pack_id) for pack_id in batch])
            self.deleted += len(batch)
            self.bytes_freed += sum(packs[pack_id].size for pack_id in batch)

    def _compact(self, pack_id: bytes, slots: int) -> None:
        self._beat()
        opened = self._survey.open(pack_id)
        if opened is not None:
            repository = self._repository
            self.bytes_freed += compact(repository.store, repository.keys, self._survey.reader, opened, slots)
            self.compacted += 1
            before = IndexedPack(opened.kind, pack_id, opened.size, opened.footer)
            self._index.add(compacted(repository.keys, before, slots))
