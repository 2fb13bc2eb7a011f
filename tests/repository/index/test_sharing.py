"""Threads and processes that use one cache at the same time."""

from __future__ import annotations

import multiprocessing
import os
import random
import threading
from pathlib import Path

import pytest

from puller.repository.format.index import IndexPart
from puller.repository.format.packname import PackKind
from puller.repository.index.budget import BUDGET
from puller.repository.index.cache import load_hints
from puller.repository.writing import chunkindex
from puller.store.base import ObjectInfo
from tests.repository.index.world import PACKS, REPOSITORY, World, id_of, shrink, some_objects


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
