"""Cancellation: one object that ends waits, bounds them, and reports outages to an observer.

A scope is passed explicitly. A store, a repository or a connection holds the scope of its waits, and
``within`` returns a copy with another scope. So parallel runs over one store each have their own, and a
failure in one ends nothing in the others.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy  # noqa: TID251 - of what has its __dict__
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, ClassVar, Self, TypeVar

from puller.errors import Interrupted

T = TypeVar("T")
Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How long to wait for a store.

    Attributes:
        seconds: Seconds that the store may be silent, in one request or over all tries of a call.
        limit: Seconds after which a call ends in any case, counted from its start.
    """

    seconds: float
    limit: float | None = None


PROMPT = RetryPolicy(5.0)
"""Before work has begun: a wrong endpoint should not keep its user waiting."""

WORK = RetryPolicy(150.0)
"""For work that would be lost. A server restarts in less; scratch space has to last as long."""

CLEANUP = RetryPolicy(3.0, limit=3.0)
"""For cleaning up after a failure, which must not take long."""


_FIRST_PAUSE = 0.002
"""Seconds."""

_FREE_SECONDS = 10.0
"""Seconds after which a thread ends that no call has needed."""


class NoAnswer(Exception):
    """A call did not return in time."""


def growing_pauses(longest: float) -> Iterator[float]:
    """Yield the seconds between checks whether something has ended: short at first, as most ends soon."""
    pause = _FIRST_PAUSE
    while True:
        yield min(pause, longest)
        pause *= 2


class CancelScope:
    """Scope of waits: once any thread calls ``cancel``, its waits end and no later one begins.

    A scope is cancelled with its ``parent``. ``observer`` hears of outages and notices; a scope without one
    shares its parent's, so that an outage is reported once. Safe for many threads.
    """

    def __init__(
        self,
        policy: RetryPolicy | None = None,
        observer: Tell | None = None,
        parent: CancelScope | None = None,
    ) -> None:
        self.policy = policy or PROMPT
        self._parent = parent
        self._fastest: list[float] = [] if parent is None else parent._fastest
        self._outage: _Outage = _Outage(observer)
        if parent is not None and observer is None:
            self._outage = parent._outage
        self._cancelled = False
        self._calls: dict[Callable[[], object], None] = {}
        self._lock = threading.Lock()
        self.moved = 0.0
        """Monotonic time of the last transfer of bytes; 0 before the first."""

    def child(self) -> CancelScope:
        """Return a scope with the same policy, cancelled with this one or alone."""
        return CancelScope(self.policy, parent=self)

    def working(self, observer: Tell | None = None) -> CancelScope:
        """Return a child for work that would be lost if the store were given up early."""
        return CancelScope(WORK, observer, self)

    def cancel(self) -> None:
        """End all waits. The callbacks run in this thread, in the order of their registration."""
        with self._lock:
            self._cancelled = True
            calls = tuple(self._calls)
        for call in calls:
            call()

    @property
    def cancelled(self) -> bool:
        """Whether the scope or one of its parents is cancelled."""
        return self._cancelled or (self._parent is not None and self._parent.cancelled)

    def check(self) -> None:
        """Raise Interrupted if the scope is cancelled."""
        if self.cancelled:
            raise Interrupted("stopped by a signal")

    def listen(self, call: Callable[[], object]) -> None:
        """Register ``call`` for cancellation; call it now if already cancelled. It may be called twice."""
        self._listen(call)
        if self.cancelled:
            call()

    def forget(self, call: Callable[[], object]) -> None:
        """Undo ``listen``. Does nothing if ``call`` is not registered."""
        with self._lock:
            self._calls.pop(call, None)
        if self._parent is not None:
            self._parent.forget(call)

    def _listen(self, call: Callable[[], object]) -> None:
        with self._lock:
            self._calls[call] = None
        if self._parent is not None:
            self._parent._listen(call)

    @contextmanager
    def calling(self, call: Callable[[], object]) -> Iterator[None]:
        """Register ``call`` for cancellation while the context lasts."""
        try:
            self.listen(call)
            yield
        finally:
            self.forget(call)

    def pause(self, seconds: float) -> None:
        """Wait for ``seconds``, or until the scope is cancelled."""
        event = threading.Event()
        with self.calling(event.set):
            event.wait(seconds)

    def call(self, ask: Callable[[], T], left: Callable[[], float]) -> T:
        """Call ``ask`` in a thread, and return its result or raise its exception.

        ``left`` returns how many more seconds to wait. Raises NoAnswer when none are left, or when the scope
        is cancelled. A call that hangs cannot be stopped, so its thread is abandoned.
        """
        event = threading.Event()
        answers: list[Callable[[], T]] = []

        def work(done: Callable[[], None]) -> None:
            try:
                answer = ask()
            except BaseException as error:  # noqa: BLE001 - the waiting thread raises it again
                answers.append(_raiser(error))
            else:
                answers.append(lambda: answer)
            done()
            event.set()

        with self.calling(event.set):
            if not event.is_set():
                _Caller.hand(work)
            while not event.is_set() and (seconds := left()) > 0:
                event.wait(seconds)
        if not answers:
            raise NoAnswer
        return answers[0]()

    def note_progress(self) -> None:
        """Note that bytes were transferred: a slow network is not a silent store."""
        self.moved = time.monotonic()

    def note_failure(self, why: str) -> None:
        """Report an outage to the observer, once until the store answers again."""
        text = f"the store does not answer; trying again for {self.policy.seconds:.0f} s: {why}"
        self._outage.note(True, text)

    @property
    def is_observed(self) -> bool:
        """Whether somebody hears what ``tell`` reports."""
        return self._outage.observer is not None

    def tell(self, text: str) -> None:
        """Report ``text`` to the observer, if there is one."""
        if self._outage.observer is not None:
            self._outage.observer(text)

    @property
    def round_trip(self) -> float:
        """Seconds of the fastest answer so far in all related scopes; 0 before the first."""
        return self._fastest[0] if self._fastest else 0.0

    def note_answer(self, seconds: float | None = None) -> None:
        """Report the end of an outage to the observer, if there was one; ``seconds`` is how long it took."""
        if seconds is not None and (not self._fastest or seconds < self._fastest[0]):
            self._fastest[:] = [seconds]
        self._outage.note(False, "the store answers again")


