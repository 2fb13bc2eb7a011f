"""Points without content, for the pure parts of the overview."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from puller.repository.points import DiskRecord, Point, Ref, new_id

REF = Ref("00" * 16, 0)


def a_point(
    moment: datetime,
    parent: Point | None = None,
    tags: Mapping[str, str] | None = None,
    stored: int = 1000,
    host: str = "kvm1",
) -> Point:
    """A point of web1 from ``moment``, taken from ``parent``."""
    base = None if parent is None else parent.point
    kind = "full" if parent is None else "incremental"
    disk = DiskRecord(
        "vda",
        kind,
        1 << 30,
        REF,
        parent=base,
        dirty_bytes=5000,
        read_bytes=4000,
        new_bytes=2000,
        stored_bytes=stored,
    )
    uuid = "5d1a3bc7-64f0-4a15-9c29-20c5c1a3e2ab"
    return Point(
        new_id(moment),
        "web1",
        uuid,
        moment,
        "pull",
        kind,
        (disk,),
        base,
        base,
        tags=dict(tags or {}),
        host=host,
    )


def a_chain(*moments: datetime, tags: Mapping[str, str] | None = None) -> list[Point]:
    """Points, each taken from the one before."""
    points: list[Point] = []
    for moment in moments:
        points.append(a_point(moment, points[-1] if points else None, tags))
    return points
