"""Driver: gives tasks to an engine until each has its answer.

::

    waiting ──► submitted ──► answered: a result ────────────────► yielded
       ▲            │    │        └──── an error ── no retry helps ──► raised, or yielded with its result
       │            │    └──────────────── a retry may help ─┐
       │            └─ the worker or the engine is gone ─┐   │
       └─────────────────────────────────────────────────┴───┘  at most TRIES times
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, wait
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from puller.cancelling import CancelScope
from puller.errors import FleetLost, PullerError
from puller.events import Notice, Observer
from puller.fleet.engine import Engine, Work
from puller.fleet.task import Answer, Task

T = TypeVar("T", bound=Task)

TRIES = 5
"""Times that a task is tried if its error may pass, and times that it may lose its worker."""

PAUSE = 5.0
"""Seconds before the second try; twice as long before each further one."""

IDLE = 600.0
"""Seconds for which a cluster may be without a worker."""

_STEP = 1.0
_AHEAD = 2
"""Tasks submitted for each worker: one runs, one waits."""


@dataclass(frozen=True, slots=True)
class _Try(Generic[T]):
    task: T
    tries: int = 0
    losses: int = 0
    due: float = 0.0


class Driver(Generic[T]):
    """Runs tasks on an engine.

    A task may be done twice: if its worker is lost, and if the engine itself repeats it. ``count`` counts
    the tasks that were answered.
    """

    def __init__(
        self,
        engine: Engine,
        work: Work,
        scope: CancelScope,
        observer: Observer,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._work = work
        self._scope = scope
        self._observer = observer
        self._clock = clock
        self._running: dict[Future[Answer], _Try[T]] = {}
        self._waiting: list[_Try[T]] = []
        self._idle_since: float | None = None
        self.count = 0

    @property
    def width(self) -> int:
        """Workers of the engine, at least 1."""
        return max(1, self._engine.width)

    def run(self, tasks: Iterator[T]) -> Generator[tuple[T, Answer], None, None]:
        """Yield each task with its answer, as they end. Raises an error that no retry helps with."""
        try:
            self._fill(tasks)
            while self._running or self._waiting:
                self._scope.check()
                done, _ = wait(self._running, _STEP, FIRST_COMPLETED)
                if not self._running:
                    self._scope.pause(_STEP)
                yield from self._answered(done)
                self._watch(bool(done))
                self._fill(tasks)
        finally:
            for future in self._running:
                future.cancel()
            self._running.clear()

    def _fill(self, tasks: Iterator[T]) -> None:
        """Submit tasks until the workers have enough of them, first those whose pause is over."""
        room = _AHEAD * self.width - len(self._running)
        now = self._clock()
        due = [attempt for attempt in self._waiting if attempt.due <= now][: max(0, room)]
        self._waiting = [attempt for attempt in self._waiting if attempt not in due]
        for attempt in due:
            self._submit(attempt)
        for _ in range(room - len(due)):
            task = next(tasks, None)
            if task is None:
                return
            self._submit(_Try(task))

    def _submit(self, attempt: _Try[T]) -> None:
        try:
            self._running[self._engine.submit(self._work, attempt.task)] = attempt
        except Exception as error:  # noqa: BLE001 - each engine has exceptions of its own
            self._recover([(attempt, error)])

    def _answered(self, done: set[Future[Answer]]) -> Generator[tuple[T, Answer], None, None]:
        lost: list[tuple[_Try[T], BaseException]] = []
        for future in done:
            attempt = self._running.pop(future)
            error = _exception(future)
            if error is not None:
                lost.append((attempt, error))
                continue
            answer = future.result()
            if self._is_tried_again(attempt, answer):
                continue
            if answer.error is not None and answer.result is None:
                raise answer.error
            self.count += 1
            yield attempt.task, answer
        if lost:
            self._recover(lost)

    def _is_tried_again(self, attempt: _Try[T], answer: Answer) -> bool:
        error, tries = answer.error, attempt.tries + 1
        if error is None or not error.retryable or tries >= TRIES:
            return False
        pause = PAUSE * 2 ** (tries - 1)
        self._tell(f"a task is tried again in {pause:.0f} s: {error.message}")
        self._wait(replace(attempt, tries=tries, due=self._clock() + pause))
        return True

    def _recover(self, lost: list[tuple[_Try[T], BaseException]]) -> None:
        """Submit lost tasks again. If the engine is lost, so is all that was submitted."""
        error = lost[0][1]
        attempts = [attempt for attempt, _ in lost]
        if any(self._engine.is_lost(each) for _, each in lost):
            attempts += self._running.values()
            self._running.clear()
            self._tell(f"workers are lost, {len(attempts)} tasks are submitted again: {_reason(error)}")
            self._engine.restart()
        else:
            self._tell(f"workers are lost, {len(attempts)} tasks are submitted again")
        for attempt in attempts:
            if attempt.losses + 1 >= TRIES:
                raise FleetLost(f"a task has lost its worker {TRIES} times: {_reason(error)}")
            self._wait(replace(attempt, losses=attempt.losses + 1))

    def _wait(self, attempt: _Try[T]) -> None:
        self._waiting.append(attempt)

    def _watch(self, is_alive: bool) -> None:
        """A cluster without workers may get some; not for ever."""
        if is_alive or self._engine.width:
            self._idle_since = None
            return
        now = self._clock()
        if self._idle_since is None:
            self._idle_since = now
            self._tell("no worker is there; waiting for one")
        elif now - self._idle_since > IDLE:
            raise FleetLost(f"no worker was there for {IDLE / 60:.0f} minutes")

    def _tell(self, text: str) -> None:
        self._observer(Notice("repository", text))


def _exception(future: Future[Answer]) -> BaseException | None:
    try:
        return future.exception()
    except CancelledError as error:
        return error


def _reason(error: BaseException) -> str:
    return error.message if isinstance(error, PullerError) else f"{type(error).__name__} {error}".strip()
