"""Restore drills of many points, a few at once, each with its verdict stored."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait  # noqa: TID251 - drills clean up, so they are waited for
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from puller.cancelling import find_stop
from puller.configuration.evidence import COMMAND
from puller.errors import CannotDrill, NoSuchPoint, UsageError
from puller.events import Event, Notice, Observer
from puller.hypervisor.connection import Host
from puller.recovery.proving.drill import Conditions, drill
from puller.recovery.proving.workplace import clear_leftovers
from puller.repository.points import Point
from puller.repository.records.proofs import Proof
from puller.repository.repository import Repository


@dataclass(frozen=True, slots=True)
class HeldDrill:
    """A drill that was held: the point, and the verdict, which is stored in the repository."""

    point: Point
    proof: Proof


@dataclass
class Drills:
    """Results of drills.

    Attributes:
        held: The drills that were held, in the order of their ends.
        failed: The domains for which no drill could be held, each with its error.
        interruption: What stopped the drills early, such as a KeyboardInterrupt; None if nothing did.
    """

    held: list[HeldDrill] = field(default_factory=list)
    failed: list[tuple[str, BaseException]] = field(default_factory=list)
    interruption: BaseException | None = None

    @property
    def unproven(self) -> list[HeldDrill]:
        """The drills whose machines did not start."""
        return [drill for drill in self.held if drill.proof.verdict == "failed"]


ConditionsOf = Callable[[Point], Conditions]
"""Returns the conditions of a point's drill."""


def newest_points(points: Iterable[Point]) -> list[Point]:
    """Return the newest point of each domain that has disks; ``points`` are the oldest first."""
    return list({point.uuid: point for point in points if point.disks}.values())


def longest_ago(repository: Repository, points: Iterable[Point]) -> list[Point]:
    """Return the points in order: first those whose domains never had a drill, then the longest ago.

    By the store's clock; of equals, the names decide.
    """
    times = repository.proofs.times()
    return sorted(points, key=lambda point: (times.get(point.uuid, 0.0), point.domain, point.uuid))


def not_since(repository: Repository, points: Iterable[Point], age: timedelta) -> list[Point]:
    """Return the points of the domains that had no drill for ``age``, by the store's clock."""
    times, now = repository.proofs.times(), repository.verified.now()
    return [point for point in points if times.get(point.uuid, 0.0) <= now - age.total_seconds()]


def choose(repository: Repository, words: Sequence[str | Point], hosts: Collection[str]) -> list[Point]:
    """Return the points that ``words`` name: points, or domains, whose newest is meant; without any, all.

    Raises NoSuchPoint, AmbiguousPoint, DamagedData.
    """
    if not words:
        return newest_points(point for point in repository.points.all() if point.is_from(hosts))
    return list({point.point: point for point in (_find(repository, word, hosts) for word in words)}.values())


def _find(repository: Repository, word: str | Point, hosts: Collection[str]) -> Point:
    if isinstance(word, Point):
        return word
    if "@" not in word and repository.points.of(word, lambda _, __: None):
        word = f"{word}@latest"
    try:
        return repository.points.select(word, hosts)
    except NoSuchPoint as error:
        if "@" in word:
            raise
        raise NoSuchPoint(f"no domain and no restore point '{word}'") from error


def prove(  # noqa: PLR0913, PLR0917 - what a series of drills is made of
    repository: Repository,
    points: Sequence[Point],
    conditions_of: ConditionsOf,
    parallel: int,
    observer: Observer,
    count: int | None = None,
) -> Drills:
    """Hold a drill of each of the ``points``, ``parallel`` of them at once, and store the verdicts.

    With ``count``, hold so many, in the order of the points. A machine that cannot be drilled gets no verdict
    and stays the first of the next night too: it must not take the turn of the others.

    Nothing is left on this host, also of earlier drills that were killed. A point whose drill cannot be held
    does not stop the others. A signal stops all. Raises UsageError before anything is started.
    """
    conditions = {point.point: conditions_of(point) for point in points}
    for one in conditions.values():
        _require_program(one)
    run = _Run(repository, observer)
    run.clear(conditions.values())
    waiting, left = list(points), len(points) if count is None else count
    while waiting and left > 0 and run.results.interruption is None:
        some, waiting = waiting[:left], waiting[left:]
        left -= len(some) - run.hold(some, conditions, parallel)
    return run.results


def _require_program(conditions: Conditions) -> None:
    evidence = conditions.evidence
    if evidence is None or evidence.kind != COMMAND:
        return
    if not Path(evidence.value).is_file() or not os.access(evidence.value, os.X_OK):
        raise UsageError(
            f"cannot run {evidence.value}: it is not an executable file",
            advice="Name an executable program for the evidence.",
        )


class _Run:
    def __init__(self, repository: Repository, observer: Observer) -> None:
        self._scope = repository.scope.child()
        self._repository = repository.within(self._scope)
        self._observer = observer
        self.results = Drills()

    def clear(self, conditions: Iterable[Conditions]) -> None:
        for connect, directory in sorted({(one.connect, one.directory) for one in conditions}):
            with Host.connect(connect, self._scope) as host:
                count = clear_leftovers(directory, host)
            if count:
                text = f"removed what killed drills had left in {directory}: {count}"
                self._observer(Notice("repository", text))

    def hold(self, points: Sequence[Point], conditions: dict[str, Conditions], parallel: int) -> int:
        """Hold their drills, and return how many of the machines cannot be drilled."""
        before = len(self.results.failed)
        if parallel == 1 or len(points) < 2:
            self.one_by_one(points, conditions)
        else:
            self.at_once(points, conditions, parallel)
        failed = [error for _, error in self.results.failed[before:]]
        return sum(isinstance(error, CannotDrill | UsageError) for error in failed)

    def one_by_one(self, points: Sequence[Point], conditions: dict[str, Conditions]) -> None:
        """Hold them in the calling thread, which receives signals."""
        for point in points:
            self._hold(point, conditions[point.point])
            if self.results.interruption is not None:
                return

    def at_once(self, points: Sequence[Point], conditions: dict[str, Conditions], parallel: int) -> None:
        """Hold them in threads. The calling thread waits and receives signals."""
        with ThreadPoolExecutor(parallel, thread_name_prefix="drill") as pool:
            futures: list[Future[None]] = []
            try:
                futures.extend(pool.submit(self._hold, point, conditions[point.point]) for point in points)
                wait(futures)
            except BaseException as error:  # noqa: BLE001 - the threads have to clean up after any exception
                self.results.interruption = error
                for future in futures:
                    future.cancel()
                self._scope.cancel()

    def _hold(self, point: Point, conditions: Conditions) -> None:
        try:
            with Host.connect(conditions.connect, self._scope) as host:
                proof = drill(self._repository, point, conditions, host, self._observe)
            self._repository.proofs.put((point.uuid, point.point), proof)
        except BaseException as error:  # noqa: BLE001 - one that cannot be held must not stop the others
            self.results.failed.append((point.domain, error))
            self.results.interruption = self.results.interruption or find_stop(error)
        else:
            self.results.held.append(HeldDrill(point, proof))

    def _observe(self, event: Event) -> None:
        """Stop a drill by an error of its observer; it then cleans up as after any other error."""
        self._scope.check()
        self._observer(event)
