"""A gate in front of the network: lets as many threads pass at once as a control law allows, and feeds it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from puller.pipeline.concurrency import Concurrency, Sample
from puller.pipeline.lane import Closed

_SHORTEST = 0.2
"""Seconds of a sample: a shorter one is mostly noise."""


def _ignore(_limit: int) -> None:
    """Ignore the new limit."""


class Gate:
    """Lets ``law.limit`` threads pass at once.

    ``changed`` is called with each new limit, by one thread at a time. ``clock`` returns seconds.
    """

    def __init__(
        self,
        law: Concurrency,
        changed: Callable[[int], None] = _ignore,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._law = law
        self._tell = changed
        self._clock = clock
        self._inside = 0
        self._waiting = 0
        self._closed = False
        self._moved = 0
        self._ended = 0
        self._demands = 0
        self._began: float | None = None
        self._changed = threading.Condition()

    @property
    def limit(self) -> int:
        """Threads that may pass at once."""
        return self._law.limit

    @contextmanager
    def passing(self, moved: int) -> Iterator[None]:
        """Pass, to transfer about ``moved`` bytes in the context. Waits for the turn; raises Closed."""
        self._enter()
        try:
            yield
        finally:
            self._leave(moved)

    def _enter(self) -> None:
        with self._changed:
            self._waiting += 1
            try:
                while self._inside >= self._law.limit and not self._closed:
                    self._changed.wait()
            finally:
                self._waiting -= 1
            if self._closed:
                raise Closed
            self._inside += 1
            if self._began is None:
                self._began = self._clock()

    def _leave(self, moved: int) -> None:
        with self._changed:
            # Whoever waits for memory that a transfer holds does not wait here, so a full gate counts too.
            self._demands += self._waiting > 0 or self._inside >= self._law.limit
            self._inside -= 1
            self._moved += moved
            self._ended += 1
            self._sample()
            self._changed.notify_all()

    def _sample(self) -> None:
        """Feed the law whenever as many transfers have ended as it allows at once."""
        now, began, before = self._clock(), self._began, self._law.limit
        if began is None or self._ended < max(2, before) or now - began < _SHORTEST:
            return
        demand = 2 * self._demands > self._ended
        limit = self._law.observe(Sample(now - began, self._moved, demand))
        self._moved = self._ended = self._demands = 0
        # A time without any transfer is no sample of the wire.
        self._began = now if self._inside or self._waiting else None
        if limit != before:
            self._tell(limit)

    def close(self) -> None:
        """Make every current and later pass raise Closed."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
