"""A finding: the result of one check of a host, domain, disk or store."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from puller.errors import PullerError

T = TypeVar("T")


class Status(enum.Enum):
    """Severity of a finding.

    ``OK``: nothing to do. ``WARN``: backups succeed, but cost more than necessary, their points may be
    incomplete, or a command for points does not work here. ``FAIL``: a backup would fail.
    """

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Answer:
    """The text of a finding and one sentence of advice, empty if there is nothing to do."""

    status: Status
    text: str
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """A finding of ``doctor``.

    Attributes:
        name: The check that found it, such as ``scratch-space``.
        subject: The host, domain, disk or store that it is about, such as ``web1/vda``.
        status: Its severity.
        text: The finding, without a full stop.
        advice: One sentence that says what to do; empty if there is nothing to do.
    """

    name: str
    subject: str
    status: Status
    text: str
    advice: str


def ok(finding: str) -> Answer:
    """Return a finding without a problem."""
    return Answer(Status.OK, finding)


def warn(finding: str, advice: str) -> Answer:
    """Return a warning: a backup succeeds, with a problem."""
    return Answer(Status.WARN, finding, advice)


def fail(finding: str, advice: str) -> Answer:
    """Return a failure: a backup would fail."""
    return Answer(Status.FAIL, finding, advice)


def ask(name: str, subject: str, question: Callable[[], Answer]) -> Finding:
    """Run a check. If it raises an error of puller, the check has failed with the same reason."""
    try:
        answer = question()
    except PullerError as error:
        answer = fail(error.message, error.advice)
    return Finding(name, subject, answer.status, answer.text, answer.advice)


@dataclass(frozen=True, slots=True)
class Attempt(Generic[T]):
    """A step on which later checks depend: its finding, and the result, None if it failed."""

    check: Finding
    outcome: T | None


def attempt(name: str, subject: str, act: Callable[[], T], tell: Callable[[T], str]) -> Attempt[T]:
    """Run the step; ``tell`` returns the text of the finding."""
    try:
        outcome = act()
    except PullerError as error:
        return Attempt(Finding(name, subject, Status.FAIL, error.message, error.advice), None)
    return Attempt(Finding(name, subject, Status.OK, tell(outcome), ""), outcome)
