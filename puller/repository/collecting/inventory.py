"""Which packs are stored, and what the index rightly says of them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from puller.repository.format.footer import PackKind
from puller.repository.format.index import PackEntry
from puller.repository.format.sealing import Keys
from puller.repository.reading.indexes import list_index, read_packs
from puller.store.base import ObjectInfo, Store

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

    ``named`` counts the packs that each index object names. Some may be gone, be compacted since, or be named
    by another one: prune leaves that for a while.
    """

    indexes: tuple[ObjectInfo, ...]
    packs: dict[bytes, PackObject]
    homes: dict[bytes, str] = field(default_factory=dict)
    named: Counter[str] = field(default_factory=Counter)

    @classmethod
    def take(cls, store: Store) -> Inventory:
        """List what is there.

        Index objects come before packs, and a pack is durable before an index names it: so a pack that
        is not listed is gone.
        """
        return cls(tuple(list_index(store)), _list_packs(store))

    def read_indexes(self, store: Store, keys: Keys) -> Iterator[PackEntry]:
        """Read the tables of the index; yield what they rightly say, each pack once."""
        for info in self.indexes:
            for pack in read_packs(store, keys, info) or ():
                self.named[info.key] += 1
                if self._is_news(pack):
                    self.homes[pack.pack_id] = info.key
                    yield pack

    def is_right(self, name: str, pack: PackEntry) -> bool:
        """Whether the index object ``name`` is the one that rightly says this."""
        return self.homes.get(pack.pack_id) == name and self.packs[pack.pack_id].size == pack.size

    def outdated(self, doomed: Collection[bytes]) -> set[str]:
        """The index objects of which more than a quarter is not so, once the ``doomed`` packs are changed."""
        right = Counter(name for pack_id, name in self.homes.items() if pack_id not in doomed)
        return {name for name, count in self.named.items() if 4 * right[name] < 3 * count}

    def _is_news(self, pack: PackEntry) -> bool:
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
