"""Parallel requests to a store, by threads that are abandoned if they hang.

A ``ThreadPoolExecutor`` waits for its threads at its end, so that a signal or a failure would wait as long
as a store is silent.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any, Generic, TypeVar, overload

from puller.cancelling import CancelScope
from puller.errors import StoreUnavailable

A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
D = TypeVar("D")

READERS = 16
"""Small objects that are read at once: each costs a round trip and little else."""

AHEAD = 2
"""Items in progress or finished for each thread: a slow item must not block the others."""


def each(
    scope: CancelScope,
    work: Callable[[CancelScope, A], B],
    items: Iterable[A],
    threads: int,
    ahead: int = AHEAD,
) -> Generator[B, None, None]:
    """Yield ``work(own, item)`` for each of the ``items``, in their order, ``threads`` of them at once.

    At most ``ahead`` times as many items are in progress or wait to be yielded.

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
            if len(made) >= ahead * threads:
                yield made.popleft().result()
        while made:
            yield made.popleft().result()
    finally:
        own.cancel()
        crew.dismiss()


Work = Callable[[CancelScope], A]
"""Requests that depend on no other ones; their waits belong to the argument."""


@overload
def together(scope: CancelScope, first: Work[A], second: Work[B], /) -> tuple[A, B]: ...


@overload
def together(scope: CancelScope, first: Work[A], second: Work[B], third: Work[C], /) -> tuple[A, B, C]: ...


@overload
def together(
    scope: CancelScope, first: Work[A], second: Work[B], third: Work[C], fourth: Work[D], /
) -> tuple[A, B, C, D]: ...


def together(scope: CancelScope, *works: Work[Any]) -> tuple[Any, ...]:
    """Do independent ``works`` at the same time; return their results.

    The first error in their order is raised; the waits of the others are cancelled then.
    """
    return tuple(all_together(scope, works))


def all_together(scope: CancelScope, works: Sequence[Work[A]]) -> list[A]:
    """Do ``together`` any number of works of one kind."""
    return list(each(scope, lambda own, work: work(own), works, len(works)))


@contextmanager
def beside(scope: CancelScope, work: Work[A]) -> Iterator[Callable[[], A]]:
    """Do ``work`` while the context runs. The context gets a function that waits for the result.

    Its waits are cancelled when the context is left. An exception of ``work`` is raised by that function.
    """
    own = scope.child()
    crew: _Crew[Work[A], A] = _Crew(lambda inner, item: item(inner), own, 1)
    try:
        yield crew.begin(work).result
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
