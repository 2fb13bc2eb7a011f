"""Retention: which restore points a policy keeps. Pure.

The rules are those of restic and kopia. ``last`` keeps the newest points; ``hourly`` … ``yearly`` keep the
newest point of each of the newest hours … years that have any; ``within`` keeps all points no older than
this, counted from the newest. A point stays if any rule keeps it. The rules apply to each domain and host
separately, so that a copy of a domain on another host does not displace the original's points.

Hours, days, ISO weeks, months and years are those of UTC, so that all hosts that prune one repository
decide alike in any time zone, and no hour occurs twice or is skipped.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise

from puller.errors import NoSuchPoint, UsageError
from puller.repository.points import DiskRecord, Point, in_order
from puller.repository.selection import Scope
from puller.units import format_bytes, format_duration

NOT_OWN = "not of this job"
"""Reason for keeping a point that no rule covers."""

NOT_OF_HOST = "not of these hosts"
NOT_OF_DOMAIN = "not of these domains"
NOT_TAGGED = "without these tags"

LEAST_STAY = timedelta(days=30)
"""Least time that the last copy of a disk stays after the first point without the disk."""

_PERIODS = {
    "hourly": timedelta(hours=1),
    "daily": timedelta(days=1),
    "weekly": timedelta(weeks=1),
    "monthly": timedelta(days=31),
    "yearly": timedelta(days=366),
}

_Label = Callable[[datetime], str]
_Reasons = dict[str, list[str]]


@dataclass(frozen=True, slots=True)
class Policy:
    """The rules that say which points to keep. A point stays if any rule keeps it; without rules all stay.

    The rules apply to each domain and host separately. Periods are those of UTC.

    Attributes:
        last: Number of newest points to keep.
        hourly: Number of newest hours that have points, whose newest point stays.
        daily: The same for days.
        weekly: The same for ISO weeks.
        monthly: The same for months.
        yearly: The same for years.
        within: Keep all points no older than this, counted from the newest.
        scope: Apply the rules only to the points of one job; all others stay.
        hosts: Apply the rules only to points that these hosts took, names or patterns; all others stay.
        across_hosts: Judge a domain's points together, whichever host took them.
        domains: Apply the rules only to the points of these domains, names or UUIDs; all others stay.
        tags: Apply the rules only to points with one of these tags (``KEY=VALUE``, or ``KEY`` for any value).
        keep_tags: Keep all points with one of these tags. This is not a rule.
    """

    last: int | None = None
    hourly: int | None = None
    daily: int | None = None
    weekly: int | None = None
    monthly: int | None = None
    yearly: int | None = None
    within: timedelta | None = None
    scope: Scope | None = None
    hosts: tuple[str, ...] = ()
    across_hosts: bool = False
    domains: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    keep_tags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        counts = self.last, self.hourly, self.daily, self.weekly, self.monthly, self.yearly
        if any(count is not None and count < 1 for count in counts):
            raise UsageError(
                "a retention rule must keep at least 1 point", advice="Leave out rules that do not apply."
            )
        if self.within is not None and self.within < timedelta(0):
            raise UsageError("the time of a retention rule cannot be negative")

    @property
    def periods(self) -> Iterator[tuple[int, _Label]]:
        """Return the given rules for periods: their number, and the format of a period's name."""
        rules: tuple[tuple[int | None, _Label], ...] = (
            (self.hourly, "hourly {0:%Y-%m-%dT%H}Z".format),
            (self.daily, "daily {0:%Y-%m-%d}".format),
            (self.weekly, "weekly {0:%G-W%V}".format),
            (self.monthly, "monthly {0:%Y-%m}".format),
            (self.yearly, "yearly {0:%Y}".format),
        )
        return ((count, label) for count, label in rules if count is not None)

    @property
    def is_empty(self) -> bool:
        """Whether no rule is given."""
        rules = (self.last, self.hourly, self.daily, self.weekly, self.monthly, self.yearly, self.within)
        return all(rule is None for rule in rules)

    @property
    def reach(self) -> timedelta:
        """Return how far back from the newest point the longest rule reaches, at least LEAST_STAY."""
        spans: list[timedelta] = [
            span * min(count, timedelta.max // span)
            for name, span in _PERIODS.items()
            if (count := getattr(self, name)) is not None
        ]
        return max([LEAST_STAY, *spans, *([] if self.within is None else [self.within])])

    def judges(self, point: Point) -> bool:
        """Return whether the rules cover this point."""
        return self.exempts(point) is None

    def exempts(self, point: Point) -> str | None:
        """Return why the rules do not cover this point, or None."""
        if self.scope is not None and not self.scope.has(point):
            return NOT_OWN
        if self.domains and point.uuid not in self.domains:
            return NOT_OF_DOMAIN
        if self.tags and not tags_in(point, self.tags):
            return NOT_TAGGED
        return None if point.is_from(self.hosts) else NOT_OF_HOST

    def resolved(self, points: Iterable[Point]) -> Policy:
        """Return the policy with the UUIDs of its ``domains``. Raises NoSuchPoint if one has no points."""
        ordered = in_order(points)
        return replace(
            self, domains=tuple(uuid for word in self.domains for uuid in _machines(word, ordered))
        )


def tags_in(point: Point, tags: Iterable[str]) -> list[str]:
    """Return the ``tags`` that the point has."""
    own = {*point.tags, *(f"{key}={value}" for key, value in point.tags.items())}
    return [tag for tag in tags if tag in own]


def _machines(word: str, ordered: Sequence[Point]) -> Sequence[str]:
    """Return UUIDs of the domain ``word``: by current name or UUID, else by an earlier name."""
    newest = {point.uuid: point.domain for point in ordered}
    if word in newest:
        return [word]
    called = [uuid for uuid, name in newest.items() if name == word]
    found = called or list(dict.fromkeys(point.uuid for point in ordered if point.domain == word))
    if not found:
        raise NoSuchPoint(f"no restore point of domain '{word}'")
    return found


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether to keep one point, and why. ``domain`` and ``host`` are the names in the point's record."""

    point: str
    domain: str
    keep: bool
    reasons: tuple[str, ...]
    host: str = ""


def decide(points: Iterable[Point], policy: Policy) -> tuple[Decision, ...]:
    """Return a decision for each point, by domain and host, from the oldest to the newest.

    The ``domains`` of the policy are UUIDs: see ``Policy.resolved``.
    """
    domains: Mapping[tuple[str, str], list[Point]] = defaultdict(list)
    for point in points:
        domains[point.uuid, "" if policy.across_hosts else point.host].append(point)
    return tuple(
        decision
        for key in sorted(domains, key=lambda key: (domains[key][0].domain, key))
        for decision in _decide(domains[key], policy)
    )


def _decide(points: Iterable[Point], policy: Policy) -> Iterator[Decision]:
    ordered = in_order(points)
    reasons: _Reasons = defaultdict(list)
    for point in ordered:
        if policy.is_empty:
            reasons[point.point].append("no rule given")
        elif (exempt := policy.exempts(point)) is not None:
            reasons[point.point].append(exempt)
        else:
            for tag in tags_in(point, policy.keep_tags):
                reasons[point.point].append(f"tag {tag}")
    _judge([point for point in reversed(ordered) if policy.judges(point)], policy, reasons)
    for point in ordered:
        why = tuple(reasons.get(point.point, ("no rule keeps it",)))
        yield Decision(point.point, point.domain, point.point in reasons, why, point.host)


def _judge(newest_first: Sequence[Point], policy: Policy, reasons: _Reasons) -> None:
    if not newest_first:
        return
    _keep_newest(newest_first, policy, reasons)
    _keep_last(newest_first, policy, reasons)
    for count, label in policy.periods:
        _keep_periods(newest_first, count, label, reasons)


def _keep_newest(points: Sequence[Point], policy: Policy, reasons: _Reasons) -> None:
    """Always keep the newest point, and for some time the newest point that has each disk.

    A point need not have all disks of its domain. The last copy of a disk stays, after the first point
    without it, for as long as the longest rule reaches.
    """
    reasons[points[0].point].append("newest of its domain")
    seen = {disk.disk for disk in points[0].disks}
    for after, point in pairwise(points):
        fresh = [disk for disk in point.disks if disk.disk not in seen]
        seen.update(disk.disk for disk in fresh)
        if fresh and (policy.is_empty or points[0].time - after.time <= policy.reach):
            reasons[point.point].append(_last_copy(fresh, None if policy.is_empty else after.time, policy))


def _last_copy(disks: Sequence[DiskRecord], missed: datetime | None, policy: Policy) -> str:
    """Return why the newest point with ``disks`` stays, its size, and until when it stays."""
    added = format_bytes(sum(disk.stored_bytes for disk in disks))
    names = ", ".join(disk.disk for disk in disks)
    if missed is None:
        return f"newest with {names}"
    return f"newest with {names} ({added} added; stays until {_plus(missed, policy.reach):%Y-%m-%d})"


def _plus(moment: datetime, span: timedelta) -> datetime:
    """Return the sum, or the end of the calendar."""
    end = datetime.max.replace(tzinfo=UTC)
    return end if span > end - moment else moment.astimezone(UTC) + span


def _keep_last(points: Sequence[Point], policy: Policy, reasons: _Reasons) -> None:
    for place, point in enumerate(points[: policy.last or 0], 1):
        reasons[point.point].append(f"last {place}")
    if policy.within is not None:
        for point in points:
            if points[0].time - point.time <= policy.within:
                reasons[point.point].append(f"within {format_duration(policy.within)} of the newest")


def _keep_periods(points: Sequence[Point], count: int, label: _Label, reasons: _Reasons) -> None:
    """Keep the newest point of each of the ``count`` newest periods that have one."""
    seen: set[str] = set()
    for point in points:
        period = label(point.time.astimezone(UTC))
        if period in seen:
            continue
        seen.add(period)
        reasons[point.point].append(period)
        if len(seen) == count:
            return
