"""A rate limit: code that transfers bytes calls it before the transfer."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from puller.pipeline.lane import Closed

CREDIT = 0.25
"""Seconds' worth of bytes that may follow at once after a pause: the delay of a late wake-up."""


class RateLimit:
    """Limits all its callers together to ``rate`` bytes per second; safe for many threads.

    A token bucket that is paid afterwards: a caller passes when everything before it is paid for, so no
    single count is too large. In any t seconds, at most ``rate * (t + CREDIT)`` bytes and the largest single
    count pass.
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
        """Wait until ``count`` more bytes may pass. Raises Closed."""
        with self._lock:
            now = self._clock()
            begin = max(self._paid, now - CREDIT)
            self._paid = begin + count / self._rate
        if begin > now:
            self._wait(begin - now)
        if self._closed.is_set():
            raise Closed

    def close(self) -> None:
        """Make every current and later ``take`` raise Closed."""
        self._closed.set()
