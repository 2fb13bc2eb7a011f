"""An imitation of ``puller.backup``, for workers: the name of the domain says what comes of it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from puller.cancelling import CancelScope
from puller.errors import Interrupted, ScratchFull
from puller.events import Committed, Notice, Observer
from puller.repository.points import Point
from puller.repository.repository import Repository
from tests.jobs.test_batch import point

LARGE = 4 << 20
"""Bytes of a message that the buffers of a socket do not hold."""


class Untellable(Exception):
    """Can be neither pickled nor printed."""

    def __str__(self) -> str:
        raise ValueError("no words")


def backup(repository: Repository, domain: str, *, observer: Observer, **_: Any) -> Point:
    made = point(domain)
    _WAYS.get(domain.rstrip("0123456789"), _succeed)(made, observer, repository.scope)
    return made


def _succeed(made: Point, observer: Observer, _: CancelScope) -> None:
    observer(Committed(made.domain, made))


def _say_which(made: Point, observer: Observer, _: CancelScope) -> None:
    """Say in which process, and with which variables."""
    observer(Notice(str(os.getpid()), "\n".join(sorted(os.environ))))
    observer(Committed(made.domain, made))


def _be_killed(made: Point, observer: Observer, _: CancelScope) -> None:
    observer(Committed(made.domain, made))
    os.kill(os.getpid(), signal.SIGKILL)


def _be_asked_late(made: Point, observer: Observer, scope: CancelScope) -> None:
    """Succeed though a signal came."""
    os.kill(os.getpid(), signal.SIGTERM)
    scope.pause(60.0)


def _fail_beyond_words(*_: object) -> None:
    error = Untellable()
    error.__dict__["held"] = (each for each in "x")
    raise error


def _say_much(made: Point, observer: Observer, _: CancelScope) -> None:
    for _number in range(8):
        observer(Notice(made.domain, "x" * LARGE))


def _cannot_clean_up(made: Point, observer: Observer, scope: CancelScope) -> None:
    with suppress(Interrupted):
        observer(Notice(made.domain, "began"))
    scope.pause(60.0)
    raise ScratchFull("cannot remove the scratch")


def _wait(made: Point, observer: Observer, scope: CancelScope) -> None:
    observer(Notice(made.domain, "began"))
    scope.pause(60.0)
    scope.check()


_WAYS: dict[str, Callable[[Point, Observer, CancelScope], None]] = {
    "which": _say_which,
    "killed": _be_killed,
    "late": _be_asked_late,
    "untellable": _fail_beyond_words,
    "much": _say_much,
    "dirty": _cannot_clean_up,
    "waiting": _wait,
}
