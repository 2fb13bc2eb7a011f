"""The machines of repositories, read from their points and proofs alone: no host is asked."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, time
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from puller.configuration.alarms import DEFAULTS, Thresholds
from puller.errors import DamagedData
from puller.overview.alarm import alarms_since
from puller.overview.calendar import Marks, calendar, last_days
from puller.overview.locks import lock_of
from puller.overview.machine import MachineStatus, believable, machine_of
from puller.overview.report import MachineReport, Report, report_of, volume_of
from puller.repository.points import Point
from puller.repository.records.proofs import Proof
from puller.repository.repository import Repository

if TYPE_CHECKING:
    from puller.overview.places import DiskPlaces

Damaged = Callable[[str, DamagedData], None]


@dataclass(frozen=True, slots=True)
class Question:
    """The days and machines of a report: the last ``days``, the machines of ``hosts`` without ``exclude``.

    Both are names or patterns. A machine belongs to the host that took its newest point. Above
    ``thresholds``, a point looks wrong. The maps of the last ``compared`` points say where disks change.
    """

    days: int
    hosts: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    thresholds: Thresholds = DEFAULTS
    compared: int = 0

    def is_about(self, machine: MachineStatus) -> bool:
        """Return whether the machine counts."""
        is_from = not self.hosts or any(fnmatchcase(machine.host, pattern) for pattern in self.hosts)
        names = (machine.uuid == name or fnmatchcase(machine.domain, name) for name in self.exclude)
        return is_from and not any(names)


def survey(
    repositories: Sequence[Repository], asked: Question, now: datetime, damaged: Damaged | None = None
) -> Report:
    """Report on the machines of all repositories.

    The points of one domain are read after those of the other, so memory does not grow with their number. A
    damaged record raises DamagedData, or is passed to ``damaged``. Raises StoreError.
    """
    work = _Survey(asked, now, _copies(repositories), damaged)
    machines = [machine for repository in repositories for machine in work.machines(repository)]
    return report_of(machines, [repository.store.url for repository in repositories], work.days, now)


class _Survey:
    def __init__(
        self,
        asked: Question,
        now: datetime,
        copies: Mapping[str, frozenset[str]],
        damaged: Damaged | None,
    ) -> None:
        self._asked = asked
        self._now = now
        self._copies = copies
        self._damaged = damaged
        self.days = last_days(asked.days, now)

    def machines(self, repository: Repository) -> Iterator[MachineReport]:
        """Yield the machines of one repository."""
        proofs: defaultdict[str, dict[str, Proof]] = defaultdict(dict)
        for (uuid, point_id), proof in repository.proofs.newest().items():
            proofs[uuid][point_id] = proof
        for found in repository.points.by_domain(self._damaged):
            points = believable(found, self._now)
            drills = proofs.get(points[-1].uuid, {})
            status = machine_of(points, drills, repository.store.url, self._now)
            if self._asked.is_about(status):
                reported = self._reported(repository, status, points, drills)
                yield replace(reported, volume=volume_of(found))

    def _reported(
        self,
        repository: Repository,
        status: MachineStatus,
        points: Sequence[Point],
        drills: Mapping[str, Proof],
    ) -> MachineReport:
        first = datetime.combine(self.days[0], time(), UTC)
        alarms = alarms_since(points, first, self._asked.thresholds)
        copied = self._copies.get(status.uuid, frozenset())
        marks = Marks(copied, frozenset(alarm.point for alarm in alarms))
        shown = calendar(points, drills, marks, status.interval, self.days, self._now)
        places = self._places(repository, points)
        return MachineReport(status, shown, volume_of(points), alarms, lock_of(points, self._now), places)

    def _places(self, repository: Repository, points: Sequence[Point]) -> tuple[DiskPlaces, ...]:
        if self._asked.compared < 2:
            return ()
        from puller.overview.places import places_of  # with numpy, which puller status does without

        return places_of(repository, points, self._asked.compared)


def _copies(repositories: Sequence[Repository]) -> Mapping[str, frozenset[str]]:
    """Return by domain UUID the ids of points that several of the repositories have."""
    seen: set[tuple[str, str]] = set()
    found: defaultdict[str, set[str]] = defaultdict(set)
    for repository in repositories if len(repositories) > 1 else ():
        for name in repository.points.names():
            if name in seen:
                found[name[0]].add(name[1])
            seen.add(name)
    return {uuid: frozenset(ids) for uuid, ids in found.items()}
