"""Copies of points in another repository."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from puller.api.arguments import check_level, check_lists, check_rate, working
from puller.errors import UsageError
from puller.events import Observer, ignore
from puller.repository.points import Point
from puller.repository.repository import Repository
from puller.repository.shard import WHOLE, Shard
from puller.repository.writing.run import Tuning
from puller.upkeep.copying.copy import Choice, CopyReport, refuse_unknown, unnamed_points
from puller.upkeep.copying.copy import copy as _copy


def copy_points(  # noqa: PLR0913 - one keyword for each choice that a user has
    repository: Repository,
    target: Repository,
    points: Sequence[str | Point] = (),
    *,
    hosts: Sequence[str] = (),
    domains: Sequence[str] = (),
    tags: Mapping[str, str] | None = None,
    since: datetime | None = None,
    latest_only: bool = False,
    shard: Shard = WHOLE,
    compression: int | str = 1,
    limit_read: int | None = None,
    limit_upload: int | None = None,
    observer: Observer = ignore,
) -> CopyReport:
    """Copy points to another repository, which may have other keys and be in another kind of store.

    A copy has the id, time, host and tags of its point. Only what the target lacks is sent. A point that
    cannot be read is not published; it is in the report's ``failed``, and the others are still copied.

    Args:
        repository: The repository with the points, opened with a key whose role is ``full``, and only read.
        target: The repository to copy to. A key whose role is ``backup-only`` is enough.
        points: Points to copy, named as for ``restore``, or as records. Default: all that the target lacks
            and has never had: what its own retention has deleted stays deleted.
        hosts: Use only points that these hosts took; names or patterns.
        domains: Copy only points of these domains: names, patterns or UUIDs.
        tags: Copy only points with all of these tags.
        since: Copy only points that were taken at or after this time, in UTC unless it has a zone.
        latest_only: Of each machine, copy only the newest point that the other arguments select.
        shard: Of these points, copy only those of the machines in this part, such as ``Shard(1, 4)``.
        compression: As for ``backup``.
        limit_read: The highest rate at which disks are read, in bytes per second before compression.
        limit_upload: The highest average upload rate, in bytes per second.
        observer: Called with each event.

    Returns:
        The points that were copied, those that were in the target already, and those that failed.

    Raises:
        NoSuchPoint, AmbiguousPoint: A name in ``points`` matches no point, or several, or a name or UUID
            in ``domains`` has no points; nothing was copied.
        KeyNotHeld: The key may not read guest data.
        StoreError: A store cannot be reached or refuses. Points that were copied before stay.
        UsageError: An argument cannot be used; nothing was touched.

    Example:
        >>> elsewhere = puller.open_repository("s3://elsewhere/kvm", password="…")
        >>> [item.chunks_sent for item in puller.copy_points(repository, elsewhere).copied]
        [4211, 87, 90]
    """
    check_lists(points=points, hosts=hosts, domains=domains)
    if since is not None and not isinstance(since, datetime):
        raise UsageError(
            f"invalid since '{since}'",
            advice="Set since to a datetime, such as datetime(2027, 1, 31, tzinfo=UTC).",
        )
    moment = since.replace(tzinfo=UTC) if since is not None and since.tzinfo is None else since
    choice = Choice(tuple(domains), dict(tags or {}), moment, latest_only)
    tuning = Tuning(level=check_level(compression), upload_rate=check_rate(limit_upload))
    read_rate = check_rate(limit_read)
    source = working(repository, "source", observer)
    bound = working(target, "target", observer)
    refuse_unknown(choice.domains, source)
    if points:
        named = [item if isinstance(item, Point) else source.points.select(item, hosts) for item in points]
        return _copy(source, bound, shard.of(choice.of(named)), tuning, read_rate, observer)
    chosen, damaged = unnamed_points(source, bound, choice, hosts)
    report = _copy(source, bound, shard.of(chosen), tuning, read_rate, observer)
    return replace(report, failed=(*damaged, *report.failed))
