"""A copy that dies at any of its writes: nothing is half published, and the next copy completes it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import timedelta
from pathlib import Path
from typing import Self

import pytest

from puller.cancelling import CancelScope
from puller.events import ignore
from puller.repository.points import Point
from puller.repository.repository import Family, Repository, create, open_repository
from puller.store.base import Body, Store
from puller.store.wrapping.wrapped import WrappedStore
from puller.upkeep.checking.check import check
from puller.upkeep.checking.schedule import Reading
from puller.upkeep.copying.copy import copy
from puller.upkeep.pruning.prune import prune
from puller.upkeep.retention.policy import Policy
from tests.lab.feed import SMALL
from tests.lab.history import MOMENT, Disk, back_up, is_whole
from tests.lab.memory import MemoryStore

HOUR = timedelta(hours=1)


class Died(Exception):
    """The process was killed: nothing that it does later reaches the store."""


class Mortal(WrappedStore):
    """Dies at the write number ``left``: before it, or after it took effect."""

    def __init__(self, store: Store, left: int, after: bool) -> None:
        super().__init__(store)
        self._left = left
        self._after = after
        self.writes = 0

    def within(self, scope: CancelScope) -> Self:
        """One life for all scopes."""
        return self

    def _live(self, write: bool) -> bool:
        """Return whether to die after this one."""
        self.writes += write
        if self.writes > self._left or (write and self.writes == self._left and not self._after):
            raise Died
        return write and self.writes == self._left

    def put_new(self, key: str, body: Body) -> None:
        dies = self._live(True)
        super().put_new(key, body)
        if dies:
            self.writes += 1
            raise Died

    def delete(self, keys: Iterable[str]) -> None:
        dies = self._live(True)
        super().delete(keys)
        if dies:
            self.writes += 1
            raise Died


def _history(repository: Repository) -> list[tuple[Point, Disk]]:
    """A full, an incremental, and a point in which nothing has changed."""
    disk: Disk = list(range(1, 21))
    changed: Disk = [500, *disk[1:10], 0, *disk[11:]]
    first = back_up(repository, "a", disk, moment=MOMENT).commit()
    second = back_up(repository, "a", changed, first, disk, moment=MOMENT + HOUR).commit()
    third = back_up(repository, "a", changed, second, changed, moment=MOMENT + 2 * HOUR).commit()
    return [(first, disk), (second, changed), (third, changed)]


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("is_kin", [False, True])
def test_a_copy_that_dies_at_any_write_is_completed_by_the_next(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, is_kin: bool, after: bool
) -> None:
    monkeypatch.setenv("PULLER_CACHE_DIR", str(tmp_path))
    here = create(MemoryStore(), None)
    made = _history(here)
    family = Family(here.descriptor.family_bytes) if is_kin else None
    deaths = 0
    while True:
        store = MemoryStore()
        create(store, None, family=family)
        mortal = Mortal(store, deaths + 1, after)
        try:
            copy(here, open_repository(mortal, None), [p for p, _ in made], SMALL, None, ignore)
        except Died:
            deaths += 1
        else:
            break
        there = open_repository(store, None)
        known = {point.point: disk for point, disk in made}
        for uuid, point_id in there.points.names():
            assert is_whole(there, there.points.get(uuid, point_id), known[point_id])
        copy(here, open_repository(store, None), [p for p, _ in made], SMALL, None, ignore)
        again = open_repository(store, None)
        prune(again, Policy(last=2), timedelta(0), ignore)
        assert [point_id for _, point_id in sorted(again.points.names())] == [p.point for p, _ in made[1:]]
        assert all(is_whole(again, again.points.get(p.uuid, p.point), disk) for p, disk in made[1:])
        assert check(again, (), Reading(percent=100.0), ignore).errors == ()
    assert deaths >= 15, "packs, maps, indexes, and three commits"


def test_two_copies_of_one_point_at_the_same_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The one that comes second finds the point there, whatever the first one has done by then."""
    monkeypatch.setenv("PULLER_CACHE_DIR", str(tmp_path))
    here = create(MemoryStore(), None)
    ((point, disk), *_) = _history(here)
    for turn in range(1, 12):
        store = MemoryStore()
        create(store, None)
        beside = Beside(store, turn, lambda target: copy(here, target, [point], SMALL, None, ignore))
        report = copy(here, open_repository(beside, None), [point], SMALL, None, ignore)
        assert report.failed == ()
        there = open_repository(store, None)
        assert is_whole(there, there.points.get(point.uuid, point.point), disk)
        if beside.writes < turn:
            return


class Beside(WrappedStore):
    """Before the write number ``turn``, another run copies the point."""

    def __init__(self, store: Store, turn: int, other: Callable[[Repository], object]) -> None:
        super().__init__(store)
        self._below = store
        self._turn = turn
        self._other = other
        self.writes = 0

    def within(self, scope: CancelScope) -> Self:
        """One count for all scopes."""
        return self

    def put_new(self, key: str, body: Body) -> None:
        self.writes += 1
        if self.writes == self._turn:
            self._other(open_repository(self._below, None))
        super().put_new(key, body)
