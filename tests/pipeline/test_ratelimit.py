"""A rate is not exceeded, and not fallen short of either. Nobody sleeps: the clock is the test's."""

from __future__ import annotations

import threading
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from puller.pipeline.flow import Flow
from puller.pipeline.lane import Closed
from puller.pipeline.ratelimit import CREDIT, RateLimit

RATES = st.floats(1.0, 1e9)
STEPS = st.lists(st.tuples(st.floats(0.0, 10.0), st.integers(1, 1 << 26)), min_size=1, max_size=30)


class Clock:
    """Time passes when somebody waits, or when the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def wait(self, seconds: float) -> None:
        assert seconds >= 0
        self.now += seconds


@given(RATES, STEPS)
def test_no_stretch_of_time_carries_more_than_the_rate(rate: float, steps: list[tuple[float, int]]) -> None:
    clock = Clock()
    limit = RateLimit(rate, clock, clock.wait)
    passed: list[tuple[float, int]] = []
    for pause, count in steps:
        clock.now += pause
        limit.take(count)
        passed.append((clock.now, count))
    for first, (begin, _) in enumerate(passed):
        for last in range(first, len(passed)):
            end, _ = passed[last]
            before_last = sum(count for _, count in passed[first:last])
            assert before_last <= (rate * (end - begin + CREDIT)) * (1 + 1e-9) + 1e-3


@given(RATES, st.lists(st.integers(1, 1 << 26), min_size=1, max_size=30))
def test_who_never_pauses_gets_the_rate(rate: float, counts: list[int]) -> None:
    clock = Clock()
    limit = RateLimit(rate, clock, clock.wait)
    begun = clock.now
    for count in counts:
        limit.take(count)
    # The last one is let through, not yet paid for.
    assert clock.now - begun <= max(accumulate(counts[:-1]), default=0) / rate + 1e-6


def test_a_pause_is_not_saved_up() -> None:
    clock = Clock()
    limit = RateLimit(100, clock, clock.wait)
    clock.now += 3600
    begun = clock.now
    for _ in range(11):
        limit.take(100)
    assert clock.now - begun == pytest.approx(10 - CREDIT)


def test_closing_wakes_who_waits() -> None:
    limit = RateLimit(1)
    limit.take(1 << 20)

    def wait() -> None:
        with pytest.raises(Closed):
            limit.take(1)

    waiting = threading.Thread(target=wait, daemon=True)
    waiting.start()
    limit.close()
    waiting.join(10)
    assert not waiting.is_alive()


def test_a_flow_that_fails_closes_its_pace() -> None:
    def wait() -> None:
        limit.take(1 << 20)
        limit.take(1)

    with pytest.raises(ValueError, match="first"), Flow() as flow:
        limit = flow.adopt(RateLimit(1))
        flow.spawn("waits", wait)
        raise ValueError("first")
