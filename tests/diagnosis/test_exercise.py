"""An exercise of a store finds each lie, leaves nothing behind, and ends in time."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import puller
from puller.cancelling import RetryPolicy
from puller.diagnosis.doctor import exercise_store
from puller.diagnosis.exercise.exercise import NAMES, ExerciseReport, exercise
from puller.diagnosis.exercise.ground import FOLDER, Ground, _Ledger
from puller.diagnosis.exercise.plan import CONNECTIONS, Plan
from puller.diagnosis.finding import Status
from puller.errors import StoreUnavailable
from puller.store.base import Body, ObjectInfo, Store
from puller.store.folder import FolderStore
from puller.store.s3.bucket import Bucket
from puller.store.s3.client import connect
from puller.store.wrapped import WrappedStore
from puller.units import MIB
from tests.cli.conftest import command
from tests.diagnosis import lying
from tests.diagnosis.caching import caching_gateway
from tests.lab.memory import MemoryStore
from tests.lab.seaweed import Seaweed

if TYPE_CHECKING:
    from puller.store.s3.s3 import S3Store

SMALL = Plan(size=16 * MIB)

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


def faults(report: ExerciseReport) -> dict[str, str]:
    """By name: status and text of what is not in order. Each has one sentence of advice."""
    found = [finding for finding in report.findings if finding.status is not Status.OK]
    assert all(finding.advice.endswith(".") for finding in found)
    return {finding.name: f"{finding.status.value}: {finding.text}" for finding in found}


def tried(store: Store, plan: Plan = SMALL, told: Callable[[str], object] = str) -> ExerciseReport:
    return exercise(store, None, plan, told)


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


def test_a_directory_is_as_it_was_before(tmp_path: Path) -> None:
    puller.create_repository(str(tmp_path / "repository"))
    before = sorted(tmp_path.rglob("*"))
    report = exercise_store(FolderStore(tmp_path / "repository"), SMALL, str)
    assert faults(report) == {}
    assert sorted(tmp_path.rglob("*")) == before


@pytest.fixture
def s3(
    seaweed: Seaweed, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[S3Store]:
    seaweed.use(monkeypatch)
    bucket = f"exercise-{abs(hash(request.node.nodeid)):x}"
    seaweed.make_bucket(bucket)
    puller.create_repository(f"s3://{bucket}/kvm")
    yield connect(bucket, "kvm")


def test_a_real_server_has_no_fault(s3: S3Store) -> None:
    before = [info.key for info in s3.list("")]
    report = exercise_store(s3, SMALL, str)
    assert faults(report) == {}
    assert [finding.name for finding in report.findings][-len(NAMES) :] == list(NAMES)
    assert [info.key for info in s3.list("")] == before


def test_a_server_that_ignores_if_match(s3: S3Store) -> None:
    def ignore(params: dict[str, Any], **_: object) -> None:
        params.pop("IfMatch", None)

    s3._client.meta.events.register("before-parameter-build.s3.GetObject", ignore)
    assert faults(exercise(s3, s3.bucket, SMALL, str)) == {
        "exercise-if-match": "warn: the store ignores If-Match on ranged reads"
    }


def test_a_cache_before_a_real_server(s3: S3Store, seaweed: Seaweed, monkeypatch: pytest.MonkeyPatch) -> None:
    before = [info.key for info in s3.list("")]
    with caching_gateway(seaweed.endpoint) as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
        report = puller.exercise_store(s3.url, size=MIB)
    assert faults(report) == {
        "exercise-replace": "warn: 64 of 64 objects were read with their old content right after they were "
        "replaced",
        "exercise-list-delete": "fail: 64 of 64 objects were still listed right after they were deleted",
        "exercise-delete-many": "fail: 1050 of 1050 objects were still listed after a deletion "
        "of all of them",
        "exercise-if-match": "warn: the store ignores If-Match on ranged reads",
    }
    assert [info.key for info in s3.list("")] == before


def test_a_bucket_that_would_keep_the_objects_is_left_alone(s3: S3Store) -> None:
    class Locked(type(s3.bucket)):  # type: ignore[misc]
        def __init__(self) -> None:
            pass

        def default_retention(self) -> str:
            return "GOVERNANCE, 3 days"

    before = [info.key for info in s3.list("")]
    assert faults(exercise(s3, Locked(), SMALL, str)) == {
        "exercise": "warn: not tried, because Object Lock would keep its objects (GOVERNANCE, 3 days)"
    }
    assert [info.key for info in s3.list("")] == before


def test_hidden_versions_are_told() -> None:
    class Versioned(Bucket):
        def __init__(self) -> None:
            pass

        def default_retention(self) -> None:
            return None

        def serves_range_if(self, key: str, etag: str) -> bool:
            return False

        def keeps_versions(self) -> bool:
            return True

    report = exercise(MemoryStore(), Versioned(), SMALL, str)
    assert {finding.name: finding.text for finding in report.findings}["exercise-left"] == (
        "all objects are deleted; the bucket keeps hidden versions of them"
    )


def test_nothing_is_put_where_nothing_may_be_deleted() -> None:
    store = MemoryStore()
    report = tried(lying.MayNotDelete(store))
    assert faults(report) == {"exercise": "fail: cannot delete objects: access denied"}
    assert [finding.advice for finding in report.findings] == [
        "Exercise the store with the credentials that prune: they may put and delete under locks/."
    ]
    assert list(store.list("")) == []


def test_what_cannot_be_deleted_is_told() -> None:
    store = MemoryStore()
    found = faults(tried(lying.KeepsAll(store)))
    folder = next(iter(store.list(""))).key.rpartition("/")[0].partition("/")[2].partition("/")[0]
    count = sum(1 for _ in store.list(""))
    assert found == {
        "exercise-delete": "fail: 64 of 64 objects could still be read right after they were deleted",
        "exercise-list-delete": "fail: 64 of 64 objects were still listed right after they were deleted",
        "exercise-delete-many": "fail: 1050 of 1050 objects were still listed after a deletion "
        "of all of them",
        "exercise-left": f"fail: {count} objects are left under locks/{folder}/",
    }


def test_nothing_is_tried_without_a_repository(tmp_path: Path) -> None:
    report = exercise_store(FolderStore(tmp_path / "slip"), SMALL, str)
    assert faults(report) == {"exercise": "fail: not tried, because there is no repository"}
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_tried_after_a_failed_check(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    puller.create_repository(str(tmp_path))
    found = faults(exercise_store(Unwritable(store), SMALL, str))
    assert found["exercise"] == "fail: not tried, because a check of the store has failed"


class Unwritable(WrappedStore):
    def put(self, key: str, body: Body) -> None:
        raise puller.StoreDenied("cannot store it: access denied")

    def put_new(self, key: str, body: Body) -> None:
        raise puller.StoreDenied("cannot store it: access denied")


class GoesAway(WrappedStore):
    """Does not answer puts of large objects."""

    def put(self, key: str, body: Body) -> None:
        if "/large/" in key:
            raise StoreUnavailable("cannot store it: no answer")
        super().put(key, body)


def test_a_store_that_goes_away_ends_the_exercise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("puller.diagnosis.exercise.ground._POLICY", RetryPolicy(3.0))
    store = MemoryStore()
    report = tried(GoesAway(store))
    assert faults(report) == {"exercise-large": "fail: cannot store it: no answer"}
    assert [finding.name for finding in report.findings][-2:] == ["exercise-large", "exercise-left"]
    assert list(store.list("")) == []


def test_what_was_found_before_a_failure_is_told_too() -> None:
    class MissesAndRefuses(lying.StopsAtThousand):
        def get(self, key: str, *, max_size: int | None = None) -> bytes:
            if "/many/" in key:
                raise puller.StoreDenied("cannot read it: access denied")
            return super().get(key, max_size=max_size)

    assert faults(tried(MissesAndRefuses(MemoryStore()))) == {
        "exercise": "fail: cannot read it: access denied",
        "exercise-list-long": "fail: 50 of 1050 objects were missing in one list",
    }


class Hangs(WrappedStore):
    """A put of a large object lasts until ``released`` is set, and is carried out then."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.hanging, self.released = threading.Event(), threading.Event()

    def put(self, key: str, body: Body) -> None:
        if "/large/" in key:
            self.hanging.set()
            assert self.released.wait(60)
        super().put(key, body)


