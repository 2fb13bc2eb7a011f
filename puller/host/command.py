"""Commands of the user's, each with all processes that it starts."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial

from puller.cancelling import CancelScope
from puller.errors import CommandFailed

NOT_FOR_CHILDREN = frozenset({"NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "PULLER_PASSWORD"})
"""Environment variables for this process only."""


def run_command(
    words: Sequence[str], facts: Mapping[str, str], scope: CancelScope, timeout: float | None = None
) -> int:
    """Run a command with ``facts`` added to its environment, and return its exit code.

    A command that a signal ended has the negative number of the signal. Its output goes to stderr, because
    stdout is for results. It is killed after ``timeout`` seconds, when this process is asked to stop, or
    when ``scope`` is cancelled, together with all processes of its process group. Raises CommandFailed if it
    cannot be run or took too long; Interrupted.
    """
    environment = {name: value for name, value in os.environ.items() if name not in NOT_FOR_CHILDREN}
    try:
        child = subprocess.Popen(
            words, env={**environment, **facts}, stdin=subprocess.DEVNULL, stdout=2, start_new_session=True
        )
    except OSError as error:
        raise CommandFailed(f"cannot run {words[0]}: {error.strerror}") from error
    try:
        with scope.calling(partial(_kill, child)):
            code = child.wait(timeout)
        scope.check()
    except subprocess.TimeoutExpired as error:
        raise CommandFailed(f"{words[0]} did not end within {timeout:g} seconds and was killed") from error
    finally:
        _end(child)
    return code


def variable(prefix: str, target: str) -> str:
    """Return the name of an environment variable about the disk ``target``, which a shell can read.

    A target such as ``drive-scsi0`` has characters that no variable of a shell may have; each becomes ``_``.
    """
    return prefix + re.sub(r"[^A-Za-z0-9_]", "_", target)


def outcome(code: int) -> str:
    """Return what a message says of an exit code that is not 0."""
    if code > 0:
        return f"exit code {code}"
    known = {number.value: number.name for number in signal.Signals}
    return known.get(-code, f"signal {-code}")  # most real-time signals have no name


def _end(child: subprocess.Popen[bytes]) -> None:
    """Kill the remaining processes of the command's process group."""
    _kill(child)
    child.wait()


def _kill(child: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
