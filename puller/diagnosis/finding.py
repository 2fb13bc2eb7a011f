"""A finding: the answer to one question about a host, domain, disk or store."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from puller.errors import PullerError

T = TypeVar("T")


class Status(enum.Enum):
    """How bad a finding is.

    ``OK``: nothing to do. ``WARN``: backups succeed, but cost more than they should, or their points are in
    doubt. ``FAIL``: a backup would fail.
    """

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Answer:
    """What was found, and one sentence of advice, empty where there is nothing to do."""

    status: Status
    text: str
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """What ``doctor`` found out about one thing.

    Attributes:
        name: The check that found it, such as ``scratch-space``.
        subject: The host, domain, disk or store that it is about, such as ``web1/vda``.
        status: How bad it is.
        text: The finding, without a full stop.
        advice: One sentence that says what to do; empty if there is nothing to do.
    """

    name: str
    subject: str
    status: Status
    text: str
    advice: str


def ok(finding: str) -> Answer:
    """All is well."""
    return Answer(Status.OK, finding)


def warn(finding: str, advice: str) -> Answer:
    """A backup succeeds, but not as it should."""
    return Answer(Status.WARN, finding, advice)


def fail(finding: str, advice: str) -> Answer:
    """A backup would fail."""
    return Answer(Status.FAIL, finding, advice)


def ask(name: str, subject: str, question: Callable[[], Answer]) -> Finding:
    """Put a question. One that fails with an error of puller's has failed as a check, for the same reason."""
    try:
        answer = question()
    except PullerError as error:
        answer = fail(error.message, error.advice)
    return Finding(name, subject, answer.status, answer.text, answer.advice)


@dataclass(frozen=True, slots=True)
class Attempt(Generic[T]):
    """What later questions depend on: its check, and the outcome, None where it failed."""

    check: Finding
    outcome: T | None


def attempt(name: str, subject: str, act: Callable[[], T], tell: Callable[[T], str]) -> Attempt[T]:
    """Do it; ``tell`` words the finding."""
    try:
        outcome = act()
    except PullerError as error:
        return Attempt(Finding(name, subject, Status.FAIL, error.message, error.advice), None)
    return Attempt(Finding(name, subject, Status.OK, tell(outcome), ""), outcome)
