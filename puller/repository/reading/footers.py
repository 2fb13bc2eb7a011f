"""Ids of contents in packs, from their footers, to find contents that are stored already.

They belong to one run. A footer that was read before the run began may be outdated: the records of condemned
packs tell a run what may be removed while it runs, not what was removed before.
"""

from __future__ import annotations

import threading
from collections import OrderedDict

from puller.cancelling import Scoped
from puller.errors import DamagedData, MissingObject
from puller.repository.format.footer import DEAD, Footer, Ids
from puller.repository.format.packname import PackKind
from puller.repository.reading.keyed_locks import KeyedLocks
from puller.repository.reading.packs import PackReader
from puller.units import MIB

CACHED = 8 * MIB
"""Bytes of ids in the cache."""


class _Cache:
    """Ids by pack; the least recently used ones are evicted first."""

    def __init__(self) -> None:
        self._held: OrderedDict[tuple[PackKind, bytes], Ids] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, pack: tuple[PackKind, bytes]) -> Ids | None:
        with self._lock:
            if pack in self._held:
                self._held.move_to_end(pack)
            return self._held.get(pack)

    def keep(self, pack: tuple[PackKind, bytes], ids: Ids) -> None:
        with self._lock:
            self._held[pack] = ids
            self._bytes += ids.nbytes
            while self._bytes > CACHED:
                self._bytes -= self._held.popitem(last=False)[1].nbytes


class Footers(Scoped):
    """The footers that one run reads. Safe for many threads: a footer that several need is read once."""

    def __init__(self, packs: PackReader) -> None:
        self._packs = packs
        self.scope = packs.scope
        self._cache = _Cache()
        self._loading = KeyedLocks()

    def ids(self, kind: PackKind, pack_id: bytes) -> Ids:
        """Return (n, 16): the id of the content of each slot of the pack, zero bytes for a dead slot.

        Raises MissingObject; DamagedData, after which the pack is among ``PackReader.damaged``; StoreError.
        """
        with self._loading.of(pack_id):
            known = self._cache.get((kind, pack_id))
            if known is None:
                known = self._load(kind, pack_id)
                self._cache.keep((kind, pack_id), known)
            return known

    def _load(self, kind: PackKind, pack_id: bytes) -> Ids:
        try:
            return _live_ids(self._packs.load(kind, pack_id).footer)
        except MissingObject:
            raise
        except DamagedData:
            self._packs.damaged.add(pack_id)
            raise


def _live_ids(footer: Footer) -> Ids:
    """Return a copy: the array of a footer would keep all of the footer's content in memory."""
    ids = footer.ids.copy()
    ids[footer.flags & DEAD != 0] = 0
    return ids
