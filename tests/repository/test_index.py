"""The index as a run uses it: against a model, over damaged caches, between threads and processes."""

from __future__ import annotations

import multiprocessing
import os
import random
import resource
import threading
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

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

from puller.errors import StoreUnavailable
from puller.repository import repository as repositories
from puller.repository.format.footer import DEAD, Footer, PackKind
from puller.repository.format.index import IndexedPack
from puller.repository.format.pages import PackTable
from puller.repository.index.chunkindex import open_index
from puller.repository.index.index_file import BLOCK, BLOCK_ROWS
from puller.repository.index.indexcache import CacheFolder, Known, cache_directory
from puller.repository.index.indexfeed import refresh
from puller.repository.index.merging import merge
from puller.repository.keys.keyring import NO_KEY_BOX
from puller.repository.repository import Repository
from puller.units import CHUNK
from tests.lab.feed import SMALL, store_disk
from tests.lab.memory import MemoryStore

REPOSITORY = bytes(range(16))
PACKS = 12

Described = tuple[int, int]
"""A pack by its number, and how far prune has compacted it."""


@pytest.fixture(autouse=True)
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits so small that a few hundred contents meet every one of them."""
    monkeypatch.setenv("PULLER_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    shrink(monkeypatch.setattr)


def shrink(put: object) -> None:
    for name, value in {"chunkindex.SPILL": 60, "indexfeed.RUN": 300, "indexfeed.RUNS": 3}.items():
        put(f"puller.repository.index.{name}", value)  # type: ignore[operator]
    for name, value in {"STEP": 400, "SMALL": 150, "RATIO": 2}.items():
        put(f"puller.repository.index.merging.{name}", value)  # type: ignore[operator]


@lru_cache(maxsize=PACKS)
def ids_in(pack: int) -> list[bytes]:
    """Contents of a pack: some with one prefix over more than a block, some shared with the next pack."""
    same = [bytes(8) + number.to_bytes(8, "little") for number in range(60 * (pack % 3))]
    own, shared = random.Random(pack), random.Random(-(pack // 2) - 1)
    ids = [*same, *(own.randbytes(16) for _ in range(100)), *(shared.randbytes(16) for _ in range(30))]
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
    """Index objects, made up, and what they mean."""

    def __init__(self, objects: Mapping[str, Sequence[Described]]) -> None:
        self.objects = dict(objects)
        self.read_keys: list[str] = []

    def listed(self) -> dict[bytes, str]:
        return {blake3(f"{key}{packs}".encode()).digest(16): key for key, packs in self.objects.items()}

    def read(self, key: str) -> list[IndexedPack]:
        self.read_keys.append(key)
        return [indexed(pack, level) for pack, level in self.objects[key]]

    def open(self, repository_id: bytes = REPOSITORY, excluded: Collection[bytes] = ()) -> Opened:
        return Opened(self, repository_id, excluded)

    def held(self, excluded: Collection[bytes] = ()) -> dict[bytes, set[tuple[bytes, int]]]:
        levels: dict[int, int] = {}
        for pack, level in (item for packs in self.objects.values() for item in packs):
            levels[pack] = max(level, levels.get(pack, 0))
        held = defaultdict(set)
        for pack, level in levels.items():
            for slot, key in enumerate(ids_in(pack) if id_of(pack) not in excluded else []):
                if not is_dead(slot, level):
                    held[key].add((id_of(pack), slot))
        return held


class Opened:
    """An open index with the addresses that it may give."""

    def __init__(self, world: World, repository_id: bytes, excluded: Collection[bytes]) -> None:
        self.table = PackTable()
        self.table.number(b"met before, else")  # so that numbers of the cache and the run differ
        self.index = open_index(repository_id, world.listed(), world.read, self.table, excluded)
        self.held = world.held(excluded)

    def add(self, key: bytes, pack: bytes, slot: int) -> None:
        self.index.add(key, self.table.number(pack), slot)
        self.held[key].add((pack, slot))

    def find(self, keys: Sequence[bytes]) -> list[tuple[bytes, int] | None]:
        packs, slots = self.index.find(b"".join(keys))
        return [
            None if pack < 0 else (self.table.pack_id(pack), slot)
            for pack, slot in zip(packs.tolist(), slots.tolist(), strict=True)
        ]

    def check(self, keys: Iterable[bytes] | None = None) -> None:
        """What is held is found, where it is; what is not is missed."""
        asked = every_id() if keys is None else list(keys)
        for key, found in zip(asked, self.find(asked), strict=True):
            assert found in self.held[key] if self.held.get(key) else found is None

    def check_nothing_wrong(self) -> int:
        """What is found is right; returns how many contents are held and missed."""
        asked = list(self.held)
        found = self.find(asked)
        assert all(place is None or place in self.held[key] for key, place in zip(asked, found, strict=True))
        return found.count(None)


@lru_cache(maxsize=1)
def every_id() -> list[bytes]:
    return [key for pack in range(PACKS) for key in ids_in(pack)] + [random.Random(99).randbytes(16)]


described = st.tuples(st.integers(0, PACKS - 1), st.integers(0, 3))


class Machine(RuleBasedStateMachine):
    """Runs that open, find and add, while index objects come and go between them."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World({})
        self.repository_id = os.urandom(16)

    @initialize()
    def begin(self) -> None:
        self.opened = self.world.open(self.repository_id)

    @rule(name=st.integers(0, 6), packs=st.lists(described, max_size=4))
    def put(self, name: int, packs: list[Described]) -> None:
        self.world.objects.setdefault(f"index/{name}", packs)

    @precondition(lambda self: self.world.objects)
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        del self.world.objects[data.draw(st.sampled_from(sorted(self.world.objects)))]

    @rule(excluded=st.sets(st.integers(0, PACKS - 1), max_size=3))
    def reopen(self, excluded: set[int]) -> None:
        self.opened.index.close()
        self.opened = self.world.open(self.repository_id, {id_of(pack) for pack in excluded})
        self.opened.check()

    @rule(pack=st.integers(0, PACKS - 1), first=st.integers(0, 200), count=st.integers(1, 130))
    def add(self, pack: int, first: int, count: int) -> None:
        for slot, key in enumerate(ids_in(pack)[first : first + count]):
            self.opened.add(key, b"a pack of mine..", slot + first)
            self.opened.check([key])

    @rule()
    def find(self) -> None:
        self.opened.check()

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
    world.objects["index/new"] = [(11, 0)]
    world.open().check()
    assert world.read_keys == ["index/new"]


