"""Find domains by name without reading all records.

Objects are named by the domain's UUID, and its name is in the records, so the newest record of each domain is
read.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING

from puller.cancelling import CancelScope
from puller.errors import DamagedData, NoSuchPoint
from puller.store.parallel import each

if TYPE_CHECKING:
    from puller.repository.points import Point, Points

_PARALLEL_READS = 16


def names_of(points: Points, domain: str) -> list[tuple[str, str]]:
    """Return the names of the points of domains whose newest point has the name ``domain``.

    If there is none, return those of all domains: one may have had the name before, or cannot be read.
    """
    names = points.names()
    called = {uuid for uuid, newest in _newest(points, names) if newest and newest.domain == domain}
    return [name for name in names if not called or name[0] in called]


def _newest(points: Points, names: Iterable[tuple[str, str]]) -> list[tuple[str, Point | None]]:
    """Yield the UUID of each domain and its newest readable point, if any."""
    machines: defaultdict[str, list[str]] = defaultdict(list)
    for uuid, point_id in names:
        machines[uuid].append(point_id)

    def newest(scope: CancelScope, uuid: str) -> Point | None:
        bound = points.within(scope)
        loaded = (_readable(bound, uuid, point_id) for point_id in sorted(machines[uuid], reverse=True))
        return next(filter(None, loaded), None)

    return list(zip(machines, each(points.scope, newest, machines, _PARALLEL_READS), strict=True))


def _readable(points: Points, uuid: str, point_id: str) -> Point | None:
    try:
        return points.get(uuid, point_id)
    except (NoSuchPoint, DamagedData):
        return None
