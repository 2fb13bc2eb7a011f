"""The workers of a job, seen from its process: started when a domain needs one, used again, and ended."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Self

from puller import __version__
from puller.cancelling import CancelScope
from puller.errors import Interrupted, PullerError, WorkerLost
from puller.events import Event, Observer
from puller.host.command import NOT_FOR_CHILDREN, outcome
from puller.jobs.worker import SIGNALS, Answer, Opening
from puller.repository.points import Point

_PROGRAM = """\
import gc, os, sys
gc.disable()
sys.path[:] = sys.argv.pop().split(os.pathsep)
from puller.jobs import worker
worker.main()
"""
"""Uses the module search path of the job's process, and not the working directory."""

_LIMITS = {"OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}
"""As the command line limits its own process."""

_NOT_FOR_WORKERS = NOT_FOR_CHILDREN | {"PULLER_PASSWORD_FILE", "PULLER_KEY_FILE"}
"""Variables that a worker does not need: it gets the keys, and only its parent has a service manager."""

_NOT_STARTED = "Lower the job's 'parallel', or give puller more memory, processes or open files."

_END_SECONDS = 10.0
"""Seconds that a worker has for its end once it has answered."""


class Workers:
    """A context with processes, each of which backs up one domain at a time. Threads can share it.

    When ``scope`` is cancelled, the backups stop and clean up.
    """

    def __init__(self, opening: Opening, scope: CancelScope) -> None:
        self._opening = opening
        self._scope = scope
        self._idle: list[_Process] = []

    def take(self, domain: str, observer: Observer) -> Point:
        """Back up a domain in a process of its own, and return its point.

        Raises what ``puller.backup`` does; WorkerLost if the process ends before it answers.
        """
        self._scope.check()
        process = self._idle_one() or _Process(self._opening)
        try:
            with self._scope.calling(process.stop):
                point = process.take(domain, observer)
        except BaseException:
            # It ends: its stream may have, and after an error a fresh process is the safer one.
            process.end()
            raise
        self._idle.append(process)
        return point

    def _idle_one(self) -> _Process | None:
        """Return a process that waits for a domain, without those that were killed or stopped meanwhile."""
        while True:
            try:
                process = self._idle.pop()  # one step: threads share the list
            except IndexError:
                return None
            if process.takes_more:
                return process
            process.end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._idle:
            process.stop()
        for process in self._idle:
            process.end()


class _Process:
    def __init__(self, opening: Opening) -> None:
        self._is_over = False
        try:
            self._socket, theirs = socket.socketpair()
            with theirs:
                self._process = _start(theirs.fileno())
            self._connection = Connection(os.dup(self._socket.fileno()))
        except OSError as error:  # no process or descriptor is left
            raise WorkerLost(
                f"cannot start a process for a backup: {error.strerror}", advice=_NOT_STARTED
            ) from error
        with suppress(OSError):  # it has ended, which is found out when it should answer
            self._connection.send(opening)

    @property
    def takes_more(self) -> bool:
        """Whether it can back up another domain, as far as this process knows."""
        return not self._is_over and self._process.poll() is None

    def take(self, domain: str, observer: Observer) -> Point:
        """Wait for the answer, which comes once the backup has cleaned up."""
        with suppress(OSError):
            self._connection.send(domain)
        stopped: BaseException | None = None
        while not isinstance(message := self._receive(domain), Answer):
            try:
                observer(message)
            except BaseException as error:  # noqa: BLE001 - it ends the backup, which is waited for
                stopped = stopped or error
                self.stop()
        self._is_over = message.is_last
        return _result(message, stopped)

    def _receive(self, domain: str) -> Event | Answer:
        try:
            message: Event | Answer = self._connection.recv()
        except (EOFError, OSError):
            return Answer(error=self._lost(domain), is_last=True)
        return message

    def _lost(self, domain: str) -> PullerError:
        self.end()
        code = self._process.returncode
        if code == 0:  # it was asked to stop before it began
            return Interrupted("stopped by a signal")
        how = "does not end"
        if code is not None:
            how = (
                f"was ended by {outcome(code)}" if code < 0 else f"ended without an answer ({outcome(code)})"
            )
        return WorkerLost(f"the process that backed up domain {domain} {how}")

    def stop(self) -> None:
        """End the stream to the worker. It may be called often, and by any thread."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def end(self) -> None:
        """Wait for the end of the process, which has answered or is gone. It may be called twice."""
        self.stop()
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            with suppress(subprocess.TimeoutExpired):  # the kernel waits for a hung disk or file server
                self._process.wait(_END_SECONDS)
        self._connection.close()
        self._socket.close()


def _start(descriptor: int) -> subprocess.Popen[bytes]:
    """Start a worker, which inherits this descriptor and no other."""
    environment = {name: value for name, value in os.environ.items() if name not in _NOT_FOR_WORKERS}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        return subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, str(descriptor), __version__, os.pathsep.join(sys.path)],
            env=_LIMITS | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=(descriptor,),
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _result(answer: Answer, stopped: BaseException | None) -> Point:
    """Return the point, or raise. ``stopped`` has ended the backup, so it is behind what followed."""
    if stopped is not None and (answer.error is None or isinstance(answer.error, Interrupted)):
        raise stopped
    if answer.error is not None:
        raise answer.error from _cause(answer.trace, stopped)
    assert answer.point is not None
    return answer.point


def _cause(trace: str, stopped: BaseException | None) -> BaseException | None:
    if not trace:
        return stopped
    elsewhere = _Elsewhere(trace)
    elsewhere.__cause__ = stopped
    return elsewhere


class _Elsewhere(Exception):
    """Shows the traceback of the worker as the cause of its error."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"
