"""The sequential round trips of commands, with ten points."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from puller.events import ignore
from puller.repository import repository as repositories
from puller.repository.keys.key_slots import Password
from puller.repository.repository import Repository
from puller.store.wrapping.retrying import RetryingStore
from puller.units import CHUNK
from puller.upkeep.checking.check import check
from puller.upkeep.checking.schedule import Reading
from puller.upkeep.pruning.prune import prune
from puller.upkeep.retention.policy import Policy
from tests.lab.archive import make_point
from tests.lab.memory import MemoryStore
from tests.lab.roundtrips import RoundTrips

ADDRESS = "memory: of this test"
POINTS = 10


@pytest.fixture(scope="module", autouse=True)
def in_some_order() -> None:
    """Here independent requests are made at the same time."""


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RoundTrips:
    """A repository with ten points of one disk; each has its own change."""
    monkeypatch.setenv("PULLER_CACHE_DIR", str(tmp_path / "cache"))
    store = RoundTrips(MemoryStore())
    repositories.create(RetryingStore(store), Password("x"), ADDRESS)
    repository = opened(store)
    noise = random.Random(1)
    disk = bytearray(noise.randbytes(2 * POINTS * CHUNK))
    for turn in range(POINTS):
        start = 2 * turn * CHUNK
        disk[start : start + CHUNK] = noise.randbytes(CHUNK)
        moment = datetime(2026, 11, 1, 5, tzinfo=UTC) + timedelta(days=turn)
        make_point(repository, {"vda": bytes(disk)}, moment=moment)
    return store


def opened(store: RoundTrips) -> Repository:
    """Open the repository as a new process does: nothing is cached but what is on the host's disk."""
    return repositories.open_repository(RetryingStore(store), Password("x"), ADDRESS)


WORKS: dict[str, tuple[int, Callable[[Repository], object]]] = {
    "points": (8, lambda repository: repository.points.all()),
    "check": (10, lambda repository: check(repository, (), Reading(), ignore)),
    "prune": (20, lambda repository: prune(repository, Policy(last=POINTS - 1))),
    "prune at once": (
        20,
        lambda repository: prune(repository, Policy(last=POINTS - 1), grace=timedelta(0)),
    ),
}


@pytest.mark.parametrize("work", WORKS)
def test_round_trips_one_after_the_other(store: RoundTrips, work: str) -> None:
    at_most, play = WORKS[work]
    opened(store)  # so that the host remembers which key slot it opens
    with store.counting():
        play(opened(store))
    assert len(store.rounds) <= at_most, "\n".join(", ".join(trip) for trip in store.rounds)


def test_the_count_is_of_what_waits_for_each_other(store: RoundTrips) -> None:
    """The counter itself: ten requests one after another are ten round trips, ten at once are one."""
    repository = opened(store)
    names = repository.points.names()
    with store.counting():
        for name in names:
            repository.points.get(*name)
    assert [len(trip) for trip in store.rounds] == [1] * POINTS
    with store.counting():
        repository.points.all()
    assert [len(trip) for trip in store.rounds] == [1, POINTS]
