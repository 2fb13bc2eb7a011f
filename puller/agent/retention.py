"""Retention: which restore points a policy keeps. Pure.

The rules are those of restic and kopia. ``last`` keeps the newest points; ``hourly`` … ``yearly`` keep the
newest point of each of the newest hours … years that have any; ``within`` keeps what is at most that much
older than the newest point. A point stays if any rule keeps it. Each domain is judged by itself.

Hours, days, ISO weeks, months and years are those of UTC, so that all hosts that prune one repository
decide alike, whatever their zone, and no hour comes twice or not at all.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from puller.agent.selection import Scope
from puller.errors import UsageError
from puller.repository.points import Point, in_order

NOT_OWN = "not of this job"
"""Why a point stays that the rules are not for."""

_Label = Callable[[datetime], str]
_Reasons = dict[str, list[str]]


@dataclass(frozen=True, slots=True)
class Policy:
    """What to keep in each domain; None for a rule that is not given. Without any rule all is kept.

    With a ``scope`` the rules are for the points of one job: all others stay.
    """

    last: int | None = None
    hourly: int | None = None
    daily: int | None = None
    weekly: int | None = None
    monthly: int | None = None
    yearly: int | None = None
    within: timedelta | None = None
    scope: Scope | None = None

    def __post_init__(self) -> None:
        counts = self.last, self.hourly, self.daily, self.weekly, self.monthly, self.yearly
        if any(count is not None and count < 1 for count in counts):
            raise UsageError(
                "a retention rule keeps 1 point or more", advice="Leave out rules that do not apply."
            )
        if self.within is not None and self.within < timedelta(0):
            raise UsageError("a retention rule cannot keep points within a negative time")

    @property
    def periods(self) -> Iterator[tuple[int, _Label]]:
        """The rules that are given for periods: how many, and what names the period of a time."""
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
        return self == Policy(scope=self.scope)

    def judges(self, point: Point) -> bool:
        """Whether the rules are for this point."""
        return self.scope is None or self.scope.has(point)


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of one point, and why. ``domain`` is the name that the point gives."""

    point: str
    domain: str
    keep: bool
    reasons: tuple[str, ...]


def decide(points: Iterable[Point], policy: Policy) -> tuple[Decision, ...]:
    """A decision for each point, by domain and from the oldest to the newest."""
    domains: Mapping[str, list[Point]] = defaultdict(list)
    for point in points:
        domains[point.uuid].append(point)
    return tuple(
        decision
        for uuid in sorted(domains, key=lambda uuid: (domains[uuid][0].domain, uuid))
        for decision in _decide(domains[uuid], policy)
    )


def _decide(points: Iterable[Point], policy: Policy) -> Iterator[Decision]:
    ordered = in_order(points)
    reasons: _Reasons = defaultdict(list)
    for point in ordered:
        if policy.is_empty or not policy.judges(point):
            reasons[point.point].append("no rule given" if policy.is_empty else NOT_OWN)
    _judge([point for point in reversed(ordered) if policy.judges(point)], policy, reasons)
    for point in ordered:
        why = tuple(reasons.get(point.point, ("no rule keeps it",)))
        yield Decision(point.point, point.domain, point.point in reasons, why)


def _judge(newest_first: Sequence[Point], policy: Policy, reasons: _Reasons) -> None:
    if not newest_first:
        return
    _keep_newest(newest_first, reasons)
    _keep_last(newest_first, policy, reasons)
    for count, label in policy.periods:
        _keep_periods(newest_first, count, label, reasons)


def _keep_newest(points: Sequence[Point], reasons: _Reasons) -> None:
    """The newest point stays, and the newest that has each disk, whatever the policy says.

    A point need not have all disks of its domain. The last copy of a disk is not for a rule to remove;
    and a run that is under way is built upon the newest point that has the disk.
    """
    reasons[points[0].point].append("newest of its domain")
    seen = {disk.disk for disk in points[0].disks}
    for point in points[1:]:
        fresh = [disk.disk for disk in point.disks if disk.disk not in seen]
        seen.update(fresh)
        if fresh:
            reasons[point.point].append(f"newest with {', '.join(fresh)}")


def _keep_last(points: Sequence[Point], policy: Policy, reasons: _Reasons) -> None:
    for place, point in enumerate(points[: policy.last or 0], 1):
        reasons[point.point].append(f"last {place}")
    if policy.within is not None:
        for point in points:
            if points[0].time - point.time <= policy.within:
                reasons[point.point].append(f"within {policy.within} of the newest")


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
