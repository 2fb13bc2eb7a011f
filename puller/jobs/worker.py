"""A worker: a process that backs up domains of a job, one after the other, for the process of the job.

::

    process of the job                                  worker
      Opening: the repository with its keys ──────────►
      the name of a domain ───────────────────────────► backs it up
                            ◄────────────────────────── events, then an Answer
      end of the stream ──────────────────────────────► cancels the backup, which cleans up, and ends

Both ends are sockets of one pair, which no other process has: keys are neither on a command line nor in the
environment. The stream also ends if the process of the job dies. Then its workers clean up.
"""

from __future__ import annotations

import gc
import os
import pickle
import signal
import sys
import threading
import traceback
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any

from puller import api
from puller.cancelling import CancelScope
from puller.errors import PullerError
from puller.events import Event, Notice
from puller.jobs.batch import cause_of
from puller.repository.format.descriptor import Descriptor
from puller.repository.keys.keyring import KeyRing
from puller.repository.points import Point
from puller.repository.repository import Repository, reopen
from puller.store.location import open_store
from puller.store.options import StoreOptions
from puller.store.wrapping.retrying import RetryingStore

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals that ask to stop. A worker is started with these blocked, until it can handle them."""


@dataclass(frozen=True, slots=True)
class Opening:
    """What a worker needs to back up domains: an open repository, and the choices of the job.

    ``choices`` are keywords of ``puller.backup``.
    """

    url: str
    options: StoreOptions
    descriptor: Descriptor
    keys: KeyRing = field(repr=False)
    index_budget: int
    connect: str
    choices: Mapping[str, Any]

    @classmethod
    def of(cls, repository: Repository, connect: str, choices: Mapping[str, Any]) -> Opening:
        """Describe an open repository."""
        return cls(
            repository.store.url,
            repository.store_options,
            repository.descriptor,
            repository.keys,
            repository.index_budget,
            connect,
            choices,
        )

    def open(self, scope: CancelScope) -> Repository:
        """Open the repository again, without a request to its store. Its waits belong to ``scope``."""
        store = RetryingStore(open_store(self.url, self.options), scope)
        repository = reopen(store, self.descriptor, self.keys)
        repository.store_options, repository.index_budget = self.options, self.index_budget
        return repository


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a domain: its point, or the error and where it was raised.

    After one that ``is_last`` the worker ends: it was asked to.
    """

    point: Point | None = None
    error: BaseException | None = None
    trace: str = ""
    is_last: bool = False


def main() -> None:
    """Work for the process at the other end of the socket whose number is the first argument."""
    gc.freeze()  # modules stay: each collection would visit all of their objects
    gc.enable()
    sys.unraisablehook = lambda _: None  # nobody can handle what abandoned requests raise
    connection = Connection(int(sys.argv[1]))
    os.set_inheritable(connection.fileno(), False)
    wakeups = _catch_signals()
    try:
        opening = connection.recv()
    except (EOFError, OSError):  # the process of the job is gone
        os._exit(0)
    _Worker(connection, wakeups, opening).run()
    os._exit(0)  # the interpreter would take apart all objects first


def _catch_signals() -> int:
    """Return a descriptor to which the interpreter writes a byte for each signal that asks to stop.

    Not ignored: the programs that a backup starts would inherit that.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    return reader


class _Worker:
    def __init__(self, connection: Connection, wakeups: int, opening: Opening) -> None:
        self._connection = connection
        self._wakeups = wakeups
        self._opening = opening
        self._sending = threading.Lock()
        self._scope = CancelScope().working(lambda text: self._send(Notice("repository", text)))
        self._opened: Repository | None = None

    def run(self) -> None:
        """Back up each domain that is named, in a thread, until the stream ends or a signal comes.

        Then the backup cleans up.
        """
        thread: threading.Thread | None = None
        while (domain := self._next()) is not None:
            thread = threading.Thread(target=self._back_up, args=(domain,), name="domain")
            thread.start()
        self._scope.cancel()
        if thread is not None:
            thread.join()

    def _next(self) -> str | None:
        if self._wakeups in wait([self._connection, self._wakeups]):
            return None
        try:
            return str(self._connection.recv())
        except (EOFError, OSError):
            return None

    def _back_up(self, domain: str) -> None:
        try:
            self._send(self._answer(domain))
        except BaseException:  # noqa: BLE001 - the process of the job waits for an answer, or for the end
            traceback.print_exc()
            os._exit(1)

    def _answer(self, domain: str) -> Answer:
        try:
            return Answer(self._take(domain), is_last=self._scope.cancelled)
        except BaseException as error:  # noqa: BLE001 - the process of the job reports any error
            trace = "".join(traceback.format_exception(error))
            return Answer(error=portable(cause_of(error, self._scope)), trace=trace)

    def _take(self, domain: str) -> Point:
        self._scope.check()
        if self._opened is None:
            self._opened = self._opening.open(self._scope)
        return api.backup(
            self._opened,
            domain,
            connect=self._opening.connect,
            observer=self._observe,
            **self._opening.choices,
        )

    def _observe(self, event: Event) -> None:
        self._send(event)
        self._scope.check()

    def _send(self, message: Event | Answer) -> None:
        with self._sending, suppress(OSError):  # nobody is there to hear it
            self._connection.send(message)


def portable(error: BaseException) -> BaseException:
    """Return the error, or one with the same text if it cannot travel to another process."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001 - a class of any library, with any constructor
        if isinstance(error, PullerError):
            return type(error)(error.message, advice=error.advice)
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
