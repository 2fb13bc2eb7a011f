"""A rate that is not exceeded: what moves bytes asks before it moves them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from puller.pipeline.lane import Closed

CREDIT = 0.25
"""Seconds' worth of bytes that may be caught up on after a pause: what a late wake-up loses, and no more."""


class Pace:
    """Lets ``rate`` bytes a second through, of all its callers together; safe for many threads.

    A token bucket that is paid afterwards: a caller passes when all that passed before it is paid for,
    so no single count is too large. Of any stretch of t seconds, at most ``rate * (t + CREDIT)`` bytes
    and the largest single count pass.
    """

    def __init__(
        self,
        rate: float,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[float], object] | None = None,
    ) -> None:
        self._rate = rate
        self._clock = clock
        self._closed = threading.Event()
        self._wait = wait or self._closed.wait
        self._paid = clock() - CREDIT
        self._lock = threading.Lock()

    def take(self, count: int) -> None:
        """Return when ``count`` more bytes may pass. Raises Closed."""
        with self._lock:
            now = self._clock()
            begin = max(self._paid, now - CREDIT)
            self._paid = begin + count / self._rate
        if begin > now:
            self._wait(begin - now)
        if self._closed.is_set():
            raise Closed

    def close(self) -> None:
        """Make every present and later ``take`` raise Closed."""
        self._closed.set()
