"""The days of a machine: when it was backed up, and when it should have been. Pure.

A prune deletes older points, so a day without a point may have had a backup. But each point names the one
before it, and so its time. Between the two there was no backup, and that one existed even if it is gone now::

    day        1    2    3    4    5    6    7    8
    points     ·    P ◄──────────── P    K ◄─ K             P = pruned, K = kept
    state      ?   gone  late late gone kept kept  late      interval 1 day, now is the end of day 8
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Literal

from puller.overview.interval import Gap, Interval, gaps_of
from puller.repository.points import Point
from puller.repository.records.proofs import Proof

State = Literal["unknown", "kept", "gone", "late"]
"""Whether the day has a point, had one that is gone by now, or should have had one."""

_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Day:
    """One day of a machine, in UTC.

    Attributes:
        state: ``kept``, ``gone``, ``late`` or ``unknown``.
        proven: Whether a drill has proven a point of the day.
        failed: Whether the last drill of a point of the day failed.
        copied: Whether another repository also has a point of the day.
        alarming: Whether a point of the day looks wrong by the earlier ones.
        stored_bytes: What the day's points added to the store.
        changed_bytes: What their sources reported as changed. Disks that were read as a whole do not count.
    """

    state: State = "unknown"
    proven: bool = False
    failed: bool = False
    copied: bool = False
    alarming: bool = False
    stored_bytes: int = 0
    changed_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Marks:
    """The ids of points that another repository has, too, and of those that look wrong."""

    copied: frozenset[str] = frozenset()
    alarming: frozenset[str] = frozenset()


def calendar(  # noqa: PLR0913, PLR0917 - what a day is made of
    points: Sequence[Point],
    proofs: Mapping[str, Proof],
    marks: Marks,
    interval: Interval | None,
    days: Sequence[date],
    now: datetime,
) -> tuple[Day, ...]:
    """Return one Day for each of ``days``.

    ``points`` are those of one machine, oldest first, at least one. ``proofs`` has the newest proof by point
    id.
    """
    late = set(_late_days(points, interval, days[0], now))
    gone = {_day(gap.begin) for gap in gaps_of(points)}
    kept: dict[date, list[Point]] = {}
    for point in points:
        kept.setdefault(_day(point.time), []).append(point)
    return tuple(
        _kept_day(kept[day], proofs, marks) if day in kept else Day(_absent(day, gone, late)) for day in days
    )


def last_days(count: int, now: datetime) -> tuple[date, ...]:
    """Return the last ``count`` days in UTC, today the last."""
    return tuple(_day(now) - _DAY * ago for ago in range(count - 1, -1, -1))


def _kept_day(points: Iterable[Point], proofs: Mapping[str, Proof], marks: Marks) -> Day:
    points = list(points)
    verdicts = {proofs[point.point].verdict for point in points if point.point in proofs}
    disks = [disk for point in points for disk in point.disks]
    return Day(
        "kept",
        "proven" in verdicts,
        "failed" in verdicts,
        any(point.point in marks.copied for point in points),
        any(point.point in marks.alarming for point in points),
        sum(disk.stored_bytes for disk in disks),
        sum(disk.dirty_bytes for disk in disks if disk.kind == "incremental"),
    )


def _absent(day: date, gone: set[date], late: set[date]) -> State:
    return "gone" if day in gone else "late" if day in late else "unknown"


def _late_days(
    points: Sequence[Point], interval: Interval | None, first: date, now: datetime
) -> Iterator[date]:
    """Yield the days from ``first`` at which the newest backup was older than the interval allows."""
    if interval is None:
        return
    for gap in (*gaps_of(points), Gap(points[-1].time, now, is_certain=True)):
        if gap.is_certain and gap.length > interval.longest:
            yield from _days(max(first, _day(gap.begin + interval.longest)), _day(gap.end))


def _days(first: date, last: date) -> Iterator[date]:
    while first <= last:
        yield first
        first += _DAY


def _day(moment: datetime) -> date:
    return moment.astimezone(UTC).date()
