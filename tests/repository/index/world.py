"""Index objects that come and go, and an index over them that a model checks."""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest

from puller.errors import MissingObject
from puller.host.folders import cache_directory
from puller.repository.format.footer import DEAD, Footer, Ids
from puller.repository.format.index import IndexedPack, IndexPart
from puller.repository.format.packname import PackKind
from puller.repository.format.pages import PackTable
from puller.repository.index import cache, hints
from puller.repository.index.budget import BUDGET
from puller.repository.index.cache import load_hints
from puller.repository.keys.keyring import NO_KEY_BOX
from puller.repository.writing import chunkindex
from puller.repository.writing.chunkindex import ChunkIndex
from puller.store.base import ObjectInfo

REPOSITORY = bytes(range(16))
PACKS, SLOTS = 12, 120
Described = tuple[int, int]
"""A pack by its number, and how far prune has compacted it."""


def shrink(patch: pytest.MonkeyPatch) -> None:
    for module, name, value in (
        (chunkindex, "RECENT", 400),
        (cache, "_SMALL", 100),
        (hints, "_STEP", 16),
        (hints, "_PIECE", 50),
    ):
        patch.setattr(module, name, value)


@lru_cache(maxsize=PACKS)
def ids_in(pack: int) -> list[bytes]:
    """Contents of a pack: some of them are in the next pack, too."""
    own, shared = random.Random(f"own {pack}"), random.Random(f"shared {pack // 2}")
    ids = [own.randbytes(16) for _ in range(SLOTS - 20)] + [shared.randbytes(16) for _ in range(20)]
    own.shuffle(ids)
    return ids


def id_of(pack: int) -> bytes:
    return pack.to_bytes(16, "big")


def is_dead(slot: int, level: int) -> bool:
    return slot % 4 < level


def indexed(pack: int, level: int) -> IndexedPack:
    ids = ids_in(pack)
    flags = [DEAD if is_dead(slot, level) else 0 for slot in range(len(ids))]
    column = np.frombuffer(b"".join(ids), np.uint8).reshape(-1, 16)
    footer = Footer(NO_KEY_BOX, column, np.zeros(len(ids), np.uint32), np.array(flags, np.uint8))
    return IndexedPack(PackKind.DATA, id_of(pack), 0, footer)


class World:
    """Index objects, made up, and packs as they are stored: by number, how far each is compacted.

    ``size`` is what the listing gives for each index object, by which a host chooses its sample.
    """

    def __init__(self, objects: Mapping[str, Sequence[Described]], size: int = 1) -> None:
        self.objects = dict(objects)
        self.levels = {pack: level for packs in objects.values() for pack, level in packs}
        self.size = size
        self.read_keys: list[str] = []
        self.loaded: list[int] = []

    def listed(self) -> list[ObjectInfo]:
        return [ObjectInfo(key, self.size, 0.0, repr(packs)) for key, packs in self.objects.items()]

    def read(self, info: ObjectInfo, share: float) -> IndexPart:
        self.read_keys.append(info.key)
        part = IndexPart.of(indexed(pack, level) for pack, level in self.objects[info.key])
        return IndexPart(part.packs, part.rows[: max(1, int(len(part.rows) * share))])

    def ids(self, kind: PackKind, pack_id: bytes) -> Ids:
        """The footer of a pack as it is now."""
        pack = int.from_bytes(pack_id, "big")
        self.loaded.append(pack)
        if pack not in self.levels:
            raise MissingObject("gone")
        ids = indexed(pack, self.levels[pack]).footer.ids.copy()
        ids[[is_dead(slot, self.levels[pack]) for slot in range(len(ids))]] = 0
        return ids

    def open(
        self, repository_id: bytes = REPOSITORY, avoided: Collection[bytes] = (), budget: int = BUDGET
    ) -> Opened:
        return Opened(self, repository_id, avoided, budget)

    def named(self) -> set[int]:
        return {pack for packs in self.objects.values() for pack, _ in packs}


class Opened:
    """An open index; ``added`` are the contents of its run."""

    def __init__(self, world: World, repository_id: bytes, avoided: Collection[bytes], budget: int) -> None:
        self.world = world
        self.avoided = avoided
        self.table = PackTable()
        self.table.number(b"met before, else")  # so that numbers of the cache and the run differ
        self.files = load_hints(repository_id, world.listed(), world.read, budget)
        self.index = ChunkIndex(self.files, world, self.table, avoided)  # type: ignore[arg-type]
        self.added: dict[bytes, set[tuple[bytes, int]]] = {}

    def add(self, key: bytes, pack: bytes, slot: int) -> None:
        self.index.add(PackKind.DATA, self.table.number(pack), slot, [key])
        self.added.setdefault(key, set()).add((pack, slot))

    def find(self, keys: Sequence[bytes]) -> list[tuple[bytes, int] | None]:
        packs, slots = self.index.find(PackKind.DATA, keys)
        return [
            None if pack < 0 else (self.table.pack_id(pack), slot)
            for pack, slot in zip(packs.tolist(), slots.tolist(), strict=True)
        ]

    def check(self) -> None:
        """What packs have that are stored, named and not avoided is found; nothing that is not so."""
        expected = [key for pack in self._usable() for key in self._live(pack)]
        found = self.find(expected)
        assert None not in found
        self._require_true(expected, found)

    def check_nothing_wrong(self, keys: Sequence[bytes] | None = None) -> float:
        """What is found is so; returns the share that is found."""
        asked = every_id() if keys is None else list(keys)
        found = self.find(asked)
        self._require_true(asked, found)
        return sum(place is not None for place in found) / len(asked)

    def _usable(self) -> list[int]:
        there = self.world.named() & self.world.levels.keys()
        return [pack for pack in sorted(there) if id_of(pack) not in self.avoided]

    def _live(self, pack: int) -> list[bytes]:
        level = self.world.levels[pack]
        return [key for slot, key in enumerate(ids_in(pack)) if not is_dead(slot, level)]

    def _require_true(self, keys: Sequence[bytes], found: Sequence[tuple[bytes, int] | None]) -> None:
        for key, place in zip(keys, found, strict=True):
            if place is None or place in self.added.get(key, ()):
                continue
            pack = int.from_bytes(place[0], "big")
            assert place[0] not in self.avoided
            assert ids_in(pack)[place[1]] == key
            assert not is_dead(place[1], self.world.levels[pack])


@lru_cache(maxsize=1)
def every_id() -> list[bytes]:
    return [key for pack in range(PACKS) for key in ids_in(pack)] + [random.Random(99).randbytes(16)]


def some_objects() -> World:
    return World({f"index/{number}": [(2 * number, 0), (2 * number + 1, 1)] for number in range(5)})


def folder() -> Path:
    return cache_directory(REPOSITORY.hex())


def files() -> list[str]:
    return sorted(path.name for path in folder().iterdir())


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))
