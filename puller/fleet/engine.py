"""Engines, each with an ``Executor``: a pool of processes on this host, or a Dask cluster."""

from __future__ import annotations

import ctypes
import logging
import multiprocessing
import os
import signal
from collections.abc import Callable
from concurrent.futures import Executor, Future
from concurrent.futures.process import ProcessPoolExecutor
from contextlib import suppress
from typing import Any, Protocol

from puller.cancelling import CancelScope
from puller.errors import FleetLost, UsageError
from puller.fleet.task import Answer, Task
from puller.fleet.where import Where

Work = Callable[[Any], Answer]
"""Does a task in a worker; an importable function, because only its name travels."""

PATIENCE = 150.0
"""Seconds for which a scheduler may be away."""

_GRACE = 60.0
"""Seconds in which a worker cleans up, for example a drill."""

_PR_SET_PDEATHSIG = 1


class Engine(Protocol):
    """Runs tasks. What it has lost is submitted again by who has submitted it."""

    @property
    def width(self) -> int:
        """Number of tasks that run at once; 0 if there is no worker."""

    def submit(self, work: Work, task: Task) -> Future[Answer]:
        """Begin a task as soon as a worker is free. Raises FleetLost."""

    def is_lost(self, error: BaseException) -> bool:
        """Return whether the exception of a task means that the engine needs a restart."""

    def restart(self) -> None:
        """Begin anew: all tasks under way are lost. Raises FleetLost."""

    def close(self) -> None:
        """End at once what this process has begun."""


def engine_of(where: Where, scope: CancelScope) -> Engine:
    """Return the engine that ``where`` names. Raises UsageError, FleetLost."""
    if where.scheduler is not None:
        return DaskEngine(where.scheduler, scope)
    return LocalEngine(where.count or len(os.sched_getaffinity(0)))


class LocalEngine:
    """Processes of this host, one task in each. They end with this process, however it ends."""

    def __init__(self, count: int) -> None:
        self.width = count
        self._pool: Executor | None = None
        self._others = set(multiprocessing.active_children())

    def submit(self, work: Work, task: Task) -> Future[Answer]:
        """See ``Engine``."""
        if self._pool is None:
            # Not forked: the threads of this process hold locks that would never be released there.
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self.width, context, initializer=_begin, initargs=(os.getpid(),))
        return self._pool.submit(work, task)

    def is_lost(self, error: BaseException) -> bool:
        """One worker that dies takes the pool with it."""
        return True

    def restart(self) -> None:
        """See ``Engine``."""
        self.close()

    def close(self) -> None:
        """See ``Engine``."""
        pool, self._pool = self._pool, None
        if pool is None:
            return
        workers = [child for child in multiprocessing.active_children() if child not in self._others]
        pool.shutdown(wait=False, cancel_futures=True)
        for worker in workers:
            worker.terminate()
        for worker in workers:
            worker.join(_GRACE)
            worker.kill()


def _begin(parent: int) -> None:
    """Prepare a process of the pool. A terminal's Ctrl-C is for the driver, which ends the workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it died just before
        os._exit(1)


class DaskEngine:
    """The workers of a Dask cluster. The client's configuration of Dask decides about TLS."""

    def __init__(self, address: str, scope: CancelScope) -> None:
        try:
            import distributed
        except ModuleNotFoundError as error:
            raise UsageError(
                f"cannot use dask://{address}: the package '{error.name}' is not installed",
                advice="Install puller[fleet] on this host and on the workers.",
            ) from error
        self._library: Any = distributed
        self._address = address
        self._scope = scope
        self._client: Any = None
        self._executor: Executor | None = None
        logging.getLogger("distributed").setLevel(logging.CRITICAL)  # a loss is told by the driver
        self._connect()

    @property
    def width(self) -> int:
        """See ``Engine``."""
        try:
            return sum(self._client.nthreads().values())
        except (OSError, RuntimeError, ValueError):  # the scheduler is away: its tasks will say so
            return 0

    def submit(self, work: Work, task: Task) -> Future[Answer]:
        """See ``Engine``."""
        if self._executor is None:
            raise FleetLost(f"the connection to dask://{self._address} is closed")
        return self._executor.submit(work, task)

    def is_lost(self, error: BaseException) -> bool:
        """A task whose workers have died costs nothing else; other errors are of the connection."""
        return not isinstance(error, self._library.KilledWorker)

    def restart(self) -> None:
        """Wait until a scheduler is there again."""
        self.close()
        left = PATIENCE
        while True:
            try:
                return self._connect()
            except FleetLost:
                if left <= 0:
                    raise
            self._scope.pause(1.0)
            self._scope.check()
            left -= 1.0 + _CONNECT

    def _connect(self) -> None:
        try:
            self._client = self._library.Client(self._address, timeout=_CONNECT, set_as_default=False)
        except (OSError, RuntimeError, ValueError) as error:
            raise FleetLost(
                f"cannot reach a Dask scheduler at {self._address}: {error}",
                advice="Check that the scheduler runs there and that its port can be reached.",
            ) from error
        # A task is not pure: the same packs may have changed.
        self._executor = self._client.get_executor(pure=False)

    def close(self) -> None:
        """See ``Engine``. Dask forgets the tasks; one that runs goes on to its end in its worker."""
        client, self._client, self._executor = self._client, None, None
        if client is not None:
            with suppress(Exception):
                client.close(timeout=_CONNECT)


_CONNECT = 5.0