def ended_in_time(hanging: Hangs, monkeypatch: pytest.MonkeyPatch) -> ExerciseReport:
    """Let the time be over as soon as the put hangs, however fast this machine is."""

    class Timed(Ground):
        def __enter__(self) -> Timed:
            threading.Thread(target=self._end, daemon=True).start()
            super().__enter__()
            return self

        def _end(self) -> None:
            if hanging.hanging.wait(120):
                self.scope.cancel()

    monkeypatch.setattr("puller.diagnosis.exercise.exercise.Ground", Timed)
    return tried(hanging)


def test_the_time_ends_a_hanging_request_and_what_it_does_later_is_deleted_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = MemoryStore()
    hanging = Hangs(store)
    close = _Ledger.close

    def release_and_close(ledger: _Ledger, seconds: float) -> bool:
        threading.Timer(0.2, hanging.released.set).start()
        return close(ledger, seconds)

    monkeypatch.setattr(_Ledger, "close", release_and_close)
    report = ended_in_time(hanging, monkeypatch)
    assert faults(report) == {"exercise-large": "warn: the time of 300 s ended before all checks were done"}
    assert list(store.list("")) == []


def test_a_request_that_never_ends_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("puller.diagnosis.exercise.ground._UNFINISHED", 0.1)
    hanging = Hangs(MemoryStore())
    found = faults(ended_in_time(hanging, monkeypatch))
    hanging.released.set()
    assert found.keys() == {"exercise-large", "exercise-left"}
    assert found["exercise-left"].endswith(" may be left: a request did not end")


