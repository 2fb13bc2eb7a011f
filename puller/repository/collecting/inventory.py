"""The stored packs, and the correct entries of the index about them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial

from puller.cancelling import CancelScope
from puller.repository.format.index import PackEntry
from puller.repository.format.packname import PackKind, parse_pack_name
from puller.repository.format.sealing import Keys
from puller.repository.reading.indexes import list_index, read_packs
from puller.store import parallel
from puller.store.base import ObjectInfo, Store
from puller.store.parallel import each

_READERS = 16
"""Tables of the index that are read at once: up to 16 MiB each, mostly far less."""


@dataclass(frozen=True, slots=True)
class PackObject:
    """The highest listed generation of a pack: ``size`` in bytes, ``modified`` by the store's clock.

    ``lower`` are the lower generations, which an earlier prune did not delete.
    """

    kind: PackKind
    size: int
    modified: float
    generation: int = 0
    lower: tuple[int, ...] = ()

    @property
    def generations(self) -> tuple[int, ...]:
        """All that are stored, the lower ones first: a reader may take any."""
        return *self.lower, self.generation

    def names(self, pack_id: bytes) -> list[str]:
        """Return all objects of the pack, the lower generations first."""
        return [self.kind.object_name(pack_id, generation) for generation in self.generations]

    def lower_names(self, pack_id: bytes) -> list[str]:
        """Return the objects of the lower generations."""
        return [self.kind.object_name(pack_id, generation) for generation in self.lower]


@dataclass(frozen=True)
class Inventory:
    """``packs`` by id. ``homes`` names an index object with a correct entry for each pack that has one.

    ``named`` counts the packs in each index object. Some may be gone, compacted since, or also in another
    object: prune tolerates some of these.
    """

    indexes: tuple[ObjectInfo, ...]
    packs: dict[bytes, PackObject]
    homes: dict[bytes, str] = field(default_factory=dict)
    named: Counter[str] = field(default_factory=Counter)

    @classmethod
    def take(cls, store: Store) -> Inventory:
        """List packs and index objects.

        Index objects come before packs, and a pack is durable before an index names it: so a pack that
        is not listed is gone.
        """
        return cls.of(list(list_index(store)), list_packs(store))

    @classmethod
    def of(cls, indexes: Iterable[ObjectInfo], packs: dict[bytes, PackObject]) -> Inventory:
        """Return an inventory of index objects, and of packs that were listed after them."""
        # The newest first: its entries count, and older objects that could not be deleted add nothing.
        newest_first = sorted(indexes, key=lambda info: info.modified, reverse=True)
        return cls(tuple(newest_first), packs)

    def read_indexes(self, store: Store, keys: Keys) -> Iterator[PackEntry]:
        """Read the tables of the index; yield the correct entries, each pack once."""

        def read(scope: CancelScope, info: ObjectInfo) -> list[PackEntry] | None:
            return read_packs(store.within(scope), keys, info)

        found = each(store.scope, read, self.indexes, _READERS)
        for info, packs in zip(self.indexes, found, strict=True):
            for pack in packs or ():
                self.named[info.key] += 1
                if self._is_news(pack):
                    self.homes[pack.pack_id] = info.key
                    yield pack

    def is_right(self, name: str, pack: PackEntry) -> bool:
        """Return whether the index object ``name`` is the one that holds this correct entry."""
        return self.homes.get(pack.pack_id) == name and self._is_as_stored(pack)

    def outdated(self, doomed: Collection[bytes]) -> set[str]:
        """Return index objects with over a quarter of wrong entries, once the ``doomed`` packs change."""
        right = Counter(name for pack_id, name in self.homes.items() if pack_id not in doomed)
        return {name for name, count in self.named.items() if 4 * right[name] < 3 * count}

    @property
    def needed(self) -> list[ObjectInfo]:
        """Return the index objects with entries that no newer one has."""
        homes = set(self.homes.values())
        return [info for info in self.indexes if info.key in homes]

    def _is_news(self, pack: PackEntry) -> bool:
        return pack.pack_id not in self.homes and self._is_as_stored(pack)

    def _is_as_stored(self, pack: PackEntry) -> bool:
        """Return whether the index entry describes the pack as stored, or as before a compaction."""
        stored = self.packs.get(pack.pack_id)
        return stored is not None and (stored.generation, stored.size) == (pack.generation, pack.size)


def _is_wanted(key: str, wants: Callable[[bytes], bool]) -> bool:
    name = parse_pack_name(key)
    return name is not None and wants(name[1])


def list_packs(
    store: Store, kinds: Iterable[PackKind] = PackKind, wants: Callable[[bytes], bool] = lambda _: True
) -> dict[bytes, PackObject]:
    """Return the stored packs by id that ``wants`` accepts. Other names and empty objects are foreign.

    An id that exists as both kinds is left out: one of the two is foreign, and only its footer tells which.
    """

    def names(kind: PackKind, scope: CancelScope) -> list[ObjectInfo]:
        return [info for info in store.within(scope).list(kind.prefix) if _is_wanted(info.key, wants)]

    found: dict[bytes, PackObject] = {}
    unclear: set[bytes] = set()
    kinds = tuple(kinds)
    listings = parallel.all_together(store.scope, [partial(names, kind) for kind in kinds])
    for kind, infos in zip(kinds, listings, strict=True):
        for info in infos:
            name = parse_pack_name(info.key)
            if name is not None and name[0] is kind and info.size:
                _, pack_id, generation = name
                listed = PackObject(kind, info.size, info.modified, generation)
                other = found.get(pack_id)
                if other is not None and other.kind is not kind:
                    unclear.add(pack_id)
                else:
                    found[pack_id] = listed if other is None else _joined(listed, other)
    for pack_id in unclear:
        del found[pack_id]
    return found


def _joined(one: PackObject, other: PackObject) -> PackObject:
    """Join two generations of one pack."""
    low, high = sorted((one, other), key=lambda pack: pack.generation)
    return replace(high, lower=(*high.lower, *low.lower, low.generation))
