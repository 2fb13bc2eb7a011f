"""The days of a machine: kept, gone, late, or unknown."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from puller.overview.calendar import Day, Marks, calendar, last_days
from puller.overview.interval import Interval
from puller.repository.points import Point
from puller.repository.records.proofs import Proof
from tests.overview.making import a_chain, a_point

DAY, HOUR = timedelta(days=1), timedelta(hours=1)
NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
DAILY = Interval(DAY, is_declared=True)
SHORT = {"kept": "K", "gone": "g", "late": "L", "unknown": "."}


def at(day: int, hour: int = 5) -> datetime:
    return datetime(2026, 11, day, hour, tzinfo=UTC)


def states(points: list[Point], interval: Interval | None = DAILY, count: int = 10) -> str:
    days = calendar(points, {}, Marks(), interval, last_days(count, NOW), NOW)
    return "".join(SHORT[day.state] for day in days)


def test_a_point_each_night() -> None:
    assert states(a_chain(*(at(day) for day in range(9, 21)))) == "KKKKKKKKKK"


def test_before_the_first_point_nothing_is_known() -> None:
    assert states(a_chain(at(18), at(19), at(20))) == ".......KKK"


def test_pruned_points_are_known_from_their_successors() -> None:
    points = a_chain(*(at(day) for day in range(11, 21)))
    assert states([points[0], points[5], points[9]]) == "K...gK..gK"


def test_nights_without_a_backup_are_late() -> None:
    assert states(a_chain(at(11), at(15), at(19), at(20))) == "KLLLKLLLKK", "late from 30 hours on"


def test_a_machine_without_new_points_is_late_until_today() -> None:
    assert states(a_chain(at(11), at(12), at(16))) == "KKLLLKLLLL"


def test_a_machine_that_is_off_is_taken_from_an_old_point_and_is_not_late() -> None:
    on, *off = a_chain(*(at(day) for day in range(11, 21)))
    off = [structs.replace(point, parent=on.point) for point in off]
    assert states([on, off[4], off[8]]) == "K...gK..gK", "nothing is known of the days between"


def test_a_point_without_one_before_it_may_hide_pruned_points_so_its_gap_is_not_called_late() -> None:
    assert states([*a_chain(at(11), at(12)), a_point(at(19)), a_point(at(20))]) == "KK......KK"


def test_without_an_interval_nothing_is_late() -> None:
    assert states(a_chain(at(11), at(15)), None) == "K...K....."


def test_a_disk_that_was_read_as_a_whole_says_nothing_of_change() -> None:
    first, second = a_chain(at(19), at(20))
    disk = structs.replace(second.disks[0], kind="rehash")
    days = calendar(
        [first, structs.replace(second, disks=(disk,))], {}, Marks(), DAILY, last_days(2, NOW), NOW
    )
    assert [day.changed_bytes for day in days] == [0, 0]


def test_what_a_day_holds() -> None:
    early, late = a_chain(at(20, 3), at(20, 9))
    proofs = {early.point: Proof(NOW, "proven"), late.point: Proof(NOW, "failed")}
    marks = Marks(frozenset([late.point]), frozenset([early.point]))
    (day,) = calendar([early, late], proofs, marks, DAILY, last_days(1, NOW), NOW)
    assert day == Day("kept", True, True, True, True, stored_bytes=2000, changed_bytes=5000), (
        "the full tells no change"
    )


def test_a_point_of_another_time_zone_belongs_to_its_day_in_utc() -> None:
    zone = datetime.fromisoformat("2026-11-20T01:00:00+02:00")
    assert states([a_point(zone)], None, 2) == "K."


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 40 * 24), min_size=1, max_size=30, unique=True),
    st.integers(1, 72),
    st.sets(st.integers(0, 29)),
)
def test_a_prune_hides_late_days_but_invents_none(hours: list[int], every: int, pruned: set[int]) -> None:
    """Whatever points are removed, what is called late was late, and what is called gone was there."""
    points = a_chain(*(NOW - hour * HOUR for hour in sorted(hours, reverse=True)))
    left = [point for number, point in enumerate(points) if number not in pruned or point == points[-1]]
    interval = Interval(every * HOUR, is_declared=True)
    pairs = zip(states(points, interval, 60), states(left, interval, 60), strict=True)
    assert all(after in {before, "."} or (before, after) == ("K", "g") for before, after in pairs)
