"""Prune killed at any of its operations, and random histories of runs and prunes that die and go on."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta

import pytest

from puller.errors import Locked, Overtaken
from puller.repository.collecting.lease import EXPIRY
from puller.repository.points import Point
from puller.upkeep.pruning.prune import GRACE, prune
from puller.upkeep.retention.policy import Policy
from tests.lab.history import MOMENT, Backup, back_up
from tests.lab.simulated import Died
from tests.upkeep.interleaving import history
from tests.upkeep.scene import ALL_KEPT, NOW, Scene

KEEP_ONE = Policy(last=1)


def _due() -> Scene:
    """Whole packs and parts of packs are condemned, and the grace time is over."""
    scene = history()
    scene.prune()
    scene.wait(GRACE)
    return scene


@pytest.mark.parametrize(("make_scene", "grace"), [(history, NOW), (_due, GRACE)], ids=["at once", "due"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_prune_dies_at_each_operation(make_scene: Callable[[], Scene], grace: timedelta, when: str) -> None:
    """``after`` a put or delete means that it took effect, and nothing else did."""
    start = make_scene()
    for number in _operations(start.copy(), grace):
        scene = start.copy()
        process, repository = scene.open()
        getattr(process, when)[number] = process.die
        try:
            prune(repository, ALL_KEPT, grace)
        except Died:
            pass
        else:
            assert when == "after", "only a put or a delete has an after"
        assert scene.faults() == [], process.operations[-1]
        scene.wait(timedelta(seconds=EXPIRY))
        scene.prune(grace)
        scene.wait(GRACE)
        scene.prune(grace)
        assert scene.faults() == scene.waste() == [], process.operations[-1]


def _operations(scene: Scene, grace: timedelta) -> range:
    process, repository = scene.open()
    report = prune(repository, ALL_KEPT, grace)
    assert report.packs_deleted
    assert report.packs_compacted
    return range(len(process.operations))


def test_a_prune_that_dies_while_it_removes_points_removes_only_those() -> None:
    start = Scene.new()
    points = [
        start.back_up("a", [number, 99], moment=MOMENT + timedelta(days=number)) for number in range(1, 5)
    ]
    process, repository = start.copy().open()
    prune(repository, KEEP_ONE)
    for number in range(len(process.operations)):
        scene = start.copy()
        process, repository = scene.open()
        process.before[number] = process.die
        with suppress(Died):  # not the order of operations, but their number is the same each time
            prune(repository, KEEP_ONE)
        left = {point.point for point in scene.open()[1].points.all()}
        assert points[-1].point in left
        for point in points:
            if point.point not in left:
                del scene.expected[point.point]
        assert scene.faults() == []


class _World:
    """A repository that many hosts write to, prune, and crash in, as a seed has it."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.scene = Scene.new()
        self.points: list[Point] = []
        self.runs: list[Backup] = []
        self.told: list[str] = []

    def step(self) -> None:
        actions = (
            [self.begin] * 4 + [self.commit] * 4 + [self.delete] * 2 + [self.prune] * 5 + [self.wait] * 4
        )
        action = self.random.choice(actions)
        self.told.append(action.__name__)
        action()

    def begin(self) -> None:
        domain = self.random.choice("abc")
        disk = [self.random.randrange(24) for _ in range(6)]
        parents = [point for point in self.points if point.domain == domain]
        parent = self.random.choice([*parents, None])
        before = self.scene.expected[parent.point] if parent else None
        if before is not None:
            disk = [self.random.choice(pair) for pair in zip(before, disk, strict=True)]
        title = self.random.choice("xyz")
        self.runs.append(back_up(self.scene.open()[1], domain, disk, parent, before, title))

    def commit(self) -> None:
        if not self.runs:
            return
        backup = self.runs.pop(self.random.randrange(len(self.runs)))
        try:
            self.points.append(self.scene.commit(backup))
        except Overtaken:
            del self.scene.expected[backup.point.point]

    def delete(self) -> None:
        if self.points:
            self.scene.delete(self.points.pop(self.random.randrange(len(self.points))))

    def prune(self) -> None:
        process, repository = self.scene.open()
        if self.random.random() < 0.4:
            moments = self.random.choice([process.before, process.after])
            moments[self.random.randrange(70)] = process.die
        with suppress(Died, Locked):
            prune(repository, ALL_KEPT, self.random.choice([NOW, GRACE, GRACE / 2]))

    def wait(self) -> None:
        self.scene.wait(self.random.choice([timedelta(minutes=20), GRACE / 2, GRACE, timedelta(days=15)]))


@pytest.mark.parametrize("seed", range(25))
def test_random_histories(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    world = _World(seed)
    monkeypatch.setattr("puller.repository.writing.claims._now", lambda: world.scene.world.now)
    for _ in range(40):
        world.step()
        assert world.scene.faults() == [], world.told
    world.scene.settle()
    assert world.scene.faults() == world.scene.waste() == [], world.told
