"""Points copied to another repository, the oldest first, so that each builds on the one before it.

The source is only read. If prune deletes a point there while it is copied, its data stays readable for the
grace time; after that the copy fails, because a chunk is missing, and publishes nothing. In the target a copy
is a run like that of a backup: prune may work beside it (docs/format.md, "Write order").
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from msgspec import structs

from puller.errors import (
    DamagedData,
    KeyNotHeld,
    NoSuchPoint,
    Overtaken,
    PartialFailure,
    PullerError,
    RepositoryError,
    UsageError,
)
from puller.events import Committed, Notice, Observer, Step
from puller.repository.format.sealing import Cipher
from puller.repository.points import Point, Points, in_order
from puller.repository.repository import Repository
from puller.repository.selection import Scope, is_pattern, is_uuid, select
from puller.repository.writing.run import Tuning
from puller.upkeep.copying.copypoint import PointCopy
from puller.upkeep.copying.counterparts import Counterparts, Pair, never_held, origin
from puller.upkeep.copying.republish import republished


@dataclass(frozen=True, slots=True)
class CopiedPoint:
    """A point that was copied.

    Attributes:
        point: The id of the point, the same in both repositories.
        chunks_sent: Chunks that the target did not have.
        bytes_sent: Bytes of these and of the point's maps as they were stored.
        seconds: How long it took.
    """

    point: str
    chunks_sent: int
    bytes_sent: int
    seconds: float


@dataclass(frozen=True, slots=True)
class CopyReport:
    """What a copy did.

    Attributes:
        copied: The points that were copied, in the order in which they were taken.
        present: Ids of the points that the target had already.
        failed: Ids of the points that could not be copied, each with its error.
    """

    copied: tuple[CopiedPoint, ...]
    present: tuple[str, ...]
    failed: tuple[tuple[str, RepositoryError], ...]

    @property
    def error(self) -> PullerError | None:
        """The error of the points that failed; None if none did. Damage takes precedence."""
        errors = [error for _, error in self.failed]
        if len(errors) < 2:
            return errors[0] if errors else None
        first = next((error for error in errors if isinstance(error, DamagedData)), errors[0])
        said = f"{len(errors)} restore points were not copied; the first: {first.message}"
        is_partial = self.copied and not isinstance(first, DamagedData)
        return (PartialFailure if is_partial else type(first))(said, advice=first.advice)


@dataclass(frozen=True, slots=True)
class Choice:
    """The points to copy: those of ``domains``, with all ``tags``, not before ``since``.

    Domains are names, patterns or UUIDs. With ``own``, only a job's own points count. With ``latest_only``,
    only the newest of these points of each machine on each host counts.
    """

    domains: tuple[str, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    since: datetime | None = None
    latest_only: bool = False
    own: Scope | None = None

    def of(self, points: Iterable[Point]) -> list[Point]:
        """Return those of the ``points`` that are meant, oldest first."""
        found = in_order(point for point in points if self._has(point))
        if not self.latest_only:
            return found
        newest = {(point.uuid, point.host): point for point in found}
        return [point for point in found if newest[point.uuid, point.host] is point]

    def _has(self, point: Point) -> bool:
        return (
            (not self.domains or point.domain in select({point.domain: point.uuid}, self.domains, ()))
            and all(point.tags.get(name) == value for name, value in self.tags.items())
            and (self.since is None or point.time >= self.since)
            and (self.own is None or self.own.has(point))
        )


def refuse_unknown(domains: Iterable[str], source: Repository) -> None:
    """Raise NoSuchPoint if one of the names and UUIDs has no points: with a mistyped one, nothing is copied.

    A domain whose records are damaged is not refused.
    """
    for word in domains:
        if not is_pattern(word) and not _is_known(word, source.points):
            raise NoSuchPoint(f"no restore point of domain '{word}'")


def _is_known(word: str, points: Points) -> bool:
    damaged: list[str] = []
    return (
        any(is_uuid(word, uuid) for uuid, _ in points.names())
        or bool(points.of(word, lambda point, _: damaged.append(point)))
        or bool(damaged)
    )


def unnamed_points(
    source: Repository, target: Repository, choice: Choice, hosts: Sequence[str]
) -> tuple[list[Point], list[tuple[str, RepositoryError]]]:
    """Return the points that are meant if none is named, and those whose records are damaged.

    A point that the target has had is not meant: its own retention has removed it. Records of points that
    the target has are not read, unless they can be the newest ones.
    """
    names = source.points.names()
    if not choice.latest_only:
        names = never_held(target, names)
    damaged: list[tuple[str, RepositoryError]] = []
    found = source.points.read(names, lambda point, error: damaged.append((point, error)))
    return choice.of(point for point in found if point.is_from(hosts)), damaged


def copy(  # noqa: PLR0913, PLR0917 - both ends, what, and how
    source: Repository,
    target: Repository,
    points: Sequence[Point],
    tuning: Tuning,
    read_rate: int | None,
    observer: Observer,
    clock: Callable[[], float] = time.monotonic,
) -> CopyReport:
    """See ``puller.copy_points``."""
    refuse(source, target)
    if not source.keys.can_read_data:
        source.learn_damage()
    work = _Copying(source, target, tuning, read_rate, observer, clock)
    for point in in_order(points):
        work.copy(point)
    return CopyReport(tuple(work.copied), tuple(work.present), tuple(work.failed))


def refuse(source: Repository, target: Repository) -> None:
    """Refuse a target to which nothing can be copied. Raises UsageError, KeyNotHeld."""
    if source.id == target.id:
        raise UsageError(
            f"cannot copy to {target.store.url}: it is the repository that the points are in",
            advice="Name another repository with --to.",
        )
    if not source.keys.can_read_data and not source.keys.seals_like(target.keys):
        raise KeyNotHeld(
            f"cannot copy to {target.store.url} with a backup-only key: it has another master secret",
            advice="Use a full key, or copy to a repository that 'puller init --like' has made.",
        )
    if source.keys.cipher is not Cipher.NONE and target.keys.cipher is Cipher.NONE:
        raise UsageError(
            f"cannot copy to {target.store.url}: it is not encrypted, and the points are",
            advice="Copy to an encrypted repository.",
        )


class _Copying:
    """One copy of several points: the state between them."""

    def __init__(  # noqa: PLR0913, PLR0917 - the parameters of ``copy``
        self,
        source: Repository,
        target: Repository,
        tuning: Tuning,
        read_rate: int | None,
        observer: Observer,
        clock: Callable[[], float],
    ) -> None:
        self._source = source
        self._target = target
        self._tuning = tuning
        self._read_rate = read_rate
        self._observer = observer
        self._clock = clock
        self._machines: dict[str, Counterparts] = {}
        self.copied: list[CopiedPoint] = []
        self.present: list[str] = []
        self.failed: list[tuple[str, RepositoryError]] = []

    def copy(self, point: Point) -> None:
        """Copy one point, unless the target has it. A failure that is the point's own is noted."""
        machine = self._machines.get(point.uuid)
        if machine is None:
            machine = self._machines[point.uuid] = Counterparts(self._source, self._target, point.uuid)
        if machine.has(point):
            self.present.append(point.point)
            return
        self._observer(Step(point.point, "copy"))
        try:
            self._copy_again(point, machine)
        except (DamagedData, NoSuchPoint, Overtaken) as error:
            if self._was_copied_beside(point):
                self.present.append(point.point)
                return
            failure = self._explained(point, error)
            self.failed.append((point.point, failure))
            self._observer(Notice(point.point, failure.message))

    def _copy_again(self, point: Point, machine: Counterparts) -> None:
        """Copy the point, a second time if prune has removed what the first try referred to."""
        try:
            self._copy(point, machine)
        except Overtaken as error:
            self._observer(Notice(point.point, f"puller copies the point once more: {error.message}"))
            self._machines[point.uuid] = fresh = Counterparts(self._source, self._target, point.uuid)
            self._copy(point, fresh)

    def _copy(self, point: Point, machine: Counterparts) -> None:
        began = self._clock()
        pair = next(machine.near(point), None)
        named = structs.replace(point, previous=machine.previous(point))
        chunks = stored = 0
        made = None
        if pair is not None:
            made = republished(self._source, self._target, named, pair, self._observer)
        if made is None:
            with self._target.run(self._tuning) as run:
                work = PointCopy(
                    self._source, self._target, run, named, pair, self._observer, self._read_rate
                )
                made = work.run()
                run.store()
            made, chunks, stored = run.commit(made), work.chunks, work.stored_bytes
        machine.add(Pair(point, made))
        self.copied.append(CopiedPoint(point.point, chunks, stored, self._clock() - began))
        self._observer(Committed(point.point, made))

    def _was_copied_beside(self, point: Point) -> bool:
        """Return whether another run has copied the point meanwhile."""
        try:
            found = self._target.points.get(point.uuid, point.point)
        except (NoSuchPoint, DamagedData):
            return False
        return origin(self._target, found) == origin(self._source, point)

    def _explained(self, point: Point, error: RepositoryError) -> RepositoryError:
        """A point that was deleted meanwhile is not damaged."""
        if isinstance(error, DamagedData) and not self._source.points.stands((point.uuid, point.point)):
            return NoSuchPoint(f"restore point {point.point} was deleted while it was copied")
        return error
