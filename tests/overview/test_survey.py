"""Machines read from a repository: what a wrong clock may not hide."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from puller.overview.report import MachineReport
from puller.overview.survey import Question, survey
from puller.repository import repository as repositories
from puller.repository.points import Point
from tests.lab.memory import MemoryStore
from tests.overview.making import a_chain, a_point

DAY = timedelta(days=1)
FIRST = datetime(2026, 11, 1, 5, tzinfo=UTC)


def surveyed(points: list[Point], now: datetime) -> MachineReport:
    repository = repositories.create(MemoryStore(), None)
    for point in points:
        repository.points.commit(point)
    (machine,) = survey([repository], Question(30), now).machines
    return machine


def test_a_point_of_a_wrong_clock_hides_nothing() -> None:
    points = a_chain(*(FIRST + day * DAY for day in range(8)))
    now = FIRST + 20 * DAY
    machine = surveyed([*points, a_point(FIRST + 400 * DAY, points[-1])], now)
    assert machine.status.late
    assert machine.status.last_point == points[-1].point
    assert machine.days[-1].state == "late"
    assert machine.volume.points == 9, "as 'points' and 'stats' count"


def test_a_clock_that_is_a_little_ahead_is_believed() -> None:
    points = a_chain(*(FIRST + day * DAY for day in range(8)))
    machine = surveyed(points, points[-1].time - timedelta(minutes=20))
    assert not machine.status.late
    assert machine.status.last_point == points[-1].point


def test_a_machine_all_of_whose_points_are_ahead_is_shown() -> None:
    points = a_chain(*(FIRST + day * DAY for day in range(8)))
    machine = surveyed(points, FIRST - 30 * DAY)
    assert (machine.status.last_point, machine.status.late) == (points[-1].point, False)
