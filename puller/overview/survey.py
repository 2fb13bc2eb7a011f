"""The machines of repositories, read from their points and proofs alone: no host is asked."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from fnmatch import fnmatchcase

from puller.errors import DamagedData
from puller.overview.calendar import calendar, last_days
from puller.overview.machine import MachineStatus, machine_of
from puller.overview.report import MachineReport, Report, report_of, volume_of
from puller.repository.records.proofs import Proof
from puller.repository.repository import Repository

Damaged = Callable[[str, DamagedData], None]


@dataclass(frozen=True, slots=True)
class Selection:
    """Which machines count: those of ``hosts``, names or patterns, without the domains ``exclude``.

    A machine belongs to the host that took its newest point.
    """

    hosts: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def has(self, machine: MachineStatus) -> bool:
        """Return whether the machine counts."""
        is_from = not self.hosts or any(fnmatchcase(machine.host, pattern) for pattern in self.hosts)
        names = (machine.uuid == name or fnmatchcase(machine.domain, name) for name in self.exclude)
        return is_from and not any(names)


def survey(
    repositories: Sequence[Repository],
    days: int,
    now: datetime,
    selection: Selection,
    damaged: Damaged | None = None,
) -> Report:
    """Report on all machines and their last ``days``.

    The points of one domain are read after those of the other, so memory does not grow with their number. A
    damaged record raises DamagedData, or is passed to ``damaged``. Raises StoreError.
    """
    dates = last_days(days, now)
    copies = _copies(repositories)
    machines = [
        machine
        for repository in repositories
        for machine in _machines(repository, dates, now, copies, damaged)
        if selection.has(machine.status)
    ]
    return report_of(machines, [repository.store.url for repository in repositories], dates, now)


def _machines(
    repository: Repository,
    days: Sequence[date],
    now: datetime,
    copies: Mapping[str, frozenset[str]],
    damaged: Damaged | None,
) -> Iterator[MachineReport]:
    proofs: defaultdict[str, dict[str, Proof]] = defaultdict(dict)
    for (uuid, point_id), proof in repository.proofs.newest().items():
        proofs[uuid][point_id] = proof
    for points in repository.points.by_domain(damaged):
        uuid = points[-1].uuid
        drills, copied = proofs.get(uuid, {}), copies.get(uuid, frozenset())
        status = machine_of(points, drills, repository.store.url, now)
        shown = calendar(points, drills, copied, status.interval, days, now)
        yield MachineReport(status, shown, volume_of(points))


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
