"""Parallel reads from a store, by threads that are abandoned if they hang.

A ``ThreadPoolExecutor`` waits for its threads at its end, so that a signal or a failure would wait as long
as a store is silent.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Generic, TypeVar

from puller.cancelling import CancelScope
from puller.errors import StoreUnavailable

A = TypeVar("A")
B = TypeVar("B")

AHEAD = 2
"""Items in progress or finished for each thread: a slow item must not block the others."""


def each(
    scope: CancelScope, work: Callable[[CancelScope, A], B], items: Iterable[A], threads: int
) -> Generator[B, None, None]:
    """Yield ``work(own, item)`` for each of the ``items``, in their order, ``threads`` of them at once.

    ``own`` is a child of ``scope`` for the waits in ``work``. It is cancelled when the generator ends, is
    closed or fails, without waiting for the threads. An exception of ``work`` is raised here in the order of
    the items.
    """
    own = scope.child()
    crew = _Crew(work, own, threads)
    made: deque[Future[B]] = deque()
    try:
        for item in items:
            made.append(crew.begin(item))
            if len(made) >= AHEAD * threads:
                yield made.popleft().result()
        while made:
            yield made.popleft().result()
    finally:
        own.cancel()
        crew.dismiss()


class _Crew(Generic[A, B]):
    """Up to ``threads`` threads, each started when there is work for it."""

    def __init__(self, work: Callable[[CancelScope, A], B], scope: CancelScope, threads: int) -> None:
        self._work = work
        self._scope = scope
        self._threads = threads
        self._started = 0
        self._tasks: SimpleQueue[tuple[A, Future[B]] | None] = SimpleQueue()

    def begin(self, item: A) -> Future[B]:
        """Add an item."""
        result: Future[B] = Future()
        self._tasks.put((item, result))
        if self._started < self._threads:
            self._started += 1
            threading.Thread(target=self._run, name="parallel", daemon=True).start()
        return result

    def dismiss(self) -> None:
        """Let the threads end after their current item."""
        for _ in range(self._started):
            self._tasks.put(None)

    def _run(self) -> None:
        while (task := self._tasks.get()) is not None:
            self._do(*task)

    def _do(self, item: A, result: Future[B]) -> None:
        try:
            if self._scope.cancelled:  # the waiting thread has to be told
                raise StoreUnavailable("a read from the store was cancelled before it began")
            result.set_result(self._work(self._scope, item))
        except BaseException as error:  # noqa: BLE001 - the waiting thread raises it again
            result.set_exception(error)
