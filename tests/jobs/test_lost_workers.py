"""Workers at the edges of their lives: killed, stopped, or unable to answer. Their backups are imitations."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

import puller
from puller.cancelling import CancelScope
from puller.errors import Interrupted, MonitorRefused, PullerError, ScratchFull, WorkerLost
from puller.events import Event, Notice, Observer, ignore
from puller.jobs import workers
from puller.jobs.batch import Reporters, Taken, take_all
from puller.jobs.worker import Opening, portable
from puller.jobs.workers import Workers
from tests.jobs.imitation import LARGE

_PROGRAM = """\
import os, sys
sys.path[:] = sys.argv.pop().split(os.pathsep)
from puller import api
from tests.jobs import imitation
api.backup = imitation.backup
from puller.jobs import worker
worker.main()
"""


@pytest.fixture
def opening(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Opening:
    monkeypatch.setattr(workers, "_PROGRAM", _PROGRAM)
    repository = puller.create_repository(str(tmp_path / "repository"), password=None)
    return Opening.of(repository, "qemu:///system", {})


class Told:
    """Takes domains, and keeps what is told of them."""

    def __init__(self) -> None:
        self.notices: list[Notice] = []

    def __call__(self, event: Event) -> None:
        if isinstance(event, Notice):
            self.notices.append(event)


def take(opening: Opening, *domains: str, observer: Observer = ignore) -> Taken:
    scope = CancelScope()
    with Workers(opening, scope) as pool:
        reporters = Reporters(observer, lambda _: None, lambda *_: None)
        return take_all(domains, pool.take, reporters, 2, scope)


def test_a_worker_that_is_killed_after_its_commit_leaves_a_stored_point(opening: Opening) -> None:
    taken = take(opening, "killed", "good")
    assert sorted(point.domain for point in taken.points) == ["good", "killed"]
    ((domain, error),) = taken.left
    assert (domain, type(error), taken.failed, taken.interruption) == ("killed", WorkerLost, [], None)


def test_an_error_that_cannot_be_told_ends_the_worker_and_not_the_job(opening: Opening) -> None:
    """The job would wait for its answer for ever."""
    taken = take(opening, "untellable", "good")
    assert [point.domain for point in taken.points] == ["good"]
    ((domain, error),) = taken.failed
    assert (domain, type(error)) == ("untellable", WorkerLost)
    assert "ended without an answer (exit code 1)" in str(error)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_worker_that_ends_while_it_is_idle_costs_no_domain(
    opening: Opening, number: signal.Signals
) -> None:
    told = Told()
    with Workers(opening, CancelScope()) as pool:
        pool.take("which1", told)
        pool.take("which2", told)
        first, again = (int(notice.subject) for notice in told.notices)
        assert first == again
        os.kill(first, number)
        os.waitid(os.P_PID, first, os.WEXITED | os.WNOWAIT)
        assert pool.take("which3", told).domain == "which3"
    assert int(told.notices[-1].subject) != first


def test_a_worker_that_a_signal_reached_too_late_takes_no_other_domain(opening: Opening) -> None:
    with Workers(opening, CancelScope()) as pool:
        assert pool.take("late", ignore).domain == "late"
        assert pool.take("good", ignore).domain == "good"


def test_a_worker_that_is_stopped_before_it_begins_was_not_lost(
    opening: Opening, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after Ctrl-C, which the terminal sends to all processes, while the first workers start."""
    start = workers._start

    def start_and_stop(descriptor: int) -> subprocess.Popen[bytes]:
        process = start(descriptor)
        process.send_signal(signal.SIGINT)
        return process

    monkeypatch.setattr(workers, "_start", start_and_stop)
    with Workers(opening, CancelScope()) as pool, pytest.raises(Interrupted, match="stopped by a signal"):
        pool.take("good", ignore)


def test_a_stop_that_comes_while_a_worker_starts_is_an_interruption(
    opening: Opening, monkeypatch: pytest.MonkeyPatch
) -> None:
    scope, start = CancelScope(), workers._start

    def start_and_cancel(descriptor: int) -> subprocess.Popen[bytes]:
        scope.cancel()
        return start(descriptor)

    monkeypatch.setattr(workers, "_start", start_and_cancel)
    with Workers(opening, scope) as pool, pytest.raises(Interrupted):
        pool.take("good", ignore)


def test_messages_that_no_buffer_holds_arrive(opening: Opening) -> None:
    """Also those of many processes to one slow reader."""
    told = Told()
    taken = take(opening, "much1", "much2", "much3", observer=told)
    assert len(taken.points) == 3
    assert {len(notice.text) for notice in told.notices} == {LARGE}
    assert len(told.notices) == 24


def test_a_failure_to_clean_up_is_not_hidden_by_the_stop_before_it(opening: Opening) -> None:
    """Else the advice would be that nothing was left behind."""

    def stop(event: Event) -> None:
        raise KeyboardInterrupt

    taken = take(opening, "dirty", observer=stop)
    ((_, error),) = taken.failed
    assert (type(error), str(error)) == (ScratchFull, "cannot remove the scratch")
    assert isinstance(taken.interruption, KeyboardInterrupt)
    taken = take(opening, "waiting", observer=stop)
    ((_, stopped),) = taken.failed
    assert isinstance(stopped, KeyboardInterrupt)


def test_only_the_job_has_a_service_manager(opening: Opening, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "PULLER_PASSWORD", "PULLER_KEY_FILE"):
        monkeypatch.setenv(name, "1")
    told = Told()
    take(opening, "which", observer=told)
    variables = set(told.notices[0].text.split())
    assert not {name for name in variables if name.startswith(("NOTIFY", "WATCHDOG", "PULLER_PASS"))}
    assert "PULLER_KEY_FILE" not in variables
    assert "PATH" in variables


@pytest.mark.parametrize("name", ["subprocess.Popen", "socket.socketpair"])
def test_a_host_without_processes_or_descriptors_fails_the_domain(
    opening: Opening, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(name, refuse)
    with Workers(opening, CancelScope()) as pool, pytest.raises(WorkerLost, match="cannot start") as caught:
        pool.take("good", ignore)
    assert "'parallel'" in caught.value.advice


def test_a_worker_ends_if_the_job_dies_while_it_starts(opening: Opening) -> None:
    process = workers._Process(opening)
    number = process._process.pid
    process._connection.close()
    process._socket.close()
    assert process._process.wait(60) == 0
    assert not Path(f"/proc/{number}").exists()


def test_every_error_can_be_made_anew_with_its_advice() -> None:
    """As the summary of several failures does, and a worker whose error cannot travel."""
    kinds = [PullerError]
    for kind in kinds:
        kinds.extend(kind.__subclasses__())
    for kind in (kind for kind in kinds if kind.__module__ == PullerError.__module__):
        made = kind("why", advice="Do it.")
        assert (made.message, made.advice) == ("why", "Do it.")
    refused = MonitorRefused("cannot stop: no", "no")
    refused.__dict__["held"] = (each for each in "x")
    assert type(portable(refused)) is MonitorRefused