def test_the_time_of_the_ground_ends() -> None:
    over = threading.Event()
    with Ground(MemoryStore(), 0.01) as ground:
        ground.scope.listen(over.set)
        assert over.wait(60)
        assert ground.is_over


def test_an_exercise_that_fails_in_the_middle_leaves_nothing() -> None:
    class Breaks(WrappedStore):
        def get_range(self, key: str, offset: int, length: int) -> bytes:
            raise ZeroDivisionError

    store = MemoryStore()
    with pytest.raises(ZeroDivisionError):
        tried(Breaks(store))
    assert list(store.list("")) == []


def test_what_a_killed_exercise_has_left_is_deleted_by_the_next() -> None:
    class Aged(WrappedStore):
        def list(self, prefix: str) -> Iterator[ObjectInfo]:
            for info in super().list(prefix):
                age = 2 * 60 * 60 if "killed" in info.key else 0
                yield replace(info, modified=info.modified - age)

    store = MemoryStore()
    kept = ("locks/exercise-running/many/1", "locks/prune/1-1", "locks/0123456789abcdef")
    for key in ("locks/exercise-killed/many/1", *kept):
        store.put(key, b"1")
    assert faults(tried(Aged(store))) == {}
    assert [info.key for info in store.list("")] == sorted(kept)


def test_slow_requests_are_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("puller.diagnosis.exercise.speed.SLOW", 0.0)
    (text,) = faults(tried(MemoryStore())).values()
    assert text.startswith("warn: small requests are slow: put ")


def interrupted(url: str, has_begun: Callable[[], bool], environment: dict[str, str]) -> int:
    """Send SIGINT to an exercise once it has put objects of a long list; return its exit code."""
    arguments = ("doctor", "-r", url, "--config", "/dev/null", "--exercise-store", "1G", "--json")
    with subprocess.Popen(
        command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    ) as process:
        end = time.monotonic() + 120
        while not has_begun():
            assert process.poll() is None
            assert time.monotonic() < end
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=120)
    return process.returncode


def test_a_signal_leaves_nothing_behind(tmp_path: Path) -> None:
    folder = tmp_path / "repository"
    puller.create_repository(str(folder))
    before = sorted(tmp_path.rglob("*"))
    assert (
        interrupted(str(folder), lambda: any(folder.glob("locks/exercise-*/many/*")), dict(os.environ)) == 130
    )
    assert sorted(tmp_path.rglob("*")) == before


def test_a_signal_leaves_nothing_behind_in_a_bucket(s3: S3Store, seaweed: Seaweed) -> None:
    before = [info.key for info in s3.list("")]

    def has_begun() -> bool:
        return any("/many/" in info.key for info in s3.list("locks/"))

    assert interrupted(s3.url, has_begun, seaweed.environment()) == 130
    assert [info.key for info in s3.list("")] == before
