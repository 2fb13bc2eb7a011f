"""Until when the store's locks protect a machine's points, as their records say. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from puller.repository.points import Point

SOON = timedelta(days=7)
"""A lock that has less left than this, and less than half of its time, ends soon."""


@dataclass(frozen=True, slots=True)
class Lock:
    """The longest lock of a machine's points: its end, and whether it ends soon or has ended."""

    until: datetime
    ends_soon: bool


def lock_of(points: Sequence[Point], now: datetime) -> Lock | None:
    """Return the lock of the machine that has ``points``; None if none of them was ever locked."""
    locked = [(point.locked_until, point.time) for point in points if point.locked_until is not None]
    if not locked:
        return None
    until, taken = max(locked)
    return Lock(until, until - now < min(SOON, (until - taken) / 2))
