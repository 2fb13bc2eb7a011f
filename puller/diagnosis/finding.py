"""A finding: the answer to one question about a host, domain, disk or store."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from puller.errors import PullerError

T = TypeVar("T")


class Status(enum.Enum):
    """``WARN`` is what makes backups dear or points doubtful, ``FAIL`` what makes them fail."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Answer:
    """What was found, and one sentence of advice, empty where there is nothing to do."""

    status: Status
    finding: str
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Check:
    """An answer with the name of its question and the ``subject`` it is about, such as ``web1/vda``."""

    name: str
    subject: str
    status: Status
    finding: str
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


def ask(name: str, subject: str, question: Callable[[], Answer]) -> Check:
    """Put a question. One that fails with an error of puller's has failed as a check, for the same reason."""
    try:
        answer = question()
    except PullerError as error:
        answer = fail(error.message, error.advice)
    return Check(name, subject, answer.status, answer.finding, answer.advice)


@dataclass(frozen=True, slots=True)
class Attempt(Generic[T]):
    """What later questions depend on: its check, and the outcome, None where it failed."""

    check: Check
    outcome: T | None


def attempt(name: str, subject: str, act: Callable[[], T], tell: Callable[[T], str]) -> Attempt[T]:
    """Do it; ``tell`` words the finding."""
    try:
        outcome = act()
    except PullerError as error:
        return Attempt(Check(name, subject, Status.FAIL, error.message, error.advice), None)
    return Attempt(Check(name, subject, Status.OK, tell(outcome), ""), outcome)
