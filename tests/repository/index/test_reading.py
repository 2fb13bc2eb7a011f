"""Which index objects a run reads, and what it finds in them."""

from __future__ import annotations

import numpy as np

from puller.repository.format.packname import PackKind
from puller.repository.format.pages import PackTable
from puller.repository.index.budget import BUDGET
from puller.repository.index.cache import load_hints
from puller.repository.index.hints import HintFile
from puller.repository.writing.chunkindex import ChunkIndex
from tests.repository.index.world import REPOSITORY, SLOTS, files, folder, id_of, ids_in, some_objects


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
