"""Much that is read from a store at once, a few at a time, by threads that are left behind where they hang.

A ``ThreadPoolExecutor`` waits for its threads when it is left, so that a signal or a failure would wait as
long as a silent store does.
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
"""Items in the making or made for each thread: a slow one must not let the others stand still."""


def each(
    scope: CancelScope, work: Callable[[CancelScope, A], B], items: Iterable[A], threads: int
) -> Generator[B, None, None]:
    """Yield ``work(own, item)`` for each of the ``items``, in their order, ``threads`` of them at once.

    ``own`` is a child of ``scope`` for the waits in ``work``. It is cancelled once the generator is done,
    closed or left by an error; nobody waits for the threads then. What ``work`` raises is raised here, in its
    turn.
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
    """Up to ``threads`` threads, each started when there is something for it to do."""

    def __init__(self, work: Callable[[CancelScope, A], B], scope: CancelScope, threads: int) -> None:
        self._work = work
        self._scope = scope
        self._threads = threads
        self._started = 0
        self._tasks: SimpleQueue[tuple[A, Future[B]] | None] = SimpleQueue()

    def begin(self, item: A) -> Future[B]:
        """Hand over an item."""
        result: Future[B] = Future()
        self._tasks.put((item, result))
        if self._started < self._threads:
            self._started += 1
            threading.Thread(target=self._run, name="parallel", daemon=True).start()
        return result

    def dismiss(self) -> None:
        """Let the threads end once they are back from what they do."""
        for _ in range(self._started):
            self._tasks.put(None)

    def _run(self) -> None:
        while (task := self._tasks.get()) is not None:
            self._do(*task)

    def _do(self, item: A, result: Future[B]) -> None:
        try:
            if self._scope.cancelled:  # who waits for the item has to learn of it
                raise StoreUnavailable("a read from the store was given up before it began")
            result.set_result(self._work(self._scope, item))
        except BaseException as error:  # noqa: BLE001 - it is raised again by who waits
            result.set_exception(error)
