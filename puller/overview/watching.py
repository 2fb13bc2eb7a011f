"""Signs that a point looks wrong, read together with the earlier points of its machine."""

from __future__ import annotations

from puller.configuration.alarms import Thresholds
from puller.overview.alarm import Alarm, alarms_of
from puller.repository.points import Point
from puller.repository.repository import Repository


def watch(repository: Repository, point: Point, thresholds: Thresholds) -> list[Alarm]:
    """Judge ``point`` by the earlier points of its machine. Raises StoreError."""
    known = repository.points.newest(point.uuid, thresholds.history + 1)
    return alarms_of([*(one for one in known if one.time < point.time), point], thresholds)
