"""How often a machine is backed up, and when it is late."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from puller.overview.interval import FEWEST_GAPS, GAPS, Interval, gaps_of, interval_of, is_late
from puller.repository.points import Point
from tests.overview.making import a_chain, a_point

NOON = datetime(2026, 11, 1, 12, tzinfo=UTC)
DAY, HOUR = timedelta(days=1), timedelta(hours=1)


def nightly(count: int, said: str | None = None) -> list[Point]:
    tags = {} if said is None else {"interval": said}
    return a_chain(*(NOON + number * DAY for number in range(count)), tags=tags)


def test_what_the_job_says_counts() -> None:
    assert interval_of(nightly(5, "12h")) == Interval(12 * HOUR, is_declared=True)


def test_a_backup_by_hand_does_not_hide_what_the_job_says() -> None:
    points = [*nightly(5, "1d"), a_point(NOON + 4 * DAY + HOUR)]
    assert interval_of(points) == Interval(DAY, is_declared=True)


@pytest.mark.parametrize("said", ["", "0", "soon", "1m"])
def test_what_nobody_can_read_is_estimated(said: str) -> None:
    assert interval_of(nightly(6, said)) == Interval(DAY, is_declared=False)


def test_one_odd_backup_does_not_change_the_rhythm() -> None:
    points = sorted([*nightly(6), a_point(NOON + 5 * DAY + HOUR)], key=lambda point: point.time)
    assert interval_of(points) == Interval(DAY, is_declared=False)


def test_points_that_a_prune_has_removed_count() -> None:
    weekly = nightly(50)[::7]
    assert interval_of(weekly) == Interval(DAY, is_declared=False), "each names the one of the day before"


def test_where_no_point_names_the_one_before_it_the_kept_points_count() -> None:
    points = [a_point(NOON + number * 7 * DAY) for number in range(6)]
    assert interval_of(points) == Interval(7 * DAY, is_declared=False)
    assert not any(gap.is_certain for gap in gaps_of(points))


def test_a_gap_begins_at_the_last_known_backup() -> None:
    first, second = nightly(2)
    later = a_point(NOON + 3 * DAY, first)
    assert [(gap.begin, gap.end) for gap in gaps_of([first, second, later])] == [
        (first.time, second.time),
        (second.time, later.time),
    ]


@pytest.mark.parametrize("count", range(FEWEST_GAPS + 1))
def test_few_points_tell_nothing(count: int) -> None:
    assert interval_of(nightly(count)) is None


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


@settings(deadline=None)
@given(st.lists(st.integers(0, 10**7), min_size=FEWEST_GAPS + 1, max_size=40))
def test_an_estimate_lies_between_the_gaps(seconds: list[int]) -> None:
    points = a_chain(*(NOON + timedelta(seconds=second) for second in sorted(seconds)))
    lengths = [gap.length for gap in gaps_of(points)][-GAPS:]
    found = interval_of(points)
    assert found is not None
    assert min(lengths) <= found.length <= max(lengths)
