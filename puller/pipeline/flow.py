"""A group of threads: the first error closes all their lanes and pools."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Generic, Protocol, Self, TypeVar

from puller.cancelling import CancelScope
from puller.errors import Interrupted
from puller.pipeline.lane import Closed, Lane

T = TypeVar("T")


class _Closable(Protocol):
    def close(self) -> None: ...


C = TypeVar("C", bound=_Closable)


def _nothing() -> None:
    """Begin without preparation."""


class Flow:
    """A context for threads, lanes and pools.

    Leaving it closes all lanes and pools, drops unfinished items, and waits for every thread. If a thread
    failed first, the context raises that error instead of the error that it caused in the body.

    ``scope`` is for the waits of its threads: a failure cancels it. It is a child of ``parent``, whose end
    fails the flow with Interrupted.
    """

    def __init__(self, parent: CancelScope | None = None) -> None:
        self.scope = (parent or CancelScope()).child()
        self._lock = threading.Lock()
        self._error: BaseException | None = None
        self._closables: list[_Closable] = []
        self._threads: list[threading.Thread] = []

    def adopt(self, closable: C) -> C:
        """Close a lane, a pool or a limit with this flow; return it."""
        with self._lock:
            self._closables.append(closable)
            failed = self._error is not None
        if failed:
            closable.close()
        return closable

    def spawn(self, name: str, work: Callable[[], None]) -> threading.Thread:
        """Run ``work`` in a new thread; its exception fails the flow."""
        thread = self.thread(name, work)
        thread.start()
        return thread

    def thread(self, name: str, work: Callable[[], None]) -> threading.Thread:
        """Like ``spawn``, but return the thread without starting it, so that it can be recorded first.

        A signal may interrupt the start so that the thread runs but appears not to. Once the flow has failed,
        a thread does not begin its work. So after that, every thread at work is alive and can be joined.
        """

        def body() -> None:
            if self._has_failed():
                return
            try:
                work()
            except Closed:
                return
            except BaseException as error:  # noqa: BLE001 - it is raised again by check()
                self.fail(error)

        thread = threading.Thread(target=body, name=name, daemon=True)
        self._threads.append(thread)
        return thread

    def _has_failed(self) -> bool:
        with self._lock:
            return self._error is not None

    def crew(
        self,
        name: str,
        count: int,
        capacity: int,
        work: Callable[[T], None],
        begin: Callable[[], None] = _nothing,
    ) -> Crew[T]:
        """Start ``count`` threads that call ``begin``, then ``work`` with each item put to the crew."""
        return Crew(self, name, count, self.adopt(Lane(capacity)), work, begin)

    def fail(self, error: BaseException) -> None:
        """Record ``error`` if it is the first, close everything and cancel the scope."""
        with self._lock:
            if self._error is None:
                # An error of a thread after the parent's end only follows from that.
                echo = self.scope.cancelled and isinstance(error, Exception)
                self._error = _stop() if echo else error
        self._close()
        if not self.scope.cancelled:
            self.scope.cancel()

    def _stop(self) -> None:
        self.fail(_stop())

    def _close(self) -> None:
        with self._lock:
            closables = list(self._closables)
        for closable in closables:
            closable.close()

    def failed_by(self, kind: type[BaseException]) -> bool:
        """Return whether the first error was of this ``kind``."""
        return isinstance(self._error, kind)

    def check(self) -> None:
        """Raise the first error, if there is one."""
        if self._error is not None:
            raise self._error

    def __enter__(self) -> Self:
        self.scope.listen(self._stop)  # before all others, so that they find a failed flow
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is not None:
            self.fail(error)
        self._close()
        join(self._threads)
        self.scope.forget(self._stop)
        # An error of the body after a thread's failure only follows from that, unless it is a signal.
        if error is None or (isinstance(error, Exception) and error is not self._error):
            self.check()


def _stop() -> Interrupted:
    return Interrupted("stopped by a signal")


def join(threads: Iterable[threading.Thread]) -> None:
    """Wait for the end of the started threads: a signal may have come before the start of some."""
    for thread in threads:
        if thread.is_alive():
            thread.join()


class Crew(Generic[T]):
    """Threads that take items from one lane."""

    def __init__(  # noqa: PLR0913, PLR0917 - only a flow makes one
        self,
        flow: Flow,
        name: str,
        count: int,
        lane: Lane[T],
        work: Callable[[T], None],
        begin: Callable[[], None],
    ) -> None:
        self._flow = flow
        self._begin = begin
        self._lane = lane
        self._work = work
        self._threads = [flow.spawn(f"{name}-{number}", self._run) for number in range(count)]

    def _run(self) -> None:
        self._begin()
        for item in self._lane:
            self._work(item)

    def put(self, item: T) -> None:
        """Add ``item``, waiting while the lane is full. Raises Closed if the flow has failed."""
        self._lane.put(item)

    def finish(self) -> None:
        """Wait until every item is done; raise the flow's first error if there is one."""
        self._lane.finish()
        for thread in self._threads:
            thread.join()
        self._flow.check()
