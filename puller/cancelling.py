"""Cancellation: one object that ends waits, bounds them, and tells an observer about them.

A scope is handed down, never looked up. A store, a repository or a connection holds the scope that its waits
belong to, and ``within`` gives the same thing in another one. So parallel runs over one store each have
their own, and a failure in one ends nothing in the others.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy  # noqa: TID251 - of what has its __dict__
from dataclasses import dataclass
from typing import Any, Self, TypeVar

from puller.errors import Interrupted

T = TypeVar("T")
Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """``seconds`` that a store may be silent, in one request or over all tries of a call.

    ``limit`` bounds a call from its begin, in seconds, whatever comes of it.
    """

    seconds: float
    limit: float | None = None


PROMPT = RetryPolicy(5.0)
"""Before work has begun: a wrong endpoint should not keep its user waiting."""

WORK = RetryPolicy(150.0)
"""For work that would be lost. A restart of a server takes less; a scratch has to last as long."""

CLEANUP = RetryPolicy(3.0, limit=3.0)
"""For tidying up after a failure, however long an answer takes."""


class NoAnswer(Exception):
    """Nothing was returned in time."""


class CancelScope:
    """What a wait belongs to: once ``cancel`` is called, by any thread, it ends, and later ones do not begin.

    A scope is cancelled with its ``parent``. ``observer`` is told of outages; a scope without one shares its
    parent's, so that an outage is told once. Safe for many threads.
    """

    def __init__(
        self,
        policy: RetryPolicy | None = None,
        observer: Tell | None = None,
        parent: CancelScope | None = None,
    ) -> None:
        self.policy = policy or PROMPT
        self._parent = parent
        self._outage: _Outage = _Outage(observer)
        if parent is not None and observer is None:
            self._outage = parent._outage
        self._cancelled = False
        self._calls: dict[Callable[[], object], None] = {}
        self._lock = threading.Lock()
        self.moved = 0.0
        """When bytes last came or went, by the monotonic clock; 0 if none did."""

    def child(self) -> CancelScope:
        """The same again, to be cancelled apart from this one but with it too."""
        return CancelScope(self.policy, parent=self)

    def working(self, observer: Tell | None = None) -> CancelScope:
        """A child for work that would be lost if the store were given up soon."""
        return CancelScope(WORK, observer, self)

    def cancel(self) -> None:
        """Let nobody wait any more. Callbacks run here, in the order of their registration."""
        with self._lock:
            self._cancelled = True
            calls = tuple(self._calls)
        for call in calls:
            call()

    @property
    def cancelled(self) -> bool:
        """Whether nobody may wait any more."""
        return self._cancelled or (self._parent is not None and self._parent.cancelled)

    def check(self) -> None:
        """Raise Interrupted if the scope is cancelled."""
        if self.cancelled:
            raise Interrupted("stopped by a signal")

    def listen(self, call: Callable[[], object]) -> None:
        """Call ``call`` when the scope is cancelled; at once if it is already. It may be called twice."""
        self._listen(call)
        if self.cancelled:
            call()

    def forget(self, call: Callable[[], object]) -> None:
        """Take back ``listen``. Fine if it was never called."""
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
        """A context in which ``listen`` holds for ``call``."""
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
        """Return what ``ask`` returns, or raise what it raises.

        ``left`` says how many more seconds to wait. Raises NoAnswer when it has none left, or when the scope
        is cancelled. A call that hangs cannot be stopped, so it is made in a thread, which is then left.
        """
        event = threading.Event()
        answers: list[Callable[[], T]] = []

        def work() -> None:
            try:
                answer = ask()
            except BaseException as error:  # noqa: BLE001 - it is raised again by who waits
                answers.append(_raiser(error))
            else:
                answers.append(lambda: answer)
            event.set()

        with self.calling(event.set):
            if not event.is_set():
                threading.Thread(target=work, name="request", daemon=True).start()
            while not event.is_set() and (seconds := left()) > 0:
                event.wait(seconds)
        if not answers:
            raise NoAnswer
        return answers[0]()

    def note_progress(self) -> None:
        """Note that bytes came or went: a slow line is not a silent store."""
        self.moved = time.monotonic()

    def note_failure(self, why: str) -> None:
        """Tell the observer about an outage, once until there is an answer again."""
        text = f"the store does not answer; trying again for {self.policy.seconds:.0f} s: {why}"
        self._outage.note(True, text)

    def note_answer(self) -> None:
        """Tell the observer that an outage is over, if there was one."""
        self._outage.note(False, "the store answers again")


def cleanup() -> CancelScope:
    """A scope for tidying up: it outlives the end of all others, and does not wait long for anything."""
    return CancelScope(CLEANUP)


class _Outage:
    """Tells of its begin and of its end once each."""

    def __init__(self, observer: Tell | None) -> None:
        self._tell = observer
        self._told = False
        self._lock = threading.Lock()

    def note(self, lasts: bool, text: str) -> None:
        if lasts == self._told:  # nearly always, and then without the lock
            return
        with self._lock:
            before, self._told = self._told, lasts
        if before != lasts and self._tell is not None:
            self._tell(text)


def _raiser(error: BaseException) -> Callable[[], Any]:
    def again() -> Any:
        raise error

    return again


class Scoped:
    """Something whose waits belong to a ``scope``; until ``within`` gives it one, nobody cancels them."""

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
        """The same thing in another scope, and so are the scoped things that it holds. Caches are shared."""
        bound = copy(self)
        bound.scope = scope
        for name, value in tuple(vars(self).items()):
            if isinstance(value, Scoped):
                setattr(bound, name, value.within(scope))
        return bound