def test_an_object_that_vanished_and_came_back_counts_as_new() -> None:
    world = some_objects()
    world.open().check()
    gone = world.objects.pop("index/3")
    for number in range(3):  # the rows are rewritten without it
        world.objects[f"index/more {number}"] = [(10, 0), (11, 0)]
        world.open().check()
    world.objects["index/3"] = gone
    world.open().check()


def test_what_means_nothing_any_more_is_cleared_away() -> None:
    world = some_objects()
    world.open()
    for name in ("index/1", "index/2"):
        del world.objects[name]
        world.open().check()
    rows = sum(len(ids_in(pack)) for pack in (0, 1, 6, 7, 8, 9))
    assert known_of(world, folder()).rows <= rows * 4 / 3
    world.objects.clear()
    world.open().check()
    assert (len(known_of(world, folder()).catalogue), segments()) == (0, [])


def test_ids_are_taken_as_an_array_too() -> None:
    opened = some_objects().open()
    ids = np.frombuffer(b"".join(ids_in(0)), np.uint8).reshape(-1, 16)
    packs, slots = opened.index.find(ids[::-1])
    expected = opened.index.find(ids[::-1].tobytes())
    assert [packs.dtype, slots.dtype] == [np.dtype(np.int64), np.dtype(np.uint16)]
    assert (packs.tolist(), slots.tolist()) == tuple(column.tolist() for column in expected)
    assert opened.index.find(b"")[0].tolist() == []


def test_what_was_added_lately_is_recalled() -> None:
    index = some_objects().open().index
    assert index.recall(ids_in(0)[0]) is None
    index.add(ids_in(0)[0], 70000, 65535)
    assert index.recall(ids_in(0)[0]) == (70000, 65535)


def cache() -> Path:
    return cache_directory(REPOSITORY.hex())


def segments() -> list[Path]:
    return sorted(cache().glob("*.segment"), key=lambda path: path.stat().st_size)


def test_old_segments_and_what_dead_processes_left_are_swept() -> None:
    world = some_objects()
    world.open()
    (cache() / f"{'ab' * 16}.segment").write_bytes(b"of a process that was killed")
    for number in range(5):
        world.objects[f"index/more {number}"] = [(10, 0), (11, 0)]
        world.open().check()
    assert len(segments()) <= 3
    assert {path.name for path in cache().iterdir()} == {
        "catalogue",
        "lock",
        *(path.name for path in segments()),
    }


