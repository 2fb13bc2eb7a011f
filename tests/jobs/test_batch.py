"""Many domains at a time: order, failures, and what a signal does."""

from __future__ import annotations

import threading
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pytest

from puller.cancelling import CancelScope, find_stop
from puller.errors import (
    HypervisorError,
    Interrupted,
    NbdError,
    NoSuchDomain,
    PullerError,
    StoreUnavailable,
)
from puller.events import Observer, Step, ignore
from puller.jobs.batch import Reporters, take_all
from puller.repository.points import Point

TIME = datetime(2026, 11, 23, tzinfo=UTC)


class Signal(BaseException):
    """What a signal's handler raises."""


def point(domain: str) -> Point:
    return Point(f"of {domain}", domain, "", TIME, "pull", "full", ())


def ignored(domain: str, error: BaseException) -> None:
    """Nobody is told."""


class Listener:
    def __init__(self) -> None:
        self.heard: list[str] = []
        self.audience = Reporters(ignore, self._on_point, self._on_failure)

    def _on_point(self, made: Point) -> None:
        self.heard.append(made.domain)

    def _on_failure(self, domain: str, error: BaseException) -> None:
        self.heard.append(f"{domain}: {type(error).__name__}")


@pytest.mark.parametrize("parallel", [1, 3])
def test_one_that_fails_does_not_stop_the_others(parallel: int) -> None:
    def take(domain: str, observer: Observer) -> Point:
        if domain == "b":
            raise NoSuchDomain("no b")
        return point(domain)

    listener = Listener()
    taken = take_all(["a", "b", "c"], take, listener.audience, parallel)
    assert sorted(made.domain for made in taken.points) == ["a", "c"]
    assert [domain for domain, _ in taken.failed] == ["b"]
    assert sorted(listener.heard) == ["a", "b: NoSuchDomain", "c"]
    assert taken.interruption is None


def test_so_many_at_a_time() -> None:
    together = threading.Barrier(3)

    def take(domain: str, observer: Observer) -> Point:
        together.wait(60)  # passes only if three are under way
        return point(domain)

    assert len(take_all(list("abcdef"), take, Listener().audience, 3).points) == 6


def test_a_signal_ends_one_by_one() -> None:
    def take(domain: str, observer: Observer) -> Point:
        if domain == "b":
            raise Signal
        return point(domain)

    taken = take_all(["a", "b", "c"], take, Listener().audience)
    assert [made.domain for made in taken.points] == ["a"]
    assert isinstance(taken.interruption, Signal)


def test_a_signal_after_which_cleaning_up_fails_ends_all_the_same() -> None:
    def take(domain: str, observer: Observer) -> Point:
        try:
            raise Signal
        finally:
            _fail_to_end_the_job()

    taken = take_all(["a", "b"], take, Listener().audience)
    assert [(domain, str(error)) for domain, error in taken.failed] == [("a", "the job did not end")]
    assert isinstance(taken.interruption, Signal)


def test_what_is_no_stop() -> None:
    def read() -> Generator[int, None, None]:
        try:
            yield 1
        finally:
            raise KeyError

    first, second = ValueError(), ValueError()
    first.__cause__, second.__cause__ = second, first
    with pytest.raises(KeyError) as closed:
        reading = read()
        next(reading)
        reading.close()
    assert isinstance(closed.value.__context__, GeneratorExit)
    assert [find_stop(error) for error in (ValueError(), first, closed.value)] == [None] * 3


def _fail_to_end_the_job() -> None:
    try:
        raise KeyError
    except KeyError as error:
        raise HypervisorError("the job did not end") from error


def test_a_signal_between_two_backups_hides_none_that_is_stored() -> None:
    def told(made: Point) -> None:
        raise Signal

    taken = take_all(["a", "b"], lambda domain, observer: point(domain), Reporters(ignore, told, ignored))
    assert [made.domain for made in taken.points] == ["a"]
    assert taken.failed == []
    assert isinstance(taken.interruption, Signal)


def test_a_signal_stops_those_under_way_at_their_next_event(monkeypatch: pytest.MonkeyPatch) -> None:
    begun = threading.Barrier(3)

    def take(domain: str, observer: Observer) -> Point:
        begun.wait(60)
        for _ in range(1_000_000):  # goes on, and tells of it, until it is stopped
            observer(Step(domain, "read"))
        return point(domain)

    def wait(futures: object) -> None:
        begun.wait(60)
        raise Signal

    monkeypatch.setattr("puller.jobs.batch.wait", wait)
    taken = take_all(["a", "b", "c"], take, Listener().audience, 2)
    assert isinstance(taken.interruption, Signal)
    assert taken.points == []
    assert sorted(domain for domain, _ in taken.failed) == ["a", "b"]
    assert {type(error) for _, error in taken.failed} == {Interrupted}


def test_a_signal_as_they_are_begun_stops_those_that_are(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, submit = threading.Event(), ThreadPoolExecutor.submit

    def take(domain: str, observer: Observer) -> Point:
        begun.set()
        for _ in range(1_000_000):
            observer(Step(domain, "read"))
        return point(domain)

    def interrupted(pool: ThreadPoolExecutor, *work: Any) -> Future[None]:
        if work[-1] == "b":
            begun.wait(60)
            raise Signal
        return submit(pool, *work)

    monkeypatch.setattr(ThreadPoolExecutor, "submit", interrupted)
    taken = take_all(["a", "b"], take, Listener().audience, 2)
    assert isinstance(taken.interruption, Signal)
    assert [(domain, type(error)) for domain, error in taken.failed] == [("a", Interrupted)]


@pytest.mark.parametrize("error", [StoreUnavailable("given up"), NbdError("the connection was shut")])
def test_a_signal_ends_a_wait_and_is_told_as_what_it_is(
    monkeypatch: pytest.MonkeyPatch, error: PullerError
) -> None:
    begun = threading.Barrier(3)

    scope = CancelScope()

    def take(domain: str, observer: Observer) -> Point:
        begun.wait(60)
        scope.pause(60)
        raise error

    def wait(futures: object) -> None:
        begun.wait(60)
        raise Signal

    monkeypatch.setattr("puller.jobs.batch.wait", wait)
    taken = take_all(["a", "b"], take, Listener().audience, 2, scope)
    assert [str(error) for _, error in taken.failed] == ["stopped by a signal"] * 2
    assert {type(error) for _, error in taken.failed} == {Interrupted}
