"""The upkeep of a repository: points checked, pruned and deleted."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from puller.api.arguments import (
    check_budget,
    check_lists,
    check_times,
    working,
)
from puller.events import Observer, ignore
from puller.repository.points import Point
from puller.repository.repository import Repository
from puller.repository.shard import WHOLE, Shard
from puller.upkeep.checking.check import CheckReport
from puller.upkeep.checking.check import check as _check
from puller.upkeep.checking.schedule import Reading
from puller.upkeep.pruning.prune import GRACE, PruneReport, preview
from puller.upkeep.pruning.prune import prune as _prune
from puller.upkeep.retention.delete import delete as _delete
from puller.upkeep.retention.policy import Policy


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
