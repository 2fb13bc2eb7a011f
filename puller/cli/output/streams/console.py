"""The two streams: results to stdout, everything else to stderr, or to the journal that reads stderr."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import IO

import click

from puller.errors import PullerError


def printable(text: str) -> str:
    """Return ``text`` on one line, with control characters made visible.

    Names of domains and messages of libraries are untrusted; they must not forge lines or colours.
    """
    line = " ".join(text.split())
    if line.isprintable():
        return line
    return "".join(
        sign if sign.isprintable() else sign.encode("unicode_escape").decode("ascii") for sign in line
    )


ERROR, NOTICE, INFO = 3, 5, 6
"""Priorities, those of syslog."""


Fact = str | int | float | bool


@dataclass(frozen=True, slots=True)
class Line:
    """A line of output: ``text`` for people; for programs, ``event`` is its kind.

    ``fields`` name its subject: ``domain``, ``disk``, ``point``, ``step``, ``error`` ...
    """

    text: str
    event: str = "message"
    priority: int = INFO
    fields: dict[str, Fact] = field(default_factory=dict)


Reporter = Callable[[Line], None]
"""Writes lines in one form. Called from many threads; must not fail, even if nobody reads."""


def plain(line: Line) -> None:
    """Write a line for people: the default reporter."""
    try:
        click.echo(line.text, err=True)
    except OSError:
        silence(sys.stderr)


_reporter: Reporter = plain


def report_as(reporter: Reporter) -> None:
    """Write all lines from now on with ``reporter``: a process has one stderr, and so one reporter."""
    global _reporter  # noqa: PLW0603
    _reporter = reporter


def begin(reporter: Reporter) -> None:
    """Begin a command: use ``reporter``, without common fields."""
    report_as(reporter)
    _context.clear()


_context: dict[str, Fact] = {}


def speak_about(**fields: Fact) -> None:
    """Add ``fields``, such as the job's name, to every line from now on."""
    _context.update(fields)


def is_heard_by_programs() -> bool:
    """Return whether lines are written with their fields: to the journal, or as JSON."""
    return _reporter is not plain


def say(text: str, event: str = "message", priority: int = INFO, **fields: Fact) -> None:
    """Write a line to stderr."""
    _reporter(Line(text, event, priority, {**_context, **fields}))


def answer(text: str) -> None:
    """Write a result to stdout. A closed pipe is not an error; a full disk is.

    Raises PullerError.
    """
    try:
        click.echo(text)
    except BrokenPipeError:
        silence(sys.stdout)
    except OSError as error:
        silence(sys.stdout)
        raise PullerError(
            f"cannot write the result to standard output: {error.strerror}",
            advice="Check where the output goes. The command itself succeeded; only its report is lost.",
        ) from error


def silence(stream: IO[str]) -> None:
    """Redirect a stream that failed to nowhere.

    Otherwise the rest of its buffer fails again when the interpreter ends, which turns any exit code into
    120.
    """
    with contextlib.suppress(OSError):
        sink = os.open(os.devnull, os.O_WRONLY)
        os.dup2(sink, stream.fileno())
        os.close(sink)
