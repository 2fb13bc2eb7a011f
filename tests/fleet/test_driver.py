"""The driver: what is tried again, what ends it, and what becomes of tasks whose worker is gone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field

import pytest

from puller.cancelling import CancelScope
from puller.errors import DamagedData, FleetLost, Locked, PullerError, StoreDenied, WrongKey
from puller.events import Event, Notice, ignore
from puller.fleet import driver as driving
from puller.fleet.driver import TRIES, Driver
from puller.fleet.engine import Work
from puller.fleet.task import Answer, Place, Task


@dataclass(frozen=True, slots=True)
class Numbered(Task):
    number: int


class Broken(Exception):
    """What an engine raises when it is gone."""


@dataclass
class Engine:
    """Runs a task when it is submitted. ``dies`` says of a task whether its worker dies."""

    dies: Callable[[int], bool] = lambda _: False
    takes_all: bool = True
    width: int = 2
    submitted: list[int] = field(default_factory=list)
    restarts: int = 0

    def submit(self, work: Work, task: Task) -> Future[Answer]:
        assert isinstance(task, Numbered)
        self.submitted.append(task.number)
        future: Future[Answer] = Future()
        if self.dies(task.number):
            future.set_exception(Broken("a worker was killed"))
        elif self.width:
            future.set_result(work(task))
        return future

    def is_lost(self, error: BaseException) -> bool:
        return self.takes_all

    def restart(self) -> None:
        self.restarts += 1

    def close(self) -> None:
        """Nothing runs."""


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driving, "PAUSE", 0.0)
    monkeypatch.setattr(driving, "_STEP", 0.01)


def tasks(count: int) -> Iterator[Numbered]:
    return (Numbered(Place("/x", "id"), number) for number in range(count))


def run(engine: Engine, work: Callable[[Numbered], Answer], count: int = 9) -> list[int]:
    driver: Driver[Numbered] = Driver(engine, work, CancelScope(), ignore)
    return sorted(task.number for task, _ in driver.run(tasks(count)))


def failing(errors: dict[int, list[PullerError]]) -> Callable[[Numbered], Answer]:
    """Work that fails with these errors, one after the other."""

    def work(task: Numbered) -> Answer:
        left = errors.get(task.number)
        return Answer(error=left.pop(0)) if left else Answer(task.number)

    return work


def test_every_task_is_answered_once() -> None:
    engine = Engine()
    assert run(engine, failing({})) == list(range(9))
    assert sorted(engine.submitted) == list(range(9))


def test_a_lock_is_tried_again() -> None:
    engine = Engine()
    assert run(engine, failing({3: [Locked("a prune is running"), Locked("still")]})) == list(range(9))
    assert engine.submitted.count(3) == 3


def test_a_lock_that_does_not_go_away_ends_the_run() -> None:
    with pytest.raises(Locked):
        run(Engine(), failing({3: [Locked("a prune is running")] * TRIES}))


@pytest.mark.parametrize("error", [DamagedData("x"), WrongKey("x"), StoreDenied("x")])
def test_what_no_retry_changes_ends_the_run_at_once(error: PullerError) -> None:
    engine = Engine()
    with pytest.raises(type(error)):
        run(engine, failing({3: [error]}))
    assert engine.submitted.count(3) == 1


def test_a_result_with_an_error_is_a_result_in_the_end() -> None:
    """Such as a machine that cannot be drilled."""

    def work(task: Numbered) -> Answer:
        return Answer(task.number, Locked("the machine is being drilled") if task.number == 3 else None)

    engine = Engine()
    assert run(engine, work) == list(range(9))
    assert engine.submitted.count(3) == TRIES


@pytest.mark.parametrize("takes_all", [True, False])
def test_the_tasks_of_a_worker_that_died_are_submitted_again(takes_all: bool) -> None:
    died: list[int] = []

    def dies(number: int) -> bool:
        died.append(number)
        return number == 4 and died.count(4) <= 2

    engine = Engine(dies, takes_all)
    told: list[Event] = []
    driver: Driver[Numbered] = Driver(engine, failing({}), CancelScope(), told.append)
    assert sorted(task.number for task, _ in driver.run(tasks(9))) == list(range(9))
    assert engine.restarts == (2 if takes_all else 0)
    assert any("workers are lost" in event.text for event in told if isinstance(event, Notice))


def test_a_task_that_kills_every_worker_ends_the_run() -> None:
    engine = Engine(lambda number: number == 4)
    with pytest.raises(FleetLost, match="has lost its worker"):
        run(engine, failing({}))
    assert engine.submitted.count(4) == TRIES


def test_a_cluster_without_workers_is_given_up() -> None:
    engine = Engine(width=0)
    moments = iter(range(0, 100_000, 100))
    driver: Driver[Numbered] = Driver(
        engine, failing({}), CancelScope(), ignore, clock=lambda: float(next(moments))
    )
    with pytest.raises(FleetLost, match="no worker was there"):
        list(driver.run(tasks(3)))
