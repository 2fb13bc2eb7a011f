"""The index as a run uses it: against a model, sampled, over damaged caches, with many at once."""

from __future__ import annotations

import multiprocessing
import os
import random
import resource
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import msgspec
import numpy as np
import pytest
from blake3 import blake3
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from puller.errors import DamagedData, MissingObject, StoreUnavailable
from puller.host.folders import cache_directory
from puller.repository import repository as repositories
from puller.repository.format.footer import DEAD, Footer, Ids
from puller.repository.format.index import IndexedPack, IndexPart, IndexRows
from puller.repository.format.packname import PackKind
from puller.repository.format.pages import PackTable
from puller.repository.index import cache, hints
from puller.repository.index.budget import BUDGET
from puller.repository.index.cache import load_hints
from puller.repository.index.hints import HintFile
from puller.repository.keys.keyring import NO_KEY_BOX
from puller.repository.repository import Repository
from puller.repository.writing import chunkindex
from puller.repository.writing.chunkindex import ChunkIndex
from puller.store.base import ObjectInfo
from puller.units import CHUNK, KIB
from tests.lab.feed import SMALL, store_disk
from tests.lab.memory import MemoryStore

REPOSITORY = bytes(range(16))
PACKS, SLOTS = 12, 120

Described = tuple[int, int]
"""A pack by its number, and how far prune has compacted it."""


@pytest.fixture(autouse=True)
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits so small that a few hundred contents meet every one of them."""
    monkeypatch.setenv("PULLER_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    shrink(monkeypatch)


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


described = st.tuples(st.integers(0, PACKS - 1), st.integers(0, 3))


class Machine(RuleBasedStateMachine):
    """Runs that open, find and add, while index objects and packs come and go between them."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World({})
        self.names = 0
        self.repository_id = os.urandom(16)

    @initialize()
    def begin(self) -> None:
        self.opened = self.world.open(self.repository_id)

    @rule(packs=st.lists(described, max_size=4))
    def put(self, packs: list[Described]) -> None:
        self.names += 1
        self.world.objects[f"index/{self.names}"] = packs
        for pack, level in packs:
            self.world.levels[pack] = max(level, self.world.levels.get(pack, 0))
        self.reopen(set())

    @precondition(lambda self: self.world.objects)
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        del self.world.objects[data.draw(st.sampled_from(sorted(self.world.objects)))]

    @precondition(lambda self: self.world.levels)
    @rule(data=st.data())
    def prune(self, data: st.DataObject) -> None:
        """Some packs vanish or become less, though index objects go on naming them."""
        for pack in data.draw(st.sets(st.sampled_from(sorted(self.world.levels)), max_size=3)):
            if pack % 2:
                del self.world.levels[pack]
            else:
                self.world.levels[pack] = min(3, self.world.levels[pack] + 1)
        self.reopen(set())

    @rule(avoided=st.sets(st.integers(0, PACKS - 1), max_size=3))
    def reopen(self, avoided: set[int]) -> None:
        self.opened.index.close()
        self.opened = self.world.open(self.repository_id, {id_of(pack) for pack in avoided})
        self.opened.check()

    @rule(first=st.integers(0, 100), count=st.integers(1, 130), seed=st.integers(0, 5))
    def add(self, first: int, count: int, seed: int) -> None:
        keys = [random.Random(1000 * seed + number).randbytes(16) for number in range(first, first + count)]
        for slot, key in enumerate(keys):
            self.opened.add(key, b"a pack of mine..", slot)
        assert None not in self.opened.find(keys[-50:])

    @rule()
    def find(self) -> None:
        self.opened.check_nothing_wrong()

    def teardown(self) -> None:
        if hasattr(self, "opened"):
            self.opened.index.close()


def test_runs_agree_with_a_model() -> None:
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=25, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


def some_objects() -> World:
    return World({f"index/{number}": [(2 * number, 0), (2 * number + 1, 1)] for number in range(5)})


def test_only_new_objects_are_read() -> None:
    world = some_objects()
    world.open().check()
    world.read_keys.clear()
    world.open().check()
    assert world.read_keys == []
    world.objects["index/new"] = [(10, 0)]
    world.levels[10] = 0
    world.open().check()
    assert world.read_keys == ["index/new"]


