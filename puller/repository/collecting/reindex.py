"""Index objects replaced by others that say less, or the same in fewer objects.

What is new is durable before what is old is deleted. So a reader of the index misses nothing, and after
a crash some of it is said twice, which the next prune mends.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Sequence

from puller.repository.format import index
from puller.repository.format.footer import ID
from puller.repository.format.index import IndexedPack
from puller.repository.format.sealing import Boxes, BoxKind
from puller.repository.index.indexfeed import INDEX_PREFIX, read_index
from puller.store.base import ObjectInfo, Store
from puller.units import KIB, MIB

SMALL = 256 * KIB
"""Bytes below which an index object is merged with others: each costs every run a request."""

LEAST = 8
"""Small ones that are worth merging, so that what was merged is not rewritten each time."""

CONTENT = 16 * MIB
"""Bytes, unpacked, at which an index object is put: some 800 packs. Bounds the memory of a rewrite."""

Keep = Callable[[str, IndexedPack], IndexedPack | None]
"""Given an index object's name and what it says of a pack: what is to be said in its stead, if anything."""


def mergeable(indexes: Sequence[ObjectInfo]) -> set[str]:
    """Names of the small index objects, if there are enough of them."""
    small = {info.key for info in indexes if info.size < SMALL}
    return small if len(small) >= LEAST else set()


def rewrite(
    store: Store, boxes: Boxes, names: Iterable[str], keep: Keep, added: Iterable[IndexedPack]
) -> list[str]:
    """Put what ``keep`` makes of the index objects ``names``, and ``added``; return which are to be deleted.

    One that cannot be read stays: it may be of a newer version.
    """
    writer = _IndexWriter(store, boxes)
    replaced = []
    for name in names:
        packs = read_index(store, boxes, name)
        if packs is not None:
            replaced.append(name)
            writer.add(kept for pack in packs if (kept := keep(name, pack)) is not None)
    writer.add(added)
    writer.flush()
    return replaced


def write(store: Store, boxes: Boxes, packs: Iterable[IndexedPack]) -> None:
    """Put index objects that say ``packs``: durable when this returns."""
    writer = _IndexWriter(store, boxes)
    writer.add(packs)
    writer.flush()


class _IndexWriter:
    """Puts index objects of about CONTENT bytes."""

    def __init__(self, store: Store, boxes: Boxes) -> None:
        self._store = store
        self._boxes = boxes
        self._content = bytearray()

    def add(self, packs: Iterable[IndexedPack]) -> None:
        for pack in packs:
            self._content += index.encode([pack])
            if len(self._content) >= CONTENT:
                self.flush()

    def flush(self) -> None:
        if self._content:
            name = INDEX_PREFIX + secrets.token_hex(ID)
            self._store.put_new(name, self._boxes.pack(BoxKind.INDEX, name, bytes(self._content)))
            self._content.clear()
