"""An exercise finds each lie of a store, and no fault in a sound one."""

from __future__ import annotations

import pytest

from puller.diagnosis.exercise.exercise import NAMES
from puller.diagnosis.exercise.ground import FOLDER
from puller.diagnosis.exercise.plan import CONNECTIONS, Plan
from puller.store.wrapping.wrapped import WrappedStore
from puller.units import MIB
from tests.diagnosis import lying
from tests.diagnosis.exercise.exercising import SMALL, faults, tried
from tests.lab.memory import MemoryStore

LIES: dict[type[WrappedStore], dict[str, str]] = {
    lying.Stale: {
        "exercise-replace": "warn: 64 of 64 objects were read with their old content right after they were "
        "replaced",
    },
    lying.RemembersAbsence: {
        "exercise-read": "fail: 64 of 64 objects could not be read right after their put",
    },
    lying.MissesFresh: {
        "exercise-list-put": "fail: 64 of 64 objects were missing in the list right after their put",
        "exercise-list-long": "fail: 1 of 1050 objects were missing in one list",
    },
    lying.ShowsDeleted: {
        "exercise-list-delete": "fail: 64 of 64 objects were still listed right after they were deleted",
        "exercise-delete-many": "fail: 1 of 1050 objects were still listed after a deletion of all of them",
    },
    lying.FindsDeleted: {
        "exercise-delete": "fail: 64 of 64 objects could still be read right after they were deleted",
    },
    lying.StopsAtThousand: {"exercise-list-long": "fail: 50 of 1050 objects were missing in one list"},
    lying.Repeats: {"exercise-list-long": "fail: 10 of 1050 objects were repeated in one list"},
    lying.Shuffles: {"exercise-list-long": "fail: a list of 1050 objects was not in the order of keys"},
    lying.ListsWrongSizes: {
        "exercise-list-put": "fail: 64 of 64 objects had a wrong size in the list right after their put",
        "exercise-list-long": "fail: 1050 of 1050 objects had a wrong size in one list",
    },
    lying.TwoWinners: {
        "exercise-races": "fail: several of 8 writers of one new key won in 12 of 12 races",
    },
    lying.NobodyWins: {"exercise-races": "fail: none of 8 writers of one new key won in 12 of 12 races"},
    lying.LoserReplaces: {"exercise-races": "fail: the winner's content was replaced in 12 of 12 races"},
    lying.IgnoresCondition: {"exercise-races": "warn: the store does not honour If-None-Match"},
    lying.RefusesCondition: {"exercise-races": "warn: the store does not honour If-None-Match"},
    lying.Truncates: {
        "exercise-large": "fail: 2 of 2 large objects are shorter than what was put",
        "exercise-pieces": "fail: 80 of 80 objects read at once with others are shorter than what was put",
    },
    lying.Swaps: {
        "exercise-large": "fail: 2 of 2 large objects had other content than was put",
        "exercise-pieces": "fail: 80 of 80 objects read at once with others had other content than was put",
    },
    lying.SwapsSmall: {
        "exercise-small": "fail: 100 of 100 small objects had other content or could not be read",
    },
    lying.CorruptsRanges: {"exercise-ranges": "fail: 57 of 57 ranges had other content than was put"},
    lying.ShortensRanges: {
        "exercise-ranges": "fail: 57 of 57 ranges had another length than requested",
    },
    lying.CorruptsTails: {
        "exercise-tail": "fail: the last 10 bytes of a large object had other content than was put",
    },
    lying.LiesAboutSizes: {
        "exercise-tail": "fail: a read of the end of a large object gave its size as 2097151 instead of "
        "2097152",
    },
}


@pytest.mark.parametrize("lie", LIES, ids=lambda lie: lie.__name__)
def test_every_lie_is_found(lie: type[WrappedStore]) -> None:
    store = MemoryStore()
    assert faults(tried(lie(store))) == LIES[lie]
    assert list(store.list("")) == []


def test_a_sound_store_has_no_fault() -> None:
    store, told = MemoryStore(), list[str]()
    report = tried(store, told=told.append)
    assert faults(report) == {}
    assert [finding.name for finding in report.findings] == [n for n in NAMES if n != "exercise-if-match"]
    assert list(store.list("")) == []
    assert [rate.connections for rate in report.throughputs] == list(CONNECTIONS)
    assert [item.operation for item in report.latencies] == ["put", "read", "lookup", "list"]
    assert all(0 < item.minimum <= item.median <= item.p99 for item in report.latencies)
    (line,) = told
    assert line.startswith(f"exercising memory:memory under {FOLDER}")
    assert line.endswith(
        "/: about 2200 requests, 16 MiB up and 27 MiB down, in at most 5 minutes; nothing will be left"
    )
    assert SMALL.size <= report.written <= SMALL.size + 4 * MIB
    assert report.read <= SMALL.down


@pytest.mark.parametrize("size", [MIB, 5 * MIB, 256 * MIB, 4096 * MIB])
def test_a_plan_keeps_to_its_size(size: int) -> None:
    plan = Plan(size)
    assert 2 * plan.large + len(CONNECTIONS) * plan.pieces * plan.piece <= size
    assert plan.pieces >= max(CONNECTIONS)
    assert plan.down <= 1.25 * size + 8 * MIB
    assert 2 * plan.large + len(CONNECTIONS) * plan.pieces * plan.piece >= size * 0.9 or size > 512 * MIB


def test_slow_requests_are_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("puller.diagnosis.exercise.speed.SLOW", 0.0)
    (text,) = faults(tried(MemoryStore())).values()
    assert text.startswith("warn: small requests are slow: put ")
