"""A short exercise of a store, and what it finds."""

from __future__ import annotations

from collections.abc import Callable

from puller.diagnosis.exercise.exercise import ExerciseReport, exercise
from puller.diagnosis.exercise.plan import Plan
from puller.diagnosis.finding import Status
from puller.store.base import Store
from puller.units import MIB

SMALL = Plan(size=16 * MIB)


def faults(report: ExerciseReport) -> dict[str, str]:
    """Status and text of each finding with a fault, by name. Each has one sentence of advice."""
    found = [finding for finding in report.findings if finding.status is not Status.OK]
    assert all(finding.advice.endswith(".") for finding in found)
    return {finding.name: f"{finding.status.value}: {finding.text}" for finding in found}


def tried(store: Store, plan: Plan = SMALL, told: Callable[[str], object] = str) -> ExerciseReport:
    return exercise(store, None, plan, told)
