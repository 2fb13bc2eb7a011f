"""Delete: named restore points go, in any order; what only they reached is prune's to remove."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from puller.repository.repository import Repository


def delete(repository: Repository, selectors: Sequence[str], hosts: Collection[str] = ()) -> tuple[str, ...]:
    """Delete the points that ``selectors`` name and return their ids, each once.

    A selector and ``hosts`` are as in ``Points.select``. All are looked up before any is deleted. A
    point that is named by its id may be damaged. Raises NoSuchPoint, AmbiguousPoint, DamagedData, StoreError.
    """
    found = list(dict.fromkeys(_find(repository, selector, hosts) for selector in selectors))
    repository.points.delete(found)
    return tuple(point_id for _, point_id in found)


def _find(repository: Repository, selector: str, hosts: Collection[str]) -> tuple[str, str]:
    if "@" not in selector:
        return repository.points.find(selector)
    point = repository.points.select(selector, hosts)
    return point.uuid, point.point
