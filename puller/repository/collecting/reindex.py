"""Replacement of index objects by smaller ones, or by fewer objects with the same entries.

New objects are durable before old ones are deleted. So a reader of the index misses nothing, and after a
crash some entries exist twice, which the next prune corrects.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from puller.cancelling import CancelScope
from puller.repository.format import index
from puller.repository.format.index import INDEX_PREFIX, IndexedPack, IndexPart, PackEntry
from puller.repository.format.packname import ID
from puller.repository.format.sealing import Keys
from puller.repository.reading.indexes import read_index
from puller.store.base import ObjectInfo, Store
from puller.store.parallel import each
from puller.units import MIB

SMALL = 2 * MIB
"""Bytes below which an index object is merged with others: each costs every run a request."""

LEAST = 8
"""Number of small objects that is worth a merge, so that merged ones are not rewritten each time."""

CONTENT = 4 * MIB
"""Bytes at which an index object is put. Bounds the memory of a rewrite."""

_PACK = 64
"""Bytes that a pack counts for, beside its rows and its dead slots: then no table has too many."""

_READERS = 8
"""Index objects that are read at once: most have less than SMALL bytes."""

_TOGETHER = 64
"""Packs that become a part together."""

Keep = Callable[[str, PackEntry], bool]
"""Returns, for an index object's name and its entry of a pack, whether to keep the entry."""


def mergeable(indexes: Sequence[ObjectInfo]) -> set[str]:
    """Return the names of the small index objects, if there are enough of them."""
    small = {info.key for info in indexes if info.size < SMALL}
    return small if len(small) >= LEAST else set()


class IndexWriter:
    """Puts index objects of about CONTENT bytes."""

    def __init__(self, store: Store, keys: Keys) -> None:
        self._store = store
        self._keys = keys
        self._parts: list[IndexPart] = []
        self._size = 0
        self._fresh: list[IndexedPack] = []

    def replace(self, infos: Iterable[ObjectInfo], keep: Keep) -> list[str]:
        """Put the entries that ``keep`` accepts, and all added ones; return the index objects to delete.

        An unreadable object stays: it may be of a newer version.
        """
        replaced = []

        def read(scope: CancelScope, info: ObjectInfo) -> IndexPart | None:
            return read_index(self._store.within(scope), self._keys, info)

        infos = list(infos)
        parts = each(self._store.scope, read, infos, _READERS)
        for info, part in zip(infos, parts, strict=True):
            if part is not None:
                replaced.append(info.key)
                kept = np.array([keep(info.key, pack) for pack in part.packs], np.bool_)
                self._add_part(part.only(kept))
        self.flush()
        return replaced

    def add(self, pack: IndexedPack) -> None:
        """Index a pack; put an object once it is large enough."""
        self._fresh.append(pack)
        if len(self._fresh) == _TOGETHER:
            self._add_fresh()

    def _add_fresh(self) -> None:
        fresh, self._fresh = self._fresh, []
        self._add_part(IndexPart.of(fresh))

    def _add_part(self, part: IndexPart) -> None:
        size = part.rows.nbytes + sum(_PACK + pack.dead.bit_length() // 8 for pack in part.packs)
        if self._size + size > CONTENT:
            self._put()
        self._parts.append(part)
        self._size += size

    def flush(self) -> None:
        """Put the rest. Everything added is durable when this returns."""
        self._add_fresh()
        self._put()

    def _put(self) -> None:
        part = IndexPart.join(self._parts)
        self._parts, self._size = [], 0
        if part.packs:
            name = INDEX_PREFIX + secrets.token_hex(ID)
            self._store.put_new(name, index.encode(self._keys, name, part))
