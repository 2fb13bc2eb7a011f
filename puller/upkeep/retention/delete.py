"""Delete named restore points, in any order; prune later removes data that only they reached."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import UTC, datetime

from puller.errors import PointKept
from puller.repository.points import object_name
from puller.repository.records.kept import Keep, Name
from puller.repository.repository import Repository
from puller.upkeep.retention.staying import when


def delete(repository: Repository, selectors: Sequence[str], hosts: Collection[str] = ()) -> tuple[str, ...]:
    """Delete the points that ``selectors`` name and return their ids, each once.

    ``selectors`` and ``hosts`` are as in ``Points.select``. All are looked up before any is deleted. A
    point that is named by its id may be damaged. Raises NoSuchPoint, AmbiguousPoint, PointKept, DamagedData,
    StoreError.
    """
    found = list(dict.fromkeys(repository.points.locate(selector, hosts) for selector in selectors))
    _refuse_kept(repository, found)
    _refuse_locked(repository, found)
    repository.points.delete(found)
    return tuple(point_id for _, point_id in found)


def _refuse_locked(repository: Repository, names: Sequence[Name]) -> None:
    """Refuse points that the store would keep anyway. The store's answer counts, not the records."""
    locks = repository.store.locks
    if not locks.possible or not repository.lock_policies.names():
        return
    now = locks.now()
    for name in names:
        lock = locks.lock_of(object_name(*name))
        if lock is not None and lock.until > now:
            end = when(datetime.fromtimestamp(lock.until, UTC))
            raise PointKept(
                f"cannot delete restore point {name[1]}: it is locked until {end}",
                advice="Wait until then: 'puller prune' removes points whose locks have ended.",
            )


def _refuse_kept(repository: Repository, names: Sequence[Name]) -> None:
    keeps: dict[Name, Keep] = {}
    for uuid in {uuid for uuid, _ in names}:
        keeps |= repository.keeps.holding(datetime.now(UTC), uuid)
    held = [name for name in names if name in keeps]
    if held:
        more = f" and {len(held) - 1} more" if len(held) > 1 else ""
        raise PointKept(
            f"cannot delete restore point {held[0][1]}{more}: it is {keeps[held[0]].reason}",
            advice=f"If nothing needs it, run 'puller release {held[0][1]}' first; nothing was deleted.",
        )
