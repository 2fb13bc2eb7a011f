"""The commands that a job runs before and after its backups."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial

from puller.cancelling import CancelScope
from puller.errors import CommandFailed

_NOT_FOR_CHILDREN = {"NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "PULLER_PASSWORD"}
"""Environment variables for this process only."""


def run_command(words: Sequence[str], timeout: float, facts: Mapping[str, str], scope: CancelScope) -> None:
    """Run a command for ``timeout`` seconds at most, with ``facts`` added to its environment.

    Its output goes to stderr, because stdout is for results. It is killed after its timeout, when this
    process is asked to stop, or when ``scope`` is cancelled, together with all processes of its process
    group. Raises CommandFailed, Interrupted.
    """
    environment = {name: value for name, value in os.environ.items() if name not in _NOT_FOR_CHILDREN}
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
    if code:
        raise CommandFailed(f"{words[0]} failed with {_outcome(code)}")


def _outcome(code: int) -> str:
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
