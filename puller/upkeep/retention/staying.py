"""Points that stay because their locks have not ended.

A deletion would only hide such a point, because the store keeps it and everything that it needs until then.
So the point stays visible as long as it can be restored, and no delete marker above a locked point is
puller's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from puller.cancelling import CancelScope
from puller.errors import ObjectNotFound
from puller.repository.points import Point, object_name
from puller.repository.repository import Repository
from puller.store.objectlock import ObjectLock
from puller.store.parallel import each
from puller.upkeep.retention.policy import Decision

Ends = Mapping[str, datetime]
"""When the locks of points end, by the id of the point."""

_REQUESTS = 16


def recorded_ends(repository: Repository, points: Iterable[Point]) -> Ends:
    """Return what the points claim, if the store can lock."""
    if not repository.store.locks.possible:
        return {}
    return {point.point: point.locked_until for point in points if point.locked_until is not None}


def stored_ends(repository: Repository, points: Sequence[Point], now: datetime) -> Ends:
    """Return the store's answer about those of ``points`` that claim to be locked at ``now``."""
    if not repository.store.locks.possible:
        return {}

    def end(scope: CancelScope, point: Point) -> ObjectLock | None:
        try:
            return repository.store.within(scope).locks.lock_of(object_name(point.uuid, point.point))
        except ObjectNotFound:
            return None

    asked = [point for point in points if point.locked_until is not None and point.locked_until > now]
    locks = each(repository.scope, end, asked, _REQUESTS)
    return {
        point.point: datetime.fromtimestamp(lock.until, UTC)
        for point, lock in zip(asked, locks, strict=True)
        if lock is not None
    }


def stay_locked(decisions: Iterable[Decision], ends: Ends, now: datetime) -> tuple[Decision, ...]:
    """Return the decisions; a point that no rule keeps stays if it is locked at ``now``, the store's time."""
    return tuple(_spared(item, ends.get(item.point), now) for item in decisions)


def _spared(decision: Decision, end: datetime | None, now: datetime) -> Decision:
    if decision.keep or end is None or end <= now:
        return decision
    return replace(decision, keep=True, reasons=(f"locked until {when(end)}",))


def when(end: datetime) -> str:
    """Return the end of a lock for people."""
    return f"{end.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