def test_what_is_newer_goes_into_a_small_file_until_it_is_worth_a_merge() -> None:
    world = some_objects()
    world.open()
    large = (folder() / "main").stat()
    world.objects["index/new"] = [(11, 3)]  # 30 rows
    world.levels[11] = 3
    world.open().check()
    assert (folder() / "main").stat().st_ino == large.st_ino
    assert HintFile(folder() / "newer", REPOSITORY).rows == 30
    world.objects["index/newer"] = [(10, 0)]
    world.levels[10] = 0
    world.open().check()
    assert HintFile(folder() / "newer", REPOSITORY).rows == 150
    world.objects["index/newest"] = [(10, 0)]
    opened = world.open()
    opened.check()
    assert len(opened.files) == 1
    assert files() == ["main"]


def test_an_object_that_vanished_and_came_back_counts_as_new() -> None:
    world = some_objects()
    world.open().check()
    gone = world.objects.pop("index/3")
    for number in range(3):
        world.objects[f"index/more {number}"] = [(0, 0), (1, 1)]
        world.open().check()
    world.objects["index/3"] = gone
    world.open().check()


def test_what_means_nothing_any_more_is_cleared_away() -> None:
    world = some_objects()
    assert sum(file.rows for file in world.open().files) == 5 * (SLOTS + SLOTS * 3 // 4)
    for name in ("index/1", "index/2"):
        del world.objects[name]
        world.open().check()
    assert sum(file.rows for file in world.open().files) == 3 * (SLOTS + SLOTS * 3 // 4)
    world.objects.clear()
    opened = world.open()
    assert [(file.rows, file.packs) for file in opened.files] == [(0, 0)]
    assert opened.check_nothing_wrong() == 0


def test_a_pack_is_read_once_and_its_neighbours_are_found_in_it() -> None:
    world = some_objects()
    opened = world.open()
    keys = [key for key in ids_in(4) if key not in ids_in(5)]
    assert opened.find(keys[:1]) == [(id_of(4), ids_in(4).index(keys[0]))]
    assert world.loaded == [4]
    for at in range(0, len(keys), 10):
        assert None not in opened.find(keys[at : at + 10])
    assert world.loaded == [4, 5], "from its middle on, the next pack that the same run wrote is read"


def test_a_pack_that_is_gone_is_asked_for_once() -> None:
    world = some_objects()
    opened = world.open()
    del world.levels[4]
    opened.check_nothing_wrong(ids_in(4)[:50])
    opened.check_nothing_wrong(ids_in(4)[50:])
    assert world.loaded.count(4) == 1


def test_packs_become_damaged_while_a_run_is_at_work() -> None:
    world = some_objects()
    damaged: set[bytes] = set()
    table = PackTable()
    files = load_hints(REPOSITORY, world.listed(), world.read, BUDGET)
    index = ChunkIndex(files, world, table, (), damaged)  # type: ignore[arg-type]
    assert (index.find(PackKind.DATA, ids_in(0))[0] >= 0).all()
    damaged.add(id_of(0))
    packs, _ = index.find(PackKind.DATA, ids_in(0))
    assert {table.pack_id(pack) for pack in packs.tolist() if pack >= 0} <= {id_of(1)}


def test_the_kind_of_a_pack_matters() -> None:
    opened = some_objects().open()
    assert (opened.index.find(PackKind.MAP, ids_in(0))[0] < 0).all()
    mine = opened.table.number(b"a map pack, mine")
    opened.index.add(PackKind.MAP, mine, 65535, [ids_in(0)[0]])
    assert opened.find(ids_in(0)[:1])[0] is not None
    packs, slots = opened.index.find(PackKind.MAP, ids_in(0)[:2])
    assert (packs.tolist(), slots.tolist()) == ([mine, -1], [65535, 0])
    assert [packs.dtype, slots.dtype] == [np.dtype(np.int64), np.dtype(np.uint16)]


# --- sampled ----------------------------------------------------------------------------------


def test_a_small_budget_keeps_a_sample_and_finds_neighbours() -> None:
    world = some_objects()
    world.size = 1050 * 8 // 5
    opened = world.open(budget=4 * KIB)  # 128 rows
    (file,) = opened.files
    assert file.shift == 4
    assert 30 < file.rows < 128
    stream = [key for pack in range(10) for key in ids_in(pack)]
    found = [place for at in range(0, len(stream), 8) for place in opened.find(stream[at : at + 8])]
    live = [key for pack in range(10) for key in opened._live(pack)]
    assert len([place for place in found if place]) > len(live) * 3 // 4


def rows_of(file: HintFile) -> IndexRows:
    return np.frombuffer(b"".join(file.pieces(17 * file.packs, 8, file.rows)), np.uint64)


def test_a_smaller_budget_thins_what_is_there_without_reading_it_again() -> None:
    world = some_objects()
    world.size = 1050 * 8 // 5
    whole = world.open()
    assert [file.shift for file in whole.files] == [0]
    world.read_keys.clear()
    thinned = world.open(budget=16 * KIB)
    assert world.read_keys == []
    (file,) = thinned.files
    assert file.shift == 2
    rows = rows_of(whole.files[0])
    assert rows_of(file).tolist() == hints.sample(rows, 2).tolist()
    thinned.check_nothing_wrong()
    world.objects["index/new"] = [(11, 0)]
    world.levels[11] = 0
    assert [file.shift for file in world.open(budget=16 * KIB).files] == [2, 2]


def test_a_sample_does_not_grow_back_for_every_little_change() -> None:
    world = some_objects()
    world.size = 1050 * 8 // 5
    world.open(budget=8 * KIB)
    world.read_keys.clear()
    assert [file.shift for file in world.open(budget=16 * KIB).files] == [3]
    assert world.read_keys == []
    assert [file.shift for file in world.open(budget=256 * KIB).files] == [0]
    assert len(world.read_keys) == 5


def test_ids_that_are_all_alike_do_not_break_the_budget() -> None:
    """Whoever holds the keys may write any rows."""
    world = some_objects()
    part = IndexPart(world.read(world.listed()[0], 1.0).packs, np.zeros(5000, np.uint64))
    (file,) = load_hints(REPOSITORY, world.listed(), lambda info, share: part, 32 * KIB)
    assert file.rows <= 1024
    assert next(file.find(np.array([5 << 20], np.uint64))) == 0


def test_packs_beyond_the_budget_are_left_out() -> None:
    world = some_objects()
    read = world.read
    for name in range(5):  # two packs, of which one has a row
        world.objects[f"index/{name}"] = [(2 * name, 3), (2 * name + 1, 0)]

    def first_row(info: ObjectInfo, share: float) -> IndexPart:
        part = read(info, share)
        return IndexPart(part.packs, part.rows[:1])

    world.read = first_row  # type: ignore[method-assign]
    (file,) = world.open(budget=4 * 17 * 5).files
    assert (file.packs, file.rows, len(file.sources)) == (4, 2, 5)
    world.read_keys.clear()
    world.open(budget=4 * 17 * 5).check_nothing_wrong()
    assert world.read_keys == []


# --- the cache --------------------------------------------------------------------------------


def folder() -> Path:
    return cache_directory(REPOSITORY.hex())


def files() -> list[str]:
    return sorted(path.name for path in folder().iterdir())


def test_what_dead_processes_left_is_swept() -> None:
    world = some_objects()
    world.open()
    for name, age in (("old.new", 90000), ("young.new", 0)):
        (folder() / name).write_bytes(b"of a process that was killed")
        os.utime(folder() / name, (time.time() - age,) * 2)
    world.objects["index/more"] = [(10, 0)]
    world.levels[10] = 0
    world.open().check()
    assert files() == ["main", "newer", "young.new"]


def _truncate() -> None:
    os.truncate(folder() / "main", (folder() / "main").stat().st_size // 2)


def _empty() -> None:
    os.truncate(folder() / "main", 0)


def _remove() -> None:
    (folder() / "main").unlink()


def _swap() -> None:
    (folder() / "main").write_bytes((folder() / "newer").read_bytes())


def _spoil_tail() -> None:
    content = bytearray((folder() / "main").read_bytes())
    content[-100] ^= 1
    (folder() / "main").write_bytes(content)


def _spoil_length() -> None:
    content = (folder() / "main").read_bytes()
    (folder() / "main").write_bytes(content[:-8] + b"\xff" * 8)


def _of_another_version() -> None:
    content = msgspec.msgpack.encode({"by": "another version"})
    end = blake3(content).digest(16) + len(content).to_bytes(8, "little")
    (folder() / "main").write_bytes(content + end)


@pytest.mark.parametrize(
    "damage", [_truncate, _empty, _remove, _swap, _spoil_tail, _spoil_length, _of_another_version]
)
def test_a_damaged_cache_is_built_anew(damage: object) -> None:
    world = some_objects()
    world.open().check()
    world.objects["index/more"] = [(10, 0)]
    world.levels[10] = 0
    world.open().check()
    damage()  # type: ignore[operator]
    world.open().check()
    world.read_keys.clear()
    world.open().check()
    assert world.read_keys == []


def spoil_rows() -> None:
    """Zeros in place of rows, as a host leaves that lost power."""
    path = folder() / "main"
    file = HintFile(path, REPOSITORY)
    content = bytearray(path.read_bytes())
    content[17 * file.packs : 17 * file.packs + 8 * file.rows] = bytes(8 * file.rows)
    path.write_bytes(content)


def test_damaged_rows_give_no_wrong_address_and_are_healed_by_the_next_run() -> None:
    world = some_objects()
    world.open().check()
    spoil_rows()
    opened = world.open()
    assert opened.check_nothing_wrong() == 0
    opened.index.close()
    world.open().check()


@pytest.mark.parametrize("place", range(0, 40, 3))
def test_whatever_is_wrong_in_packs_or_rows_gives_no_wrong_address(place: int) -> None:
    world = some_objects()
    world.open().check()
    content = bytearray((folder() / "main").read_bytes())
    content[random.Random(place).randrange(17 * 10 + 8 * 1000)] ^= 1 << place % 8
    (folder() / "main").write_bytes(content)
    world.open().check_nothing_wrong()


@pytest.mark.parametrize("spoilt", [bytes(8), b"\xff" * 8], ids=["lost", "impossible"])
@pytest.mark.parametrize("row", [0, 77, 524])
def test_rows_that_are_damaged_before_they_are_copied_are_built_anew(row: int, spoilt: bytes) -> None:
    world = some_objects()
    world.open()
    path = folder() / "main"
    content = bytearray(path.read_bytes())
    at = 17 * HintFile(path, REPOSITORY).packs + 8 * row
    content[at : at + 8] = spoilt
    path.write_bytes(content)
    for name in ("index/1", "index/2"):  # so much that the file is made anew
        del world.objects[name]
    world.open().check()
    world.read_keys.clear()
    world.open().check()
    assert world.read_keys == []


def _a_file(path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.write_text("in the way")


def _writable_for_others(path: Path) -> None:
    path.mkdir(parents=True)
    path.chmod(0o777)


def _exchangeable(path: Path) -> None:
    path.mkdir(parents=True, mode=0o700)
    path.parent.chmod(0o777)


@pytest.mark.parametrize("spoil", [_a_file, _writable_for_others, _exchangeable])
def test_a_cache_that_cannot_be_used_is_done_without(spoil: object) -> None:
    spoil(folder())  # type: ignore[operator]
    world = some_objects()
    for _ in range(2):
        opened = world.open()
        opened.check()
        opened.index.close()
    assert not list(folder().parent.parent.glob("puller-index-*"))
    assert not folder().is_dir() or files() == []


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Writing beyond ``size`` bytes of any file fails, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_without_room_for_an_index_nothing_is_held() -> None:
    world = some_objects()
    with file_size_limit(1000):
        opened = world.open()
    assert opened.check_nothing_wrong() == 0
    opened.add(ids_in(0)[0], b"a pack of mine..", 1)
    assert opened.find([ids_in(0)[0]]) == [(b"a pack of mine..", 1)]
    assert files() == []
    world.open().check()


def test_folders_follow_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PULLER_CACHE_DIR")
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert cache_directory("ab") == Path("/caches/puller/ab")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative/is/ignored")
    assert cache_directory("ab") == Path("/home/ada/.cache/puller/ab")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert cache_directory("ab") == Path("/var/cache/puller/ab")


def test_the_cache_is_nobody_elses_business() -> None:
    some_objects().open()
    assert folder().stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o077 for path in folder().iterdir()} == {0}


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_files_are_closed() -> None:
    world = some_objects()
    world.open().index.close()
    before = open_files()
    for number in range(3):
        world.objects[f"index/more {number}"] = [(0, 0), (1, 1)]
        opened = world.open()
        opened.check()
        opened.index.close()
        del opened
    assert open_files() == before


# --- threads and processes --------------------------------------------------------------------


def test_finders_and_adders_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunkindex, "RECENT", 1 << 17)  # else what one adds may be pushed out by the others
    opened = some_objects().open()
    table, index = opened.table, opened.index
    mine = {number: table.number(b"a pack of thread" + bytes([number])) for number in range(4)}
    failures: list[BaseException] = []

    def add_and_find(number: int) -> None:
        rng = random.Random(1000 + number)
        for slot in range(900):
            key = rng.randbytes(16)
            index.add(PackKind.DATA, mine[number], slot, [key])
            packs, slots = index.find(PackKind.DATA, [key])
            assert (packs.tolist(), slots.tolist()) == ([mine[number]], [slot])

    def find_stored() -> None:
        for _ in range(40):
            opened.check_nothing_wrong()

    def guarded(work: object, *arguments: object) -> None:
        try:
            work(*arguments)  # type: ignore[operator]
        except BaseException as error:  # noqa: BLE001 - shown by the assertion below
            failures.append(error)

    jobs = [(add_and_find, number) for number in mine] + [(find_stored,)] * 2
    threads = [threading.Thread(target=guarded, args=job) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_who_publishes_second_does_not_hurt_the_first() -> None:
    """Both begin with the same file and learn of different objects."""
    world = some_objects()
    world.open()
    other = World({**world.objects, "index/first": [(10, 0)]})
    world.objects["index/second"] = [(11, 0)]
    world.levels[11] = 0

    def read(info: ObjectInfo, share: float) -> IndexPart:
        other.open().check()
        return world.read(info, share)

    load_hints(REPOSITORY, world.listed(), read, BUDGET)
    world.open().check()
    other.open().check()


def race(number: int, cache_folder: str) -> None:
    """What one of several processes does: open, with index objects coming and going, and check."""
    os.environ["PULLER_CACHE_DIR"] = cache_folder
    with pytest.MonkeyPatch.context() as patch:
        shrink(patch)
        rng = random.Random(number)
        for _ in range(12):
            names = rng.sample(range(8), rng.randint(2, 7))
            world = World({f"index/{name}": [(name, name % 3), (name + 4, 0)] for name in names})
            opened = world.open(avoided={id_of(rng.randrange(PACKS))})
            opened.check()
            opened.index.close()


def test_processes_share_a_cache(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=race, args=(number, str(tmp_path / "c"))) for number in range(2)]
    for process in processes:
        process.start()
    race(9, str(tmp_path / "c"))
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]


# --- what a run writes ------------------------------------------------------------------------


def test_contents_of_the_run_are_found_through_its_packs_once_they_are_many() -> None:
    """Some thousand contents in packs of a hundred, of which the dictionary holds four."""
    world = World({})
    opened = world.open()
    keys = [random.Random(number).randbytes(16) for number in range(3000)]

    def load(kind: PackKind, pack_id: bytes) -> Ids:
        first = 100 * int.from_bytes(pack_id, "big")
        return np.frombuffer(b"".join(keys[first : first + 100]), np.uint8).reshape(-1, 16)

    world.ids = load  # type: ignore[method-assign]
    for number, key in enumerate(keys):
        opened.add(key, id_of(number // 100), number % 100)
    for at in range(0, len(keys), 30):
        assert opened.find(keys[at : at + 30]) == [
            (id_of(number // 100), number % 100) for number in range(at, at + 30)
        ]


def test_hints_to_what_the_run_has_written_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunkindex, "OWN", 300)
    world = World({})
    opened = world.open()
    keys = [random.Random(number).randbytes(16) for number in range(5000)]

    def load(kind: PackKind, pack_id: bytes) -> Ids:
        first = 100 * int.from_bytes(pack_id, "big")
        return np.frombuffer(b"".join(keys[first : first + 100]), np.uint8).reshape(-1, 16)

    world.ids = load  # type: ignore[method-assign]
    for number, key in enumerate(keys):
        opened.add(key, id_of(number // 100), number % 100)
    assert len(opened.index._own) <= 300
    found = [place for at in range(0, 4500, 30) for place in opened.find(keys[at : at + 30])]
    assert sum(place is not None for place in found) > 3000


# --- repositories -----------------------------------------------------------------------------


@pytest.fixture
def repository() -> Repository:
    return repositories.create(MemoryStore(), None)


def noise(seed: int, chunks: int) -> bytes:
    return random.Random(seed).randbytes(chunks * CHUNK)


def index_keys(repository: Repository) -> list[str]:
    return [info.key for info in repository.store.list("index/")]


def test_contents_whose_index_vanished_are_stored_again(repository: Repository) -> None:
    store_disk(repository, noise(1, 5))
    repository.store.delete(index_keys(repository))
    _, writer = store_disk(repository, noise(1, 5) + noise(2, 5))
    assert writer.new_bytes == 10 * CHUNK


def test_contents_of_excluded_packs_are_stored_again(repository: Repository) -> None:
    store_disk(repository, noise(1, 5))
    packs = {pack.pack_id for pack in repository.indexed() if pack.kind is PackKind.DATA}
    index = repository.run(SMALL, excluded=packs)._index
    for pack in repository.indexed():
        ids = [key.tobytes() for key in repository.packs.open(pack.kind, pack.pack_id).footer.ids]
        assert (index.find(pack.kind, ids)[0] >= 0).all() == (pack.kind is PackKind.MAP)


def test_contents_of_a_pack_that_is_missing_or_damaged_are_stored_again(repository: Repository) -> None:
    store_disk(repository, noise(1, 5))
    store_disk(repository, noise(2, 5))
    first, second = [info.key for info in repository.store.list("packs/")]
    repository.store.delete([first])
    repository.store.put(second, repository.store.get(second)[:-1])
    _, writer = store_disk(repository, noise(1, 5) + noise(2, 5))
    assert writer.new_bytes == 10 * CHUNK


def test_a_chunk_that_a_batch_holds_twice_is_stored_once(repository: Repository) -> None:
    _, writer = store_disk(repository, noise(1, 1) * 3)
    assert writer.new_bytes == CHUNK


@pytest.mark.parametrize("call", ["get_range", "get_tail"])
def test_a_store_that_fails_while_the_index_is_read_fails_the_run(
    repository: Repository, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def fail(*_: object, **__: object) -> bytes:
        raise StoreUnavailable("gone")

    store_disk(repository, noise(1, 5))
    monkeypatch.setattr(repository.store, call, fail)
    with pytest.raises(StoreUnavailable):
        store_disk(repository, noise(1, 5))
    monkeypatch.undo()


def test_an_index_is_closed_with_its_run(repository: Repository) -> None:
    store_disk(repository, noise(1, 5))
    before = open_files()
    store_disk(repository, noise(1, 5))
    assert open_files() <= before, "fewer, if something older was just collected"


def test_a_damaged_footer_is_noticed(repository: Repository) -> None:
    store_disk(repository, noise(1, 5))
    (name,) = [info.key for info in repository.store.list("packs/")]
    *content, last = repository.store.get(name)
    repository.store.put(name, bytes((*content, last ^ 1)))
    with pytest.raises(DamagedData):
        repository.packs.open(PackKind.DATA, bytes.fromhex(name[-32:]))
    _, writer = store_disk(repository, noise(1, 5))
    assert writer.new_bytes == 5 * CHUNK
