"""How often a machine is backed up, and when it is late."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from puller.overview.interval import FEWEST_GAPS, GAPS, Interval, interval_of, is_late

NOON = datetime(2026, 11, 1, 12, tzinfo=UTC)
DAY, HOUR = timedelta(days=1), timedelta(hours=1)


def nightly(count: int) -> list[datetime]:
    return [NOON + number * DAY for number in range(count)]


def test_what_the_job_says_counts() -> None:
    said = [{"interval": "12h"}] * 5
    assert interval_of(nightly(5), said) == Interval(12 * HOUR, is_declared=True)


def test_a_backup_by_hand_does_not_hide_what_the_job_says() -> None:
    times = [*nightly(5), NOON + 4 * DAY + HOUR]
    assert interval_of(times, [{"interval": "1d"}] * 5 + [{}]) == Interval(DAY, is_declared=True)


@pytest.mark.parametrize("said", ["", "0", "soon", "1m"])
def test_what_nobody_can_read_is_estimated(said: str) -> None:
    assert interval_of(nightly(6), [{"interval": said}] * 6) == Interval(DAY, is_declared=False)


def test_one_odd_backup_does_not_change_the_rhythm() -> None:
    times = sorted([*nightly(6), NOON + 5 * DAY + HOUR])
    assert interval_of(times, [{}] * 7) == Interval(DAY, is_declared=False)


def test_thinned_points_do_not_count_for_ever() -> None:
    weekly = [NOON - number * 7 * DAY for number in range(9, 0, -1)]
    assert interval_of([*weekly, *nightly(GAPS + 1)], [{}] * 99) == Interval(DAY, is_declared=False)


@pytest.mark.parametrize("count", range(FEWEST_GAPS + 1))
def test_few_points_tell_nothing(count: int) -> None:
    assert interval_of(nightly(count), [{}] * count) is None


@pytest.mark.parametrize(
    ("interval", "longest"),
    [
        (Interval(DAY, is_declared=True), 30 * HOUR),
        (Interval(HOUR, is_declared=True), 2 * HOUR),
        (Interval(DAY, is_declared=False), 48 * HOUR),
        (Interval(timedelta(minutes=10), is_declared=False), timedelta(minutes=70)),
    ],
)
def test_when_a_machine_is_late(interval: Interval, longest: timedelta) -> None:
    assert not is_late(NOON, interval, NOON + longest)
    assert is_late(NOON, interval, NOON + longest + timedelta(seconds=1))


def test_without_an_interval_nothing_is_late() -> None:
    assert not is_late(NOON, None, NOON + 999 * DAY)


@given(st.lists(st.integers(0, 10**7), min_size=FEWEST_GAPS + 1, max_size=40))
def test_an_estimate_lies_between_the_gaps(seconds: list[int]) -> None:
    times = [NOON + timedelta(seconds=second) for second in sorted(seconds)]
    gaps = [later - earlier for earlier, later in pairwise(times)][-GAPS:]
    found = interval_of(times, [{}] * len(times))
    assert found is not None
    assert min(gaps) <= found.length <= max(gaps)
