"""How long a silent store is waited for and asked again, who is told, and who may end the waiting.

The patience in force goes with the context (``contextvars``): a thread of a flow has that of the thread that
started it. So parallel runs on one store each have their own.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, ParamSpec, TypeVar

from puller.errors import StoreUnavailable

T = TypeVar("T")
P = ParamSpec("P")

SHORT = 5.0
"""Seconds for a command that has not begun yet: a wrong endpoint should not keep its user waiting."""

LONG = 150.0
"""Seconds for work that would be lost. A restart of a server takes less; a scratch has to last as long."""

BRIEF = 3.0
"""Seconds for tidying up after a failure, however long an answer takes."""

STALLED = 20.0
"""Seconds without a byte from which on a request is as good as silent."""

WAKING = 30.0
"""Seconds that a folder may be silent at least: a disk that sleeps takes 5 to 15 to turn again, a file server
that is woken or mounted when it is needed may take longer."""

Tell = Callable[[str], None]


def _say_nothing(text: str) -> None:
    """Nobody is told."""


class Silence:
    """How long ``place`` has been silent, for one call.

    It counts from the call's begin, or where bytes moved until a try failed, from that. Bytes that come or go
    now lengthen the wait too, but not those of a while ago: a silent server's socket swallows what is sent.
    An answer is waited for ``least`` seconds, whatever the patience.
    """

    def __init__(
        self,
        place: str = "the store",
        clock: Callable[[], float] = time.monotonic,
        least: float = 0.0,
    ) -> None:
        self.place = place
        self._least = least
        self.began = self._since = self._moved = clock()
        self._clock = clock
        self._failed = False

    def note_progress(self) -> None:
        """Bytes came or went."""
        self._moved = self._clock()

    def note_failure(self) -> None:
        """A try has failed."""
        if not self._failed and self._clock() - self._moved < STALLED:
            self._since = self._moved
        self._failed = True

    @property
    def lasts(self) -> float:
        """Seconds of it so far."""
        return self._clock() - self._since

    def left(self, patience: float) -> float:
        """Seconds that an answer is waited for still, of ``patience`` in all."""
        left = max(patience, self._least) - self.lasts
        if self._moved == self.began:
            return left
        return max(left, min(patience, STALLED) - (self._clock() - self._moved))

    def left_of_call(self, limit: float) -> float:
        """Seconds left of ``limit`` since the call began, whatever has come of it."""
        return limit - (self._clock() - self.began)


_SILENCE: ContextVar[Silence | None] = ContextVar("silence", default=None)


def note_progress() -> None:
    """Say, from within a request, that bytes came or went: who waits for it then goes on waiting.

    So a slow line is no silent store, and a request may last longer than the patience with it.
    """
    silence = _SILENCE.get()
    if silence is not None:
        silence.note_progress()


class Patience:
    """``seconds`` that a store may be silent, in a request or over all tries of a call.

    ``limit`` bounds a call from its begin, whatever comes of it.

    Once ``end`` is called, by any thread, whatever waits with this patience fails, and so does all that is
    asked later. What its ``parent`` is told counts for it too.
    """

    def __init__(
        self,
        seconds: float,
        tell: Tell = _say_nothing,
        *,
        parent: Patience | None = None,
        limit: float | None = None,
    ) -> None:
        self.seconds = seconds
        self._tell = tell
        self._parent = parent
        self.limit = limit
        self._ended = False
        self._told = False
        self._calls: dict[Callable[[], object], None] = {}
        self._lock = threading.Lock()

    def renewed(self) -> Patience:
        """The same again, to be ended apart from this one but by it too."""
        return Patience(self.seconds, self._tell, parent=self, limit=self.limit)

    def end(self) -> None:
        """Let nobody wait any more."""
        with self._lock:
            self._ended = True
            calls = tuple(self._calls)
        for call in calls:
            call()

    @property
    def ended(self) -> bool:
        """Whether nobody may wait any more."""
        return self._ended or (self._parent is not None and self._parent.ended)

    def note_failure(self, error: StoreUnavailable) -> None:
        """Tell of an outage, once until there is an answer again."""
        with self._lock:
            told, self._told = self._told, True
        if not told:
            self._tell(f"the store does not answer; trying again for {self.seconds:.0f} s: {error.message}")

    def note_answer(self) -> None:
        """There is an answer: the outage is over, if there was one."""
        if self._told:
            with self._lock:
                told, self._told = self._told, False
            if told:
                self._tell("the store answers again")

    def pause(self, seconds: float) -> None:
        """Wait so long, or until the patience ends."""
        with self._listening() as event:
            event.wait(seconds)

    def request(self, ask: Callable[[], T], silence: Silence | None = None) -> T:
        """What ``ask`` returns or raises. Raises StoreUnavailable if patience ends or is spent before.

        A request that hangs cannot be stopped, so it is made in a thread of its own, which may be left.
        """
        heard = silence or Silence()
        answers: list[Callable[[], T]] = []
        with self._listening() as event:

            def work() -> None:
                _SILENCE.set(heard)
                try:
                    answer = ask()
                except BaseException as error:  # noqa: BLE001 - it is raised again by who waits
                    answers.append(_raiser(error))
                else:
                    answers.append(lambda: answer)
                event.set()

            threading.Thread(target=work, name="request", daemon=True).start()
            while not event.is_set() and (left := self._left(heard)) > 0:
                event.wait(left)
        if not answers:
            raise StoreUnavailable(self._given_up(heard))
        return answers[0]()

    def _left(self, silence: Silence) -> float:
        left = silence.left(self.seconds)
        return left if self.limit is None else min(left, silence.left_of_call(self.limit))

    def _given_up(self, silence: Silence) -> str:
        if self.ended:
            return "a request to the store was given up before it was answered"
        return f"{silence.place} gave no answer for {silence.lasts:.0f} s"

    def allows(self, silence: Silence, pause: float) -> bool:
        """Whether there is time for another try after ``pause`` more seconds."""
        left = self.seconds - silence.lasts if self.limit is None else silence.left_of_call(self.limit)
        return not self.ended and pause <= left

    @contextmanager
    def _listening(self) -> Iterator[threading.Event]:
        """An event that is set when the patience ends."""
        event = threading.Event()
        with self.calling(event.set):
            yield event

    @contextmanager
    def calling(self, call: Callable[[], object]) -> Iterator[None]:
        """Within this context ``call`` is called when the patience ends, before those of later contexts.

        It may be called twice, and from any thread.
        """
        self._listen(call)
        try:
            if self.ended:
                call()
            yield
        finally:
            self._forget(call)

    def _listen(self, call: Callable[[], object]) -> None:
        with self._lock:
            self._calls[call] = None
        if self._parent is not None:
            self._parent._listen(call)

    def _forget(self, call: Callable[[], object]) -> None:
        with self._lock:
            self._calls.pop(call, None)
        if self._parent is not None:
            self._parent._forget(call)


def _raiser(error: BaseException) -> Callable[[], Any]:
    def again() -> Any:
        raise error

    return again


_CURRENT: ContextVar[Patience | None] = ContextVar("patience", default=None)


def current() -> Patience | None:
    """The patience in force; None where nobody has said."""
    return _CURRENT.get()


@contextmanager
def holding(patience: Patience) -> Iterator[Patience]:
    """Let ``patience`` be in force while the context lasts."""
    token = _CURRENT.set(patience)
    try:
        yield patience
    finally:
        _CURRENT.reset(token)


@contextmanager
def tied(on_failure: Callable[[Callable[[], None]], None]) -> Iterator[Patience]:
    """The patience in force, but ended by a failure: ``on_failure`` takes what is to be called then."""
    own = (current() or Patience(SHORT)).renewed()
    on_failure(own.end)
    with holding(own):
        yield own


def long(tell: Tell = _say_nothing) -> Patience:
    """For the work itself; within what is in force already, if anything is."""
    return Patience(LONG, tell, parent=current())


def brief() -> Patience:
    """For tidying up: it outlives the end of all others, and does not wait long for anything."""
    return Patience(BRIEF, limit=BRIEF)


def carried(work: Callable[P, T]) -> Callable[P, T]:
    """``work`` for the threads of a pool, with the patience that is in force where the pool is made."""
    patience = current()
    if patience is None:
        return work

    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        with holding(patience):
            return work(*args, **kwargs)

    return run