def _truncate_segment() -> None:
    os.truncate(segments()[-1], segments()[-1].stat().st_size // 2)


def _remove_segment() -> None:
    segments()[-1].unlink()


def _swap_segment() -> None:
    segments()[-1].write_bytes(segments()[0].read_bytes())


def _spoil_tail() -> None:
    content = bytearray(segments()[-1].read_bytes())
    content[-100] ^= 1
    segments()[-1].write_bytes(content)


def _spoil_catalogue() -> None:
    (cache() / "catalogue").write_bytes(b"PULLERCT, but no more than that")


def _remove_catalogue() -> None:
    (cache() / "catalogue").unlink()


@pytest.mark.parametrize(
    "damage",
    [_truncate_segment, _remove_segment, _swap_segment, _spoil_tail, _spoil_catalogue, _remove_catalogue],
)
def test_a_damaged_cache_is_built_anew(damage: object) -> None:
    world = some_objects()
    world.open().check()
    world.objects["index/more"] = [(10, 0)]
    world.open().check()
    damage()  # type: ignore[operator]
    world.open().check()
    world.read_keys.clear()
    world.open().check()
    assert world.read_keys == []


def spoil_block() -> None:
    """Change a pack number in the middle of the largest segment."""
    content = bytearray(segments()[-1].read_bytes())
    middle = len(content) // 2 // BLOCK * BLOCK
    content[middle + 16 * BLOCK_ROWS + 5] ^= 1
    segments()[-1].write_bytes(content)


def test_a_damaged_block_gives_no_wrong_address_and_is_healed_by_the_next_run() -> None:
    world = some_objects()
    world.open().check()
    spoil_block()
    opened = world.open()
    assert opened.check_nothing_wrong() > 0
    opened.index.close()
    world.open().check()


def test_a_damaged_block_in_the_way_of_a_merge_has_the_cache_built_anew() -> None:
    world = some_objects()
    world.open().check()
    spoil_block()
    world.objects |= {f"index/more {number}": [(10, 0), (11, 0)] for number in range(4)}
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
    spoil(cache())  # type: ignore[operator]
    world = some_objects()
    for _ in range(2):
        opened = world.open()
        for key in ids_in(11):
            opened.add(key, b"a pack of mine..", 1)
        opened.check()
        opened.index.close()
    assert not list(cache().parent.parent.glob("puller-index-*"))
    assert not segments()


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
    assert opened.check_nothing_wrong() == len(opened.held)
    opened.add(ids_in(0)[0], b"a pack of mine..", 1)
    assert opened.find([ids_in(0)[0]]) == [(b"a pack of mine..", 1)]
    world.open().check()


def test_without_room_for_a_spill_the_oldest_contents_of_the_run_are_forgotten() -> None:
    opened = World({}).open()
    with file_size_limit(1000):
        for slot, key in enumerate(every_id()):
            opened.add(key, b"a pack of mine..", slot)
            assert opened.find([key]) == [None] or opened.find([key])[0] in opened.held[key]
    missed = opened.check_nothing_wrong()
    assert len(opened.held) - 60 <= missed < len(opened.held)


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
    assert cache().stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o077 for path in cache().iterdir()} == {0}


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_files_are_closed() -> None:
    world = some_objects()
    world.open().index.close()
    before = open_files()
    for number in range(3):
        world.objects[f"index/more {number}"] = [(10, 0), (11, 0)]
        opened = world.open()
        for slot, key in enumerate(ids_in(9)):
            opened.add(key, b"a pack of mine..", slot)
        opened.index.close()
    assert open_files() == before


def test_finders_and_adders_at_once() -> None:
    opened = some_objects().open()
    table, index = opened.table, opened.index
    mine = {number: table.number(b"a pack of thread" + bytes([number])) for number in range(4)}
    failures: list[BaseException] = []

    def add_and_find(number: int) -> None:
        rng = random.Random(1000 + number)
        added: list[bytes] = []
        for slot in range(900):
            added.append(rng.randbytes(16))
            index.add(added[-1], mine[number], slot)
            chosen = rng.choices(range(len(added)), k=16)
            packs, slots = index.find(b"".join(added[position] for position in chosen))
            assert packs.tolist() == [mine[number]] * 16
            assert slots.tolist() == chosen

    def find_stored() -> None:
        for _ in range(40):
            opened.check()

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