def cleanup() -> CancelScope:
    """Return a scope for cleaning up: no other scope cancels it, and its waits are short."""
    return CancelScope(CLEANUP)


class _Outage:
    """Reports the start and the end of an outage once each."""

    def __init__(self, observer: Tell | None) -> None:
        self.observer = observer
        self._told = False
        self._lock = threading.Lock()

    def note(self, lasts: bool, text: str) -> None:
        if lasts == self._told:  # nearly always, and then without the lock
            return
        with self._lock:
            before, self._told = self._told, lasts
        if before != lasts and self.observer is not None:
            self.observer(text)


def find_stop(error: BaseException) -> BaseException | None:
    """Return the exception behind ``error`` that is not an Exception, such as a signal's; None without one.

    A failure to clean up after a signal replaces the exception of the signal, and the signal may come inside
    a lock of Python's own, which then fails. The run must stop nevertheless. The closing of a generator does
    not count, and errors may name each other as their cause.
    """
    met: list[BaseException] = []
    found: BaseException | None = error
    while isinstance(found, Exception | GeneratorExit) and found not in met:
        met.append(found)
        found = found.__cause__ or found.__context__
    return None if found in met else found


Work = Callable[[Callable[[], None]], None]
"""A call that another thread makes. It calls its argument when the thread is free for the next one."""


class _Caller:
    """A thread that makes calls for others, one after the other: a new thread costs more than most calls.

    One whose call hangs is simply not free again.
    """

    _free: ClassVar[list[_Caller]] = []

    def __init__(self, work: Work) -> None:
        self._next: SimpleQueue[Work] = SimpleQueue()
        threading.Thread(target=self._run, args=(work,), name="request", daemon=True).start()

    @classmethod
    def hand(cls, work: Work) -> None:
        """Let a free thread do the work, else a new one."""
        try:
            caller = cls._free.pop()  # in one step, whatever other threads do
        except IndexError:
            cls(work)
        else:
            caller._next.put(work)

    @classmethod
    def forget_all(cls) -> None:
        """Start anew: a forked process has none of the threads."""
        cls._free.clear()

    def _run(self, work: Work) -> None:
        while True:
            work(self._be_free)
            try:
                work = self._next.get(timeout=_FREE_SECONDS)
            except Empty:
                if self._has_left():
                    return
                work = self._next.get()  # which is being handed over just now

    def _be_free(self) -> None:
        self._free.append(self)

    def _has_left(self) -> bool:
        try:
            self._free.remove(self)
        except ValueError:
            return False
        return True


os.register_at_fork(after_in_child=_Caller.forget_all)


def _raiser(error: BaseException) -> Callable[[], Any]:
    def again() -> Any:
        raise error

    return again


class Scoped:
    """Base of objects whose waits belong to a ``scope``; the default scope is never cancelled."""

    scope = CancelScope()

    def __new__(cls, *_arguments: object, **_named: object) -> Self:
        """Let the object have its ``__dict__`` before a second thread knows it.

        CPython 3.11 makes it when it is first asked for, as ``vars`` and ``copy`` do. If the garbage
        collector runs then and lets another thread ask for it too, two dictionaries share one piece of
        memory, and the process crashes in a later collection.
        """
        self = super().__new__(cls)
        vars(self)
        return self

    def within(self, scope: CancelScope) -> Self:
        """Return a copy in another scope, with copies of the scoped objects in it. Caches are shared."""
        bound = copy(self)
        bound.scope = scope
        for name, value in tuple(vars(self).items()):
            if isinstance(value, Scoped):
                setattr(bound, name, value.within(scope))
        return bound
