"""How often a machine is backed up, and when it is late. Pure.

A job writes its interval into the tags of its points. For other points, the interval is estimated as the
median of the last gaps, which a single odd backup does not change.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from statistics import median

from puller.configuration.quantities import duration
from puller.repository.points import Point, time_of
from puller.repository.selection import INTERVAL_TAG

FEWEST_GAPS = 3
"""Fewest gaps between points from which an interval is estimated."""

GAPS = 7
"""Most gaps that count: the schedule may change, and a prune thins out older points."""

_LEAST_SLACK = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Interval:
    """The time from one backup of a machine to the next; ``is_declared`` if its job says so."""

    length: timedelta
    is_declared: bool

    @property
    def longest(self) -> timedelta:
        """The age at which the newest point is late: a quarter more if declared, twice if estimated.

        The margin is at least an hour, because timers have random delays and backups take time.
        """
        slack = self.length / 4 if self.is_declared else self.length
        return self.length + max(slack, _LEAST_SLACK)


@dataclass(frozen=True, slots=True)
class Gap:
    """The time between two backups of a machine; ``is_certain`` if there was none between that is gone."""

    begin: datetime
    end: datetime
    is_certain: bool

    @property
    def length(self) -> timedelta:
        """How long it is."""
        return self.end - self.begin


def gaps_of(points: Sequence[Point]) -> list[Gap]:
    """Return the gap before each point but the first whose predecessor is unknown.

    ``points`` are those of one machine, oldest first. A point names the one before it, whose id has its time,
    even if that is gone by now. Its parent would not do: it may be older, as that of a machine that is off.
    """
    earlier: tuple[Point | None, ...] = (None, *points)
    return [gap for before, point in zip(earlier, points, strict=False) if (gap := _gap(before, point))]


def _gap(before: Point | None, point: Point) -> Gap | None:
    known = [] if before is None else [before.time]
    if point.previous is not None:
        known.append(time_of(point.previous))
    return Gap(min(max(known), point.time), point.time, point.previous is not None) if known else None


def interval_of(points: Sequence[Point]) -> Interval | None:
    """Return the interval of the machine that has ``points``, oldest first; None if there are too few.

    A backup by hand has no interval, so the newest point with one counts.
    """
    for point in reversed(points[-GAPS:]):
        with suppress(ValueError):
            if declared := duration(point.tags.get(INTERVAL_TAG, "")):
                return Interval(declared, is_declared=True)
    gaps = [gap.length.total_seconds() for gap in gaps_of(points)[-GAPS:]]
    return Interval(timedelta(seconds=median(gaps)), is_declared=False) if len(gaps) >= FEWEST_GAPS else None


def is_late(newest: datetime, interval: Interval | None, now: datetime) -> bool:
    """Return whether a machine whose newest point is from ``newest`` should have had another one by now."""
    return interval is not None and now - newest > interval.longest
