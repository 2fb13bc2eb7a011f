"""Whether the packs that the index names are really there, and sound as far as this process knows.

The index may name a pack that is gone, or that was seen to be damaged. A point that refers to it would
be broken from birth, so the first time that a run meets an older pack it asks the store: one request a
pack, not one a chunk.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from puller.errors import ObjectNotFound
from puller.repository.format.footer import PackKind
from puller.repository.format.pages import Numbers, PackTable
from puller.repository.index.chunkindex import MISS
from puller.store.base import Store


class Presence:
    """Remembers for one run which packs are there. Safe for many threads."""

    def __init__(self, store: Store, table: PackTable, damaged: Collection[bytes]) -> None:
        self._store = store
        self._table = table
        self._damaged = damaged
        self._known: dict[tuple[PackKind, int], bool] = {}

    def note(self, kind: PackKind, pack: int) -> None:
        """``pack`` is of this run: it will be there before the point is."""
        self._known[kind, pack] = True

    def of(self, kind: PackKind, packs: Numbers) -> Numbers:
        """``packs`` with MISS in place of those that are not stored as packs of ``kind``."""
        gone = [pack for pack in set(packs.tolist()) if pack != MISS and not self._has(kind, pack)]
        return np.where(np.isin(packs, gone), MISS, packs) if gone else packs

    def _has(self, kind: PackKind, pack: int) -> bool:
        if self._damaged and self._table.pack_id(pack) in self._damaged:
            return False
        known = self._known.get((kind, pack))
        if known is None:
            known = self._known[kind, pack] = self._ask(kind, pack)
        return known

    def _ask(self, kind: PackKind, pack: int) -> bool:
        try:
            return self._store.stat(kind.object_name(self._table.pack_id(pack))).size > 0
        except ObjectNotFound:
            return False
