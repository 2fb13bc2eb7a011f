"""The two streams: results to stdout, everything else to stderr."""

from __future__ import annotations

import contextlib
import os
import sys
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


def say(line: str) -> None:
    """Write a line to stderr. Called from many threads, and must not fail: nobody may be listening."""
    try:
        click.echo(line, err=True)
    except OSError:
        silence(sys.stderr)


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
            f"the result cannot be written to standard output: {error.strerror}",
            advice="What the command does to repository and disks is done; only its report is lost.",
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
