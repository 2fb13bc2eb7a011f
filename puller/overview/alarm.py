"""Signs that a machine's point looks wrong, compared with its own history. Pure.

An attacker who encrypts a guest's files changes much data in little time, and the new data does not compress.
Both are compared with the maximum of the machine's last points, not with an average, because weekly jobs and
upgrades are normal. On a machine that always stores videos, data that does not compress is no sign.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from puller.configuration.alarms import DEFAULTS, Thresholds
from puller.repository.points import Point
from puller.units import MIB, format_bytes

Sign = Literal["change", "compression", "size"]
"""Much more has changed, new data no longer compresses, or a disk is smaller or missing."""


_LEAST_NEW = 64 * MIB
"""With less new data, compression is not judged: a single archive could be all of it."""

_NEW_SHARE = 0.002
_MOST_OF = 0.9


@dataclass(frozen=True, slots=True)
class Alarm:
    """A point that looks wrong, and the numbers that show it."""

    point: str
    sign: Sign
    text: str


@dataclass(frozen=True, slots=True)
class _Sample:
    """Figures of a point, in bytes, without disks that were read as a whole: these do not show changes."""

    changed: int
    new: int
    stored: int
    size: int

    @property
    def left(self) -> float | None:
        """The part of the new data that is left after compression; None if there is too little of it."""
        enough = self.new >= max(_LEAST_NEW, self.size * _NEW_SHARE)
        return min(1.0, self.stored / self.new) if enough else None


def alarms_of(points: Sequence[Point], thresholds: Thresholds = DEFAULTS) -> list[Alarm]:
    """Judge the newest point of a machine by the earlier ones. ``points`` are in order, oldest first."""
    if len(points) < 2:
        return []
    newest, earlier = points[-1], _comparable(points)
    found = list(_smaller(earlier[-1], newest))
    samples = [sample for point in earlier[-thresholds.history :] if (sample := _sample(point))]
    now = _sample(newest)
    if now is not None and len(samples) >= thresholds.fewest:
        found += _changed(newest, now, samples, thresholds)
        found += _compressed(newest, now, samples, thresholds)
    return found


def _comparable(points: Sequence[Point]) -> Sequence[Point]:
    """Return the points before the newest one: those of its host, if there are any.

    A copy of the machine on another host has the same UUID, and disks of its own.
    """
    earlier = points[:-1]
    return [point for point in earlier if point.host == points[-1].host] or earlier


def alarms_since(
    points: Sequence[Point], first: datetime, thresholds: Thresholds = DEFAULTS
) -> tuple[Alarm, ...]:
    """Judge each point that is from ``first`` or later by those before it."""
    found: list[Alarm] = []
    for number, point in enumerate(points):
        if point.time >= first:
            found += alarms_of(points[max(0, number - thresholds.history) : number + 1], thresholds)
    return tuple(found)


def _sample(point: Point) -> _Sample | None:
    disks = [disk for disk in point.disks if disk.kind == "incremental"]
    if not disks:
        return None
    return _Sample(
        sum(disk.dirty_bytes for disk in disks),
        sum(disk.new_bytes for disk in disks),
        sum(disk.stored_bytes for disk in disks),
        sum(disk.size for disk in disks),
    )


def _smaller(before: Point, newest: Point) -> Iterator[Alarm]:
    sizes = {disk.disk: disk.size for disk in newest.disks}
    for disk in before.disks:
        size = sizes.get(disk.disk)
        if size is None:
            yield Alarm(newest.point, "size", f"disk {disk.disk} is not in the point any more")
        elif size < disk.size:
            text = f"disk {disk.disk} shrank from {format_bytes(disk.size)} to {format_bytes(size)}"
            yield Alarm(newest.point, "size", text)


def _changed(
    newest: Point, now: _Sample, samples: Sequence[_Sample], thresholds: Thresholds
) -> Iterator[Alarm]:
    most = max(sample.changed for sample in samples)
    if now.changed > max(thresholds.change * most, thresholds.share * now.size):
        share = round(100 * now.changed / now.size)
        text = (
            f"{format_bytes(now.changed)} changed, {share} % of the disks; before that at most "
            f"{format_bytes(most)}"
        )
        yield Alarm(newest.point, "change", text)


def _compressed(
    newest: Point, now: _Sample, samples: Sequence[_Sample], thresholds: Thresholds
) -> Iterator[Alarm]:
    most = _usually_left(samples, thresholds.fewest)
    if now.left is not None and now.left >= max(thresholds.compression, most + thresholds.margin):
        text = (
            f"{format_bytes(now.new)} of new data compressed to {round(100 * now.left)} %; before that "
            f"mostly to {round(100 * most)} % or less"
        )
        yield Alarm(newest.point, "compression", text)


def _usually_left(samples: Sequence[_Sample], fewest: int) -> float:
    """Return the part that compression left in nearly all samples; with little data, that of all together."""
    usual = sorted(left for sample in samples if (left := sample.left) is not None)
    if len(usual) >= fewest:
        return usual[round((len(usual) - 1) * _MOST_OF)]
    new = sum(sample.new for sample in samples)
    return sum(sample.stored for sample in samples) / new if new >= MIB else 1.0
