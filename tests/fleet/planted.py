"""Faults put into puller on purpose, each one that a fleet's life has to show."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from datetime import date, timedelta
from typing import Any

import pytest
from msgspec import structs

from puller.overview import calendar, interval, machine, report
from puller.repository.points import Point
from puller.repository.reading import difference
from puller.repository.records.proofs import Proof
from puller.upkeep.copying import copypoint
from puller.upkeep.retention import policy as retention
from puller.upkeep.retention.policy import Decision, Policy

Plant = Callable[[pytest.MonkeyPatch], None]

_DAY = timedelta(days=1)


def prune_drops_a_kept_point_of_the_target(patch: pytest.MonkeyPatch) -> None:
    """Where no job is named, the newest point of the oldest week goes, too."""
    real = retention.decide

    def decide(points: Iterable[Point], policy: Policy) -> tuple[Decision, ...]:
        rules = policy if policy.scope else replace(policy, weekly=None, monthly=None, daily=2)
        return real(points, rules)

    patch.setattr("puller.upkeep.pruning.prune.decide", decide)


def a_missed_day_counts_as_backed_up(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(calendar, "_absent", lambda day, gone, late: "kept" if day in late else "unknown")


def late_ends_with_the_month(patch: pytest.MonkeyPatch) -> None:
    """Days are counted on by their number in the month."""

    def days(first: date, last: date) -> Iterator[date]:
        while first.month == last.month and first.day <= last.day:
            yield first
            first += _DAY

    patch.setattr(calendar, "_days", days)


def copy_skips_a_changed_page(patch: pytest.MonkeyPatch) -> None:
    real = difference.compare_maps

    def compare(*maps: Any) -> Any:
        changes = real(*maps)
        if len(changes.pages) > 1:
            del changes.pages[max(changes.pages)]
        return changes

    patch.setattr(copypoint, "compare_maps", compare)


def a_drill_that_failed_counts_as_a_proof(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(machine, "_is_proven", lambda point, proofs: point.point in proofs)


def a_parent_is_taken_for_the_point_before(patch: pytest.MonkeyPatch) -> None:
    """A machine that is off is taken from an old point each night."""
    real = interval._gap

    def gap(before: Point | None, point: Point) -> Any:
        return real(before, structs.replace(point, previous=point.parent))

    patch.setattr(interval, "_gap", gap)


def a_host_is_silent_if_any_machine_is_late(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(report.HostReport, "is_silent", property(lambda host: host.late > 0))


def copies_come_back(patch: pytest.MonkeyPatch) -> None:
    """What the target's own rules have removed is copied again each night, and counts as new there."""

    def lacking(target: Any, names: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
        known = set(target.points.names())
        return [name for name in names if name not in known]

    patch.setattr("puller.upkeep.copying.copy.never_held", lacking)


def the_first_drill_counts(patch: pytest.MonkeyPatch) -> None:
    """Of two verdicts on a point, the older one."""
    real = machine.machine_of

    def oldest(points: Any, proofs: dict[str, Proof], *rest: Any) -> Any:
        first = min(proofs.items(), key=lambda item: item[1].time, default=None)
        return real(points, dict([first]) if first else proofs, *rest)

    patch.setattr("puller.overview.survey.machine_of", oldest)


PLANTED: dict[str, Plant] = {
    "prune drops a kept point of the target": prune_drops_a_kept_point_of_the_target,
    "a missed day counts as backed up": a_missed_day_counts_as_backed_up,
    "late ends with the month": late_ends_with_the_month,
    "copy skips a changed page": copy_skips_a_changed_page,
    "a drill that failed counts as a proof": a_drill_that_failed_counts_as_a_proof,
    "a parent is taken for the point before": a_parent_is_taken_for_the_point_before,
    "a host is silent if any machine is late": a_host_is_silent_if_any_machine_is_late,
    "copies come back": copies_come_back,
    "the first drill counts": the_first_drill_counts,
}
