"""The points of a repository: listed, kept, checked and pruned."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from puller.api.arguments import (
    check_budget,
    check_lists,
    check_times,
    check_until,
    working,
)
from puller.errors import DamagedData
from puller.events import Observer, ignore
from puller.repository.points import Point
from puller.repository.records.kept import Keep
from puller.repository.repository import Repository
from puller.repository.shard import WHOLE, Shard
from puller.upkeep.check import CheckReport
from puller.upkeep.check import check as _check
from puller.upkeep.delete import delete as _delete
from puller.upkeep.keep import KeptPoint, kept_points
from puller.upkeep.keep import keep as _keep
from puller.upkeep.keep import release as _release
from puller.upkeep.prune import GRACE, PruneReport, preview
from puller.upkeep.prune import prune as _prune
from puller.upkeep.retention import Policy
from puller.upkeep.schedule import Reading

if TYPE_CHECKING:
    pass


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


def check(  # noqa: PLR0913 - one keyword for each choice that a user has
    repository: Repository,
    points: Sequence[str | Point] = (),
    *,
    hosts: Sequence[str] = (),
    read_data: float = 0.0,
    max_age: timedelta | None = None,
    budget: timedelta | int | None = None,
    shard: Shard = WHOLE,
    observer: Observer = ignore,
) -> CheckReport:
    """Verify that points can be restored.

    Damage is returned, not raised, and recorded in the repository: later backups store the content again.
    What is read and intact is recorded too, so the next check continues with what was verified longest ago.

    Args:
        repository: The repository.
        points: Points to verify, named as for ``restore``, or as records. Default: all.
        hosts: Use only points that these hosts took where ``points`` names a domain; names or patterns.
        read_data: Percentage of the stored data to read and verify, 0 to 100, the least recently verified
            first. With 0 and neither of the next two, only the structure is verified: every object that a
            point needs must exist.
        max_age: Read all data that no check has verified for this long. Other packs only need to exist.
        budget: Stop reading after this time, or this number of bytes. At least one pack is read.
        shard: Verify only the packs of this part, such as ``Shard(1, 4)``. The maps are verified as a whole.
        observer: Receives events: progress and notices.

    Returns:
        What was verified, and the errors that were found.

    Raises:
        NoSuchPoint, AmbiguousPoint: A name in ``points`` matches no point, or several.
        KeyNotHeld: Data is to be read and the key may not read guest data.
        StoreError: The store cannot be reached or refuses.
        UsageError: ``read_data`` is not a percentage, or ``max_age`` or ``budget`` is negative or of another
            type; nothing was touched.

    Example:
        >>> report = puller.check(repository, read_data=5.0)
        >>> report.errors
        ()
    """
    check_lists(points=points, hosts=hosts)
    check_times(max_age=max_age)
    check_budget(budget)
    reading = Reading(read_data, max_age, budget)
    bound = working(repository, "repository", observer)
    chosen = [item if isinstance(item, Point) else bound.points.select(item, hosts) for item in points]
    return _check(bound, chosen, reading, observer, shard=shard)


def prune(
    repository: Repository, policy: Policy, *, grace: timedelta = GRACE, observer: Observer = ignore
) -> PruneReport:
    """Delete the points that a policy does not keep, and the data that no point needs any more.

    Can run beside backups. Data that no point needs is condemned first; a later prune deletes it once
    ``grace`` has passed.

    Args:
        repository: The repository.
        policy: The rules. A policy without rules keeps all points.
        grace: How long condemned data waits before it is deleted. With ``timedelta(0)`` it is deleted at
            once, and backups that are running may fail.
        observer: Receives events: steps, progress and notices.

    Returns:
        What was deleted, and the decision for each point with its reasons.

    Raises:
        Locked: Another prune or repair is running.
        DamagedData: A record is damaged, so it is not known what it needs.
        StoreError: The store cannot be reached or refuses.
        UsageError: ``grace`` is negative or is not a timedelta.

    Example:
        >>> report = puller.prune(repository, puller.Policy(daily=7, weekly=4))
        >>> report.removed
        ('20261101T010004Z-9b1c03aa',)
    """
    check_times(grace=grace)
    return _prune(working(repository, "repository", observer), policy, grace, observer)


def preview_prune(repository: Repository, policy: Policy) -> PruneReport:
    """Decide about each point as ``prune`` would, and change nothing.

    Args:
        repository: The repository.
        policy: The rules.

    Returns:
        The report of ``prune``, with the decision for each point. Its counts are 0.

    Raises:
        DamagedData: A point's record is damaged.
        StoreError: The store cannot be reached or refuses.

    Example:
        >>> report = puller.preview_prune(repository, puller.Policy(last=3))
        >>> [(decision.point, decision.reasons) for decision in report.decisions if decision.keep]
        [('20261123T150231Z-338c893f', ('newest of its domain', 'last 1'))]
    """
    return preview(repository, policy)


def delete(repository: Repository, points: Sequence[str], *, hosts: Sequence[str] = ()) -> tuple[str, ...]:
    """Delete points. ``prune`` then frees the space.

    All points are looked up before any is deleted.

    Args:
        repository: The repository.
        points: Points to delete, named as for ``restore``.
        hosts: Use only points that these hosts took where ``points`` names a domain; names or patterns.

    Returns:
        The ids of the deleted points.

    Raises:
        NoSuchPoint, AmbiguousPoint: A name matches no point, or several; nothing was deleted.
        PointKept: ``keep`` holds one of the points; nothing was deleted.
        DamagedData: A record that has to be read is damaged.
        StoreError: The store cannot be reached or refuses.

    Example:
        >>> puller.delete(repository, ["20261123T150231Z-338c893f"])
        ('20261123T150231Z-338c893f',)
    """
    check_lists(points=points, hosts=hosts)
    return _delete(repository, points, hosts)
