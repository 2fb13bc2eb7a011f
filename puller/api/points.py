"""The points of a repository: listed and kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime

from puller.api.arguments import check_lists, check_until
from puller.errors import DamagedData
from puller.events import Observer, ignore
from puller.repository.points import Point
from puller.repository.records.kept import Keep
from puller.repository.repository import Repository
from puller.upkeep.retention.keep import KeptPoint, kept_points
from puller.upkeep.retention.keep import keep as _keep
from puller.upkeep.retention.keep import release as _release


def list_points(
    repository: Repository,
    domain: str | None = None,
    *,
    hosts: Sequence[str] = (),
    damaged: Callable[[str, DamagedData], None] | None = None,
) -> list[Point]:
    """List restore points, oldest first.

    Args:
        repository: The repository.
        domain: Only points of this domain (name or UUID).
        hosts: Only points that these hosts took; names or patterns.
        damaged: Called with the id and the error of each point whose record is damaged. Without it, the
            first such record raises DamagedData.

    Returns:
        The records of the points.

    Raises:
        DamagedData: A record is damaged and ``damaged`` was not given.
        StoreError: The store cannot be reached or refuses.

    Example:
        >>> [point.point for point in puller.list_points(repository, "web1")]
        ['20261123T150231Z-338c893f']
    """
    check_lists(hosts=hosts)
    stored = repository.points
    points = stored.all(damaged) if domain is None else stored.of(domain, damaged)
    return [point for point in points if point.is_from(hosts)]


def keep(  # noqa: PLR0913 - one keyword for each choice that a user has
    repository: Repository,
    point: str,
    *,
    hosts: Sequence[str] = (),
    until: datetime | None = None,
    note: str = "",
    observer: Observer = ignore,
) -> KeptPoint:
    """Protect a point from ``prune`` and ``delete``. An earlier protection of the point is replaced.

    If a prune is running it may have decided before, and may still delete the point: an event of class Notice
    says so.

    Args:
        repository: The repository.
        point: The point, named as for ``restore``.
        hosts: Use only points that these hosts took where ``point`` names a domain; names or patterns.
        until: Protect the point until this time, in UTC unless it has a zone; without it, until ``release``.
        note: Store why the point is kept, in 1000 characters at most.
        observer: Called with each event.

    Returns:
        What protects the point now. It may last longer than asked for, if older keeps cannot be deleted.

    Raises:
        NoSuchPoint, AmbiguousPoint: The name matches no point, or several; or the point was just deleted.
        DamagedData: A record that has to be read is damaged.
        StoreError: The store cannot be reached or refuses.
        UsageError: ``until`` is in the past or is not a datetime, or ``note`` is too long.

    Example:
        >>> puller.keep(repository, "web1@latest", note="before the upgrade").kept
        True
    """
    check_lists(hosts=hosts)
    check_until(until)
    return _keep(repository, point, Keep(until, note), hosts, observer)


def release(repository: Repository, point: str, *, hosts: Sequence[str] = ()) -> KeptPoint:
    """End all that ``keep`` has done for a point. A point that is not kept is not an error.

    Args:
        repository: The repository.
        point: The point, named as for ``restore``.
        hosts: Use only points that these hosts took where ``point`` names a domain; names or patterns.

    Returns:
        The point, which nothing protects now. ``released`` says whether it was kept before.

    Raises:
        NoSuchPoint, AmbiguousPoint: The name matches no point, or several.
        DamagedData: A record that has to be read is damaged.
        StoreError: The store cannot be reached or refuses.

    Example:
        >>> puller.release(repository, "web1@latest").kept
        False
    """
    check_lists(hosts=hosts)
    return _release(repository, point, hosts)


def list_kept(repository: Repository) -> list[KeptPoint]:
    """List the points that ``keep`` protects now, by id.

    A point whose keep cannot be read is protected without end, until ``release``.

    Args:
        repository: The repository.

    Returns:
        The kept points.

    Raises:
        StoreError: The store cannot be reached or refuses.

    Example:
        >>> [kept.point for kept in puller.list_kept(repository)]
        ['20261123T150231Z-338c893f']
    """
    return kept_points(repository)
