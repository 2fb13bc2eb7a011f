"""An index larger than its budget is sampled."""

from __future__ import annotations

import numpy as np

from puller.repository.format.index import IndexPart, IndexRows
from puller.repository.index import hints
from puller.repository.index.cache import load_hints
from puller.repository.index.hints import HintFile
from puller.store.base import ObjectInfo
from puller.units import KIB
from tests.repository.index.world import REPOSITORY, ids_in, some_objects


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
