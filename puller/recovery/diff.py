"""Diff: what differs between two points, or between a point and a domain's disks as they are now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from puller.errors import NoSuchDisk
from puller.recovery.diskcopy import open_image
from puller.repository.points import Point
from puller.repository.reading.difference import Changes, compare_maps
from puller.repository.repository import Repository

LIVE = "live"


@dataclass(frozen=True, slots=True)
class DiskDifference:
    """``ranges`` are (offset, length) in bytes, ascending, in whole chunks cut at the disk's end."""

    disk: str
    changed_bytes: int
    ranges: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class PointDifference:
    """What ``second`` (a point's id, or ``live``) differs in from the point ``first``, by disk."""

    first: str
    second: str
    disks: tuple[DiskDifference, ...]


def disk_difference(disk: str, changes: Changes) -> DiskDifference:
    """``changes`` as ranges."""
    ranges = tuple(changes.ranges())
    return DiskDifference(disk, sum(length for _, length in ranges), ranges)


def diff_points(
    repository: Repository, first: Point, second: Point, disks: Sequence[str] = ()
) -> PointDifference:
    """Compare the maps of the disks that both points have, or of ``disks``. No data is read.

    The ranges are those of the disks of ``second``. Raises NoSuchDisk, DamagedData, StoreError.
    """
    shared = [record.disk for record in first.disks if second.disk(record.disk) is not None]
    for target in disks:
        if target not in shared:
            raise NoSuchDisk(f"points {first.point} and {second.point} do not both have disk {target}")
    found = [_compare(repository, first, second, target) for target in shared if not disks or target in disks]
    return PointDifference(first.point, second.point, tuple(found))


def _compare(repository: Repository, first: Point, second: Point, target: str) -> DiskDifference:
    roots = []
    for point in (first, second):
        record = point.disk(target)
        if record is None:
            raise NoSuchDisk(f"point {point.point} has no disk {target}")
        roots.append(open_image(repository, point, record).root)
    return disk_difference(target, compare_maps(repository.maps, roots[0], roots[1]))
