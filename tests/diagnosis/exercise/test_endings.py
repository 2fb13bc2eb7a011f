"""An exercise that fails, is interrupted or takes too long leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import puller
from puller.cancelling import RetryPolicy
from puller.diagnosis.exercise.exercise import ExerciseReport
from puller.diagnosis.exercise.ground import Ground, _Ledger
from puller.errors import StoreUnavailable
from puller.store.base import Body, ObjectInfo, Store
from puller.store.s3.s3 import S3Store
from puller.store.wrapping.wrapped import WrappedStore
from tests.cli.conftest import command
from tests.diagnosis import lying
from tests.diagnosis.exercise.exercising import faults, tried
from tests.lab.memory import MemoryStore
from tests.lab.seaweed import Seaweed


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
