"""Repair of the index: rebuild it from the footers of the packs.

::

    lease ──► list index ──► list packs ──► read footers ──► put new index ──► delete the listed old ones
    no prune                 what those                        durable           what runs have put since
    beside                   name is there                                       is not listed, and stays

A crash leaves index objects with equal entries, which the next prune or repair merges.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from puller.cancelling import CancelScope
from puller.errors import DamagedData, MissingObject, StoreDenied
from puller.events import DiskDone, DiskPlanned, DiskProgress, Observer, Step, ignore
from puller.repository.collecting.inventory import Inventory
from puller.repository.collecting.lease import Lease
from puller.repository.collecting.reindex import IndexWriter
from puller.repository.format.index import INDEX_PREFIX, IndexedPack
from puller.repository.format.packname import PackKind
from puller.repository.reading.packs import PackReader, StoredPack
from puller.repository.repository import Repository
from puller.store.parallel import each

_READERS = 8
_BATCH = 64
"""Packs whose footers are read ahead; each may have 1.4 MiB of columns at most."""


@dataclass(frozen=True, slots=True)
class RepairReport:
    """Report of a repair of the index.

    ``packs`` is the number of packs in the new index, ``indexes_removed`` the number of old index objects
    that were deleted. ``damaged`` names the packs whose footer cannot be read: they stay as they are, and
    no new backup refers to what they hold.
    """

    packs: int
    indexes_removed: int
    damaged: tuple[str, ...]


def repair_index(repository: Repository, observer: Observer = ignore) -> RepairReport:
    """Rebuild the index from the footers of the packs. A backup-only key is enough.

    Raises Locked if a prune or another repair is at work, StoreError.
    """
    with Lease.take(repository.store, repository.keys.boxes(), "prune") as lease:
        return _Repair(repository, lease, observer).run()


class _Repair:
    """One repair, which holds the lease."""

    def __init__(self, repository: Repository, lease: Lease, observer: Observer) -> None:
        self._repository = repository
        self._lease = lease
        self._observer = observer
        self._reader = PackReader(repository.store, repository.keys)
        self._written = 0
        self._damaged: list[str] = []

    def run(self) -> RepairReport:
        """Put the new index, then delete the old one."""
        repository = self._repository
        self._observer(Step("repository", "survey"))
        inventory = Inventory.take(repository.store)
        self._observer(Step("repository", "packs"))
        writer = IndexWriter(repository.store, repository.keys)
        for pack in self._said(inventory):
            writer.add(pack)
        writer.flush()
        self._observer(Step("repository", "index"))
        self._lease.measure()
        old = {info.key for info in inventory.indexes}
        with suppress(StoreDenied):  # objects that stay repeat the new index, or say what readers tolerate
            repository.store.delete(old)
        left = {info.key for info in repository.store.list(INDEX_PREFIX)}
        return RepairReport(self._written, len(old - left), tuple(self._damaged))

    def _said(self, inventory: Inventory) -> Iterator[IndexedPack]:
        """Yield the content of the new index, a batch of packs at a time."""
        packs = [(stored.kind, pack_id, stored.generation) for pack_id, stored in inventory.packs.items()]
        self._observer(DiskPlanned("repository", "packs", len(packs), len(packs)))
        for start in range(0, len(packs), _BATCH):
            self._lease.renew()
            yield from self._read(packs[start : start + _BATCH])
            done = min(start + _BATCH, len(packs))
            self._observer(DiskProgress("repository", "packs", done, done, 0))
        self._observer(DiskDone("repository", "packs"))

    def _read(self, packs: Sequence[tuple[PackKind, bytes, int]]) -> Iterator[IndexedPack]:
        for opened in each(self._repository.scope, self._open, packs, _READERS):
            if opened is not None:
                self._written += 1
                yield IndexedPack(opened.kind, opened.pack_id, opened.size, opened.footer, opened.generation)

    def _open(self, scope: CancelScope, pack: tuple[PackKind, bytes, int]) -> StoredPack | None:
        """Return the pack; None if it is damaged, which is noted, or gone."""
        kind, pack_id, generation = pack
        try:
            return self._reader.within(scope).open(kind, pack_id, generation)
        except MissingObject:
            return None
        except DamagedData:
            self._damaged.append(kind.object_name(pack_id, generation))
            return None
