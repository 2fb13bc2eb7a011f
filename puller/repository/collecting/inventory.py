"""Which packs are stored, and what the index rightly says of them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from puller.repository.format.footer import PackKind
from puller.repository.format.index import IndexedPack
from puller.repository.format.sealing import Boxes
from puller.repository.index.indexfeed import INDEX_PREFIX, read_index
from puller.store.base import ObjectInfo, Store

_INDEX = re.compile(INDEX_PREFIX + r"[0-9a-f]{32}")
_PACK = re.compile(r"(?:packs|maps)/([0-9a-f]{2})/(\1[0-9a-f]{30})")


@dataclass(frozen=True, slots=True)
class PackObject:
    """A pack as it was listed: ``size`` in bytes, ``modified`` by the store's clock."""

    kind: PackKind
    size: int
    modified: float


@dataclass(frozen=True)
class Inventory:
    """``packs`` by id. ``homes`` names, for each pack that is indexed rightly, one index object that does so.

    ``faulty`` are the index objects that also say what is not so, or what another one says: prune or a
    run that was overtaken by it left them.
    """

    indexes: tuple[ObjectInfo, ...]
    packs: dict[bytes, PackObject]
    homes: dict[bytes, str] = field(default_factory=dict)
    faulty: set[str] = field(default_factory=set)

    @classmethod
    def take(cls, store: Store) -> Inventory:
        """List what is there.

        Index objects come before packs, and a pack is durable before an index names it: so a pack that
        is not listed is gone.
        """
        indexes = tuple(info for info in store.list(INDEX_PREFIX) if info.size and _INDEX.fullmatch(info.key))
        return cls(indexes, _list_packs(store))

    def read_indexes(self, store: Store, boxes: Boxes) -> Iterator[IndexedPack]:
        """Read the index; yield what it rightly says, each pack once, and note the rest as faulty."""
        for info in self.indexes:
            for pack in read_index(store, boxes, info.key) or ():
                if self._is_news(pack):
                    self.homes[pack.pack_id] = info.key
                    yield pack
                else:
                    self.faulty.add(info.key)

    def is_right(self, name: str, pack: IndexedPack) -> bool:
        """Whether the index object ``name`` is the one that rightly says this."""
        return self.homes.get(pack.pack_id) == name and self.packs[pack.pack_id].size == pack.size

    def _is_news(self, pack: IndexedPack) -> bool:
        """Compaction always makes a pack smaller, so size tells whether the index knows the pack as it is."""
        stored = self.packs.get(pack.pack_id)
        return stored is not None and stored.size == pack.size and pack.pack_id not in self.homes


def _list_packs(store: Store) -> dict[bytes, PackObject]:
    """By id. What is not named like a pack is foreign, and so is an empty object."""
    found: dict[bytes, PackObject] = {}
    for kind in PackKind:
        for info in store.list(kind.prefix):
            name = _PACK.fullmatch(info.key)
            if name is not None and info.size:
                found[bytes.fromhex(name[2])] = PackObject(kind, info.size, info.modified)
    return found
