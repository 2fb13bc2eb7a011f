"""Measure how long a store has been silent, and abandon requests when that is too long."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from puller.cancelling import CancelScope, NoAnswer, RetryPolicy
from puller.errors import StoreUnavailable

T = TypeVar("T")

STALLED = 20.0
"""Seconds without a byte after which a request counts as silent."""


class Silence:
    """Silence of ``place`` during one call; ``call`` is the scope that notes progress.

    It counts from the start of the call, or from a failed try that had transferred bytes until then. Recent
    transfers extend the wait too, but not older ones, because the socket of a silent server still accepts
    data. An answer is waited for at least ``least`` seconds under any policy.
    """

    def __init__(
        self,
        call: CancelScope,
        place: str = "the store",
        clock: Callable[[], float] = time.monotonic,
        least: float = 0.0,
    ) -> None:
        self.place = place
        self._call = call
        self._least = least
        self._began = self._since = clock()
        self._clock = clock
        self._failed = False

    @property
    def _moved(self) -> float:
        return max(self._began, self._call.moved)

    def note_failure(self) -> None:
        """Note that a try has failed."""
        if not self._failed and self._clock() - self._moved < STALLED:
            self._since = self._moved
        self._failed = True

    @property
    def lasts(self) -> float:
        """Seconds of silence so far."""
        return self._clock() - self._since

    def left(self, policy: RetryPolicy) -> float:
        """Return the remaining seconds to wait for an answer."""
        left = max(policy.seconds, self._least) - self.lasts
        if self._moved > self._began:
            left = max(left, min(policy.seconds, STALLED) - (self._clock() - self._moved))
        return left if policy.limit is None else min(left, self._left_of_call(policy.limit))

    def allows(self, policy: RetryPolicy, pause: float) -> bool:
        """Return whether there is time for another try after ``pause`` more seconds."""
        left = policy.seconds - self.lasts if policy.limit is None else self._left_of_call(policy.limit)
        return pause <= left

    def _left_of_call(self, limit: float) -> float:
        return limit - (self._clock() - self._began)


def request(scope: CancelScope, ask: Callable[[], T], silence: Silence | None = None) -> T:
    """Return the result of ``ask`` or raise its exception.

    Raises StoreUnavailable if the scope is cancelled, or the store silent for longer than its policy says.
    """
    heard = silence or Silence(scope)
    try:
        return scope.call(ask, lambda: heard.left(scope.policy))
    except NoAnswer as error:
        why = f"{heard.place} did not answer for {heard.lasts:.0f} s"
        if scope.cancelled:
            why = "a request to the store was cancelled before it was answered"
        raise StoreUnavailable(why) from error
