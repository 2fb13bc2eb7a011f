"""Machines whose drills and copies the workers of a fleet do: one machine in a task."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from puller.errors import CannotDrill, RepositoryError, UsageError
from puller.events import DiskDone, DiskPlanned, DiskProgress, Observer
from puller.fleet.driver import Driver
from puller.fleet.engine import Engine, Work
from puller.fleet.task import CopyTask, DrillTask, Place, Task
from puller.recovery.proving.prove import Drills
from puller.repository.points import Point
from puller.repository.repository import Repository
from puller.upkeep.copying.copy import CopyReport, refuse

T = TypeVar("T", bound=Task)


def place_of(repository: Repository) -> Place:
    """Return what a worker needs to find the repository."""
    return Place(repository.store.url, repository.id)


def prove_in_shards(  # noqa: PLR0913, PLR0917 - drills, and who holds them
    repository: Repository,
    points: Sequence[Point],
    count: int | None,
    choices: Mapping[str, Any],
    observer: Observer,
    engine: Engine,
    work: Work,
) -> tuple[Drills, int]:
    """Hold drills of the points as ``puller.prove`` does, each on a worker.

    ``count`` and ``choices`` are as there. Returns the results and the number of tasks.
    """
    found = Drills()
    waiting, left, tasks = list(points), len(points) if count is None else count, 0
    while waiting and left > 0:
        some, waiting = waiting[:left], waiting[left:]
        driver: Driver[DrillTask] = Driver(engine, work, repository.scope, observer)
        orders = [DrillTask(place_of(repository), point.point, point.domain, choices) for point in some]
        before = len(found.failed)
        for result in _results(driver, orders, observer):
            found.held += result.held
            found.failed += result.failed
        failed = [error for _, error in found.failed[before:]]
        left -= len(some) - sum(isinstance(error, CannotDrill | UsageError) for error in failed)
        tasks += driver.count
    return found, tasks


def copy_in_shards(  # noqa: PLR0913, PLR0917 - a copy, and who makes it
    repository: Repository,
    target: Repository,
    points: Sequence[Point],
    files: tuple[str | None, str | None],
    choices: Mapping[str, Any],
    observer: Observer,
    engine: Engine,
    work: Work,
) -> tuple[CopyReport, int]:
    """Copy the points as ``puller.copy_points`` does, those of each machine on one worker.

    ``files`` are the names of a password file and a key file of the target, on the workers. Returns the
    report and the number of tasks.
    """
    refuse(repository, target)
    machines: dict[str, list[Point]] = {}
    for point in points:
        machines.setdefault(point.uuid, []).append(point)
    driver: Driver[CopyTask] = Driver(engine, work, repository.scope, observer)
    orders = [
        CopyTask(
            place_of(repository),
            tuple(point.point for point in some),
            place_of(target),
            *files,
            choices,
        )
        for some in machines.values()
    ]
    reports: list[CopyReport] = list(_results(driver, orders, observer))
    return _joined(reports, points), driver.count


def _joined(reports: Sequence[CopyReport], points: Sequence[Point]) -> CopyReport:
    """Return one report, in the order of the points."""
    order = {point.point: number for number, point in enumerate(points)}
    copied = [item for report in reports for item in report.copied]
    failed: list[tuple[str, RepositoryError]] = [item for report in reports for item in report.failed]
    return CopyReport(
        tuple(sorted(copied, key=lambda item: order[item.point])),
        tuple(sorted((name for report in reports for name in report.present), key=lambda name: order[name])),
        tuple(sorted(failed, key=lambda item: order[item[0]])),
    )


def _results(driver: Driver[T], tasks: Sequence[T], observer: Observer) -> Iterator[Any]:
    observer(DiskPlanned("repository", "machines", len(tasks), len(tasks)))
    for done, (_, answer) in enumerate(driver.run(iter(tasks)), 1):
        observer(DiskProgress("repository", "machines", done, done, 0))
        yield answer.result
    observer(DiskDone("repository", "machines"))
