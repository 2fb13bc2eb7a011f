"""A run and a prune that take turns, one switch or two, at any of their operations on the store."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta

from puller.errors import Overtaken
from puller.upkeep.pruning.prune import GRACE, prune
from tests.lab.history import Backup, back_up
from tests.lab.simulated import Process
from tests.upkeep.scene import ALL_KEPT, NOW, Scene

SWITCHES = ("put", "delete", "list")
"""Operations of prune before which a switch can matter: between them it only reads what nobody changes."""


class Held:
    """``work`` in a thread of its own, which can be held before one of its operations."""

    def __init__(self, process: Process, operation: int, work: Callable[[], object]) -> None:
        self._arrived = threading.Event()
        self._go_on = threading.Event()
        self._error: BaseException | None = None
        process.before[operation] = self._hold
        self._thread = threading.Thread(target=self._run, args=(work,), daemon=True)

    def _hold(self) -> None:
        self._arrived.set()
        self._go_on.wait()

    def _run(self, work: Callable[[], object]) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - finish() raises it
            self._error = error
        finally:
            self._arrived.set()

    @property
    def is_started(self) -> bool:
        return self._thread.ident is not None

    def start(self) -> None:
        """Go on until held, or to the end."""
        self._thread.start()
        self._arrived.wait()

    def finish(self) -> None:
        """Go on to the end."""
        self._go_on.set()
        self._thread.join()
        if self._error is not None:
            raise self._error


Play = Callable[[Scene], None]
"""What else happens at some moment."""


@dataclass
class Duel:
    """A scene in which a run is about to commit and a prune about to begin; each can be played many times.

    The run keeps its knowledge of the index and the records from when it began.
    """

    scene: Scene
    backup: Backup
    process: Process
    grace: timedelta

    def copy(self) -> Duel:
        """The same duel, not played yet. The run's process moves into the new world."""
        scene = self.scene.copy()
        self.process.world = scene.world
        self.process.operations.clear()
        self.process.before.clear()
        return Duel(scene, self.backup, self.process, self.grace)

    def commit(self) -> bool:
        """Whether the point came to be."""
        try:
            self.scene.commit(self.backup)
        except Overtaken:
            del self.scene.expected[self.backup.point.point]
            return False
        return True

    def pruner(self) -> tuple[Process, Callable[[], object]]:
        process, repository = self.scene.open()
        return process, lambda: prune(repository, ALL_KEPT, self.grace)


def prune_holds(duel: Duel) -> list[int]:
    """The operations at which prune can be held."""
    process, work = duel.copy().pruner()
    work()
    return [
        number
        for number, text in enumerate(process.operations)
        if text.startswith(SWITCHES) and " locks/" not in text
    ]


def commit_length(duel: Duel) -> int:
    """The number of operations of the commit."""
    played = duel.copy()
    played.commit()
    return len(played.process.operations)


def prune_first(duel: Duel, held_at: int, switch_at: int) -> tuple[Duel, bool]:
    """Prune up to an operation; the commit up to an operation; the rest of prune; the rest of the commit."""
    played = duel.copy()
    process, work = played.pruner()
    held = Held(process, held_at, work)
    held.start()
    played.process.before[switch_at] = held.finish
    committed = played.commit()
    held.finish()
    return played, committed


def commit_first(duel: Duel, held_at: int, switch_at: int) -> tuple[Duel, bool]:
    """The commit up to an operation; prune up to an operation; the rest of the commit; the rest of prune."""
    played = duel.copy()
    process, work = played.pruner()
    held = Held(process, held_at, work)
    played.process.before[switch_at] = held.start
    committed = played.commit()
    if held.is_started:
        held.finish()
    return played, committed


def outcomes(duel: Duel) -> Iterator[tuple[str, Duel, bool]]:
    """All games with two switches: what was played, how it stands, whether the point came to be."""
    for held_at in prune_holds(duel):
        for switch_at in range(commit_length(duel)):
            for play in (prune_first, commit_first):
                yield f"{play.__name__} {held_at} {switch_at}", *play(duel, held_at, switch_at)


# --- duels ------------------------------------------------------------------------------------


def history() -> Scene:
    """Points of some domains, from which some have been deleted: packs that are dead, half dead and live."""
    scene = Scene.new()
    first = [*range(1, 17)]
    second = [1, 101, 102, 103, 5, 104, 0, 106, *range(9, 17)]
    a1 = scene.back_up("a", first)
    a2 = scene.back_up("a", second, a1)
    scene.back_up("a", [107, *second[1:]], a2)
    scene.back_up("b", [9, 10, 201, 202])
    gone = scene.back_up("d", [*range(301, 309)])
    c1 = scene.back_up("c", [401, 402, 403, 404])
    scene.back_up("c", [401, 402, 403, 405], c1)
    scene.back_up("e", [0, 0, 0, 501])
    scene.delete(a1, gone)
    scene.wait(GRACE)
    return scene


def begin(scene: Scene) -> tuple[Process, Backup]:
    """A run that finds dead chunks through the index, is built upon a parent, and stores something new."""
    parent = next(point for point in scene.open()[1].points.all() if scene.expected[point.point][-1] == 405)
    process, repository = scene.open()
    disk = [2, 301, 601, 405]
    return process, back_up(repository, "c", disk, parent, scene.expected[parent.point])


def duel_at_once() -> Duel:
    """Nothing is condemned yet, and prune gives no grace."""
    scene = history()
    process, backup = begin(scene)
    return Duel(scene, backup, process, NOW)


def duel_when_due() -> Duel:
    """What the run refers to was condemned after it began, and the grace time is over."""
    scene = history()
    process, backup = begin(scene)
    scene.prune()
    scene.wait(GRACE)
    return Duel(scene, backup, process, GRACE)
