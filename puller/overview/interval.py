"""How often a machine is backed up, and when it is late. Pure.

A job writes its interval into the tags of its points. For other points, the interval is estimated: people
and timers keep a rhythm, and the middle one of the last gaps is not moved by one odd backup.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from statistics import median

from puller.configuration.quantities import duration
from puller.repository.selection import INTERVAL_TAG

FEWEST_GAPS = 3
"""Gaps between points below which no interval is estimated."""

GAPS = 7
"""Most gaps that count: a rhythm may change, and a prune thins older points."""

_LEAST_SLACK = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Interval:
    """The time from one backup of a machine to the next; ``is_declared`` if its job says so."""

    length: timedelta
    is_declared: bool

    @property
    def longest(self) -> timedelta:
        """The age at which the newest point is late: a quarter more if declared, twice if estimated.

        Timers are spread at random, and backups take their time; so it is an hour more at least.
        """
        slack = self.length / 4 if self.is_declared else self.length
        return self.length + max(slack, _LEAST_SLACK)


def interval_of(times: Sequence[datetime], tags: Sequence[Mapping[str, str]]) -> Interval | None:
    """Return the interval of a machine; None if nobody can tell.

    ``times`` and ``tags`` are those of its points, oldest first. A backup by hand has no interval, so that
    of the newest point that has one counts.
    """
    for said in reversed(tags[-GAPS:]):
        with suppress(ValueError):
            if declared := duration(said.get(INTERVAL_TAG, "")):
                return Interval(declared, is_declared=True)
    last = times[-GAPS - 1 :]
    gaps = [(later - earlier).total_seconds() for earlier, later in pairwise(last)]
    return Interval(timedelta(seconds=median(gaps)), is_declared=False) if len(gaps) >= FEWEST_GAPS else None


def is_late(newest: datetime, interval: Interval | None, now: datetime) -> bool:
    """Return whether a machine whose newest point is from ``newest`` should have had another one by now."""
    return interval is not None and now - newest > interval.longest
