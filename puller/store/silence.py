"""How long a store has been silent, and requests that are left when that is too long."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from puller.cancelling import CancelScope, NoAnswer, RetryPolicy
from puller.errors import StoreUnavailable

T = TypeVar("T")

STALLED = 20.0
"""Seconds without a byte from which on a request is as good as silent."""


class Silence:
    """How long ``place`` has been silent, for one call; ``call`` is the scope that is told of progress.

    It counts from the call's begin, or where bytes moved until a try failed, from that. Bytes that come or go
    now lengthen the wait too, but not those of a while ago: a silent server's socket swallows what is sent.
    An answer is waited for ``least`` seconds, whatever the policy.
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
        """A try has failed."""
        if not self._failed and self._clock() - self._moved < STALLED:
            self._since = self._moved
        self._failed = True

    @property
    def lasts(self) -> float:
        """Seconds of it so far."""
        return self._clock() - self._since

    def left(self, policy: RetryPolicy) -> float:
        """Seconds that an answer is still waited for."""
        left = max(policy.seconds, self._least) - self.lasts
        if self._moved > self._began:
            left = max(left, min(policy.seconds, STALLED) - (self._clock() - self._moved))
        return left if policy.limit is None else min(left, self._left_of_call(policy.limit))

    def allows(self, policy: RetryPolicy, pause: float) -> bool:
        """Whether there is time for another try after ``pause`` more seconds."""
        left = policy.seconds - self.lasts if policy.limit is None else self._left_of_call(policy.limit)
        return pause <= left

    def _left_of_call(self, limit: float) -> float:
        return limit - (self._clock() - self._began)


def request(scope: CancelScope, ask: Callable[[], T], silence: Silence | None = None) -> T:
    """What ``ask`` returns or raises.

    Raises StoreUnavailable if the scope is cancelled, or the store silent for longer than its policy says.
    """
    heard = silence or Silence(scope)
    try:
        return scope.call(ask, lambda: heard.left(scope.policy))
    except NoAnswer as error:
        why = f"{heard.place} gave no answer for {heard.lasts:.0f} s"
        if scope.cancelled:
            why = "a request to the store was given up before it was answered"
        raise StoreUnavailable(why) from error
