"""Delete: named restore points go, in any order; what only they reached is prune's to remove."""

from __future__ import annotations

from collections.abc import Sequence

from puller.repository.repository import Repository


def delete(repository: Repository, selectors: Sequence[str]) -> tuple[str, ...]:
    """Delete the points that ``selectors`` name and return their ids, each once.

    A selector is as in ``Points.select``. All are looked up before any is deleted. A point that is named
    by its id may be damaged. Raises NoSuchPoint, AmbiguousPoint, DamagedData, StoreError.
    """
    found = list(dict.fromkeys(_find(repository, selector) for selector in selectors))
    repository.points.delete(found)
    return tuple(point_id for _, point_id in found)


def _find(repository: Repository, selector: str) -> tuple[str, str]:
    if "@" not in selector:
        return repository.points.find(selector)
    point = repository.points.select(selector)
    return point.uuid, point.point