def folder() -> CacheFolder:
    return CacheFolder(cache(), REPOSITORY)


def known_of(world: World, place: CacheFolder) -> Known:
    return refresh(place, world.listed(), world.read)


def test_who_publishes_second_does_not_undo_the_first() -> None:
    world = some_objects()
    before = known_of(world, folder())
    world.objects["index/first"] = [(10, 0), (11, 0)]
    first = known_of(world, folder())
    # A process that loaded before, and got ready after, the first one published.
    late = folder()
    segment = late.write(merge(list(before.segments), None), before.rows)
    late.publish(Known(before.catalogue, (segment,), before.stamp))
    assert folder().load().stamp == first.stamp
    world.open().check()


def test_a_segment_that_another_process_is_about_to_publish_is_not_swept() -> None:
    world = some_objects()
    before = known_of(world, folder())
    segment = folder().write(merge(list(before.segments), None), before.rows)
    world.objects["index/other"] = [(11, 0)]
    world.open().check()
    path = cache() / f"{segment.name.hex()}.segment"
    assert path.exists()
    del segment
    world.objects["index/another"] = [(11, 0)]
    world.open().check()
    assert not path.exists()


def race(number: int, cache_folder: str) -> None:
    """What one of several processes does: open, with index objects coming and going, and check."""
    os.environ["PULLER_CACHE_DIR"] = cache_folder
    with pytest.MonkeyPatch.context() as patch:
        shrink(patch.setattr)
        rng = random.Random(number)
        for _ in range(12):
            names = rng.sample(range(8), rng.randint(2, 7))
            world = World({f"index/{name}": [(name, name % 3), (name + 4, 0)] for name in names})
            opened = world.open(excluded={id_of(rng.randrange(PACKS))})
            for slot, key in enumerate(ids_in(11)[:100]):
                opened.add(key, b"a pack of mine..", slot)
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


@pytest.fixture
def repository() -> Repository:
    return repositories.create(MemoryStore(), None)


def noise(seed: int, chunks: int) -> bytes:
    return random.Random(seed).randbytes(chunks * CHUNK)


def index_keys(repository: Repository) -> list[str]:
    return [info.key for info in repository.store.list("index/")]


def test_contents_whose_index_vanished_are_stored_again(repository: Repository) -> None:
    store_disk(repository, noise(1, 5))
    first = index_keys(repository)
    store_disk(repository, noise(2, 5))
    repository.store.delete(first)
    _, writer = store_disk(repository, noise(1, 5) + noise(2, 5))
    assert writer.new_bytes == 5 * CHUNK


def test_an_index_object_that_was_overwritten_counts_anew(repository: Repository) -> None:
    store_disk(repository, noise(1, 5))
    (key,) = index_keys(repository)
    repository.run(SMALL)
    repository.store.put(key, bytes(repository.store.stat(key).size))
    _, writer = store_disk(repository, noise(1, 5))
    assert writer.new_bytes == 5 * CHUNK


def test_contents_of_excluded_packs_are_stored_again(repository: Repository) -> None:
    store_disk(repository, noise(1, 5))
    packs = {pack.pack_id for pack in repository.indexed() if pack.kind is PackKind.DATA}
    index = repository.run(SMALL, excluded=packs)._index
    asked = [key.tobytes() for pack in repository.indexed() for key in pack.footer.ids]
    kinds = [pack.kind for pack in repository.indexed() for _ in pack.footer.ids]
    assert [held >= 0 for held in index.find(b"".join(asked))[0]] == [kind is PackKind.MAP for kind in kinds]


def test_a_chunk_that_a_batch_holds_twice_is_stored_once(repository: Repository) -> None:
    _, writer = store_disk(repository, noise(1, 1) * 3)
    assert writer.new_bytes == CHUNK


def test_a_store_that_fails_while_the_index_is_read_fails_the_run(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(key: str, *, max_size: int | None = None) -> bytes:
        raise StoreUnavailable("gone")

    store_disk(repository, noise(1, 5))
    monkeypatch.setattr(repository.store, "get", fail)
    with pytest.raises(StoreUnavailable):
        repository.run(SMALL)
    monkeypatch.undo()


def test_an_index_is_closed_with_its_run(repository: Repository) -> None:
    store_disk(repository, noise(1, 5))
    before = open_files()
    store_disk(repository, noise(1, 5))
    assert open_files() == before
