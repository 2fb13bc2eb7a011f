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
    """``text`` on one line, with whatever could steer a terminal made visible.

    Names of domains and messages of libraries come from elsewhere; none may forge lines or colours.
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
    """Something to tell: ``text`` for people; for programs ``event`` says of what kind it is.

    ``fields`` say by name what it is about: ``domain``, ``disk``, ``point``, ``step``, ``error`` ...
    """

    text: str
    event: str = "message"
    priority: int = INFO
    fields: dict[str, Fact] = field(default_factory=dict)


Reporter = Callable[[Line], None]
"""Tells lines in one form or another. Called from many threads; must not fail: nobody may be listening."""


def plain(line: Line) -> None:
    """The reporter for people."""
    try:
        click.echo(line.text, err=True)
    except OSError:
        silence(sys.stderr)


_reporter: Reporter = plain


def report_as(reporter: Reporter) -> None:
    """Tell everything from now on by ``reporter``: a process has one stderr, and so one reporter."""
    global _reporter  # noqa: PLW0603
    _reporter = reporter


def begin(reporter: Reporter) -> None:
    """Begin a command: tell by ``reporter``, of nothing in particular."""
    report_as(reporter)
    _context.clear()


_context: dict[str, Fact] = {}


def speak_about(**fields: Fact) -> None:
    """Add ``fields``, such as the job's name, to every line from now on."""
    _context.update(fields)


def is_heard_by_programs() -> bool:
    """Whether lines reach somebody with their fields: the journal, or who asked for JSON."""
    return _reporter is not plain


def say(text: str, event: str = "message", priority: int = INFO, **fields: Fact) -> None:
    """Tell a line to whoever reads stderr."""
    _reporter(Line(text, event, priority, {**_context, **fields}))


def answer(text: str) -> None:
    """Write a result to stdout. A reader that has gone away is no error; a full disk is.

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
            advice="Check where the output goes: the command itself is done, and only its report is lost.",
        ) from error


def silence(stream: IO[str]) -> None:
    """Let a stream that failed lead nowhere.

    Else what is left in its buffer fails once more when the interpreter ends, which turns any exit code
    into 120.
    """
    with contextlib.suppress(OSError):
        sink = os.open(os.devnull, os.O_WRONLY)
        os.dup2(sink, stream.fileno())
        os.close(sink)
