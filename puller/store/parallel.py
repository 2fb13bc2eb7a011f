"""Much that is read from a store at once, a few at a time, by threads that are left behind where they hang.

A ``ThreadPoolExecutor`` waits for its threads when it is left, so that a signal or a failure would wait as
long as a silent store does.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future
from contextvars import copy_context
from queue import SimpleQueue
from typing import Generic, TypeVar

from puller.errors import StoreUnavailable
from puller.store.patience import SHORT, Patience, current, holding

A = TypeVar("A")
B = TypeVar("B")

AHEAD = 2
"""Items in the making or made for each thread: a slow one must not let the others stand still."""


def each(work: Callable[[A], B], items: Iterable[A], threads: int) -> Generator[B, None, None]:
    """Yield ``work(item)`` for each of the ``items``, in their order, ``threads`` of them at once.

    What ``work`` raises is raised here, in its turn. The patience in force is in force for ``work`` too. Once
    the generator is done, closed or left by an error, whatever still waits in ``work`` fails; nobody waits
    for its end.
    """
    own = (current() or Patience(SHORT)).renewed()
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
        own.end()
        crew.dismiss()


class _Crew(Generic[A, B]):
    """Up to ``threads`` threads, each started when there is something for it to do."""

    def __init__(self, work: Callable[[A], B], patience: Patience, threads: int) -> None:
        self._work = work
        self._patience = patience
        self._threads = threads
        self._started = 0
        self._tasks: SimpleQueue[tuple[A, Future[B]] | None] = SimpleQueue()

    def begin(self, item: A) -> Future[B]:
        """Hand over an item."""
        result: Future[B] = Future()
        self._tasks.put((item, result))
        if self._started < self._threads:
            self._started += 1
            thread = threading.Thread(
                target=copy_context().run, args=(self._run,), name="parallel", daemon=True
            )
            thread.start()
        return result

    def dismiss(self) -> None:
        """Let the threads end once they are back from what they do."""
        for _ in range(self._started):
            self._tasks.put(None)

    def _run(self) -> None:
        with holding(self._patience):
            while (task := self._tasks.get()) is not None:
                self._do(*task)

    def _do(self, item: A, result: Future[B]) -> None:
        try:
            self._require_patience()
            result.set_result(self._work(item))
        except BaseException as error:  # noqa: BLE001 - it is raised again by who waits
            result.set_exception(error)

    def _require_patience(self) -> None:
        """Raise StoreUnavailable once it has ended: who waits for the item has to learn of that."""
        if self._patience.ended:
            raise StoreUnavailable("a read from the store was given up before it began")
