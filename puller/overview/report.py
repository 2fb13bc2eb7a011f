"""The machines of some repositories and their last days. Pure values and sums."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import TYPE_CHECKING

from puller.overview.alarm import Alarm
from puller.overview.calendar import Day
from puller.overview.locks import Lock
from puller.overview.machine import MachineStatus
from puller.repository.points import Point

if TYPE_CHECKING:
    from puller.overview.places import DiskPlaces


@dataclass(frozen=True, slots=True)
class Volume:
    """Sizes of a machine's existing points, in bytes.

    Attributes:
        points: How many there are.
        size: The size of all disks in the newest point.
        stored: What all points added to the store when they were taken, compressed.
        new: The same before compression.
        read: What was read from disks for them.
    """

    points: int
    size: int
    stored: int
    new: int
    read: int

    @property
    def compression(self) -> float | None:
        """The ratio of new data to its stored size; None if nothing was new."""
        return self.new / self.stored if self.new and self.stored else None

    @property
    def deduplication(self) -> float | None:
        """The ratio of read data to new data; None if nothing was new."""
        return self.read / self.new if self.new and self.read else None


@dataclass(frozen=True, slots=True)
class MachineReport:
    """A machine: how it is now, its days, its sizes, and what looked wrong in these days, oldest first.

    ``lock`` is None without locks. ``places`` says where on its disks change happens.
    """

    status: MachineStatus
    days: tuple[Day, ...]
    volume: Volume
    alarms: tuple[Alarm, ...] = ()
    lock: Lock | None = None
    places: tuple[DiskPlaces, ...] = ()


@dataclass(frozen=True, slots=True)
class HostReport:
    """A host: how many machines it takes the points of, how many are late, and when it took the newest point.

    A machine counts once, and is not late if it is on time in one of the repositories. The host ``is_silent``
    if all of its machines are late.
    """

    host: str
    machines: int
    late: int
    last_time: datetime

    @property
    def is_silent(self) -> bool:
        """Whether no machine of the host is on time."""
        return self.late == self.machines


@dataclass(frozen=True, slots=True)
class RepositoryReport:
    """A repository: its machines, their points, and the bytes that these added when they were taken."""

    url: str
    machines: int
    points: int
    stored: int


@dataclass(frozen=True, slots=True)
class Report:
    """The whole report. ``days`` are the dates of the machines' days, in UTC; late machines come first."""

    generated: datetime
    days: tuple[date, ...]
    machines: tuple[MachineReport, ...]
    repositories: tuple[RepositoryReport, ...]
    hosts: tuple[HostReport, ...]

    @property
    def late(self) -> list[MachineStatus]:
        """The late machines."""
        return [machine.status for machine in self.machines if machine.status.late]


def distinct(machines: Iterable[MachineStatus]) -> int:
    """Return the number of machines; one with points in several repositories counts once."""
    return len({machine.uuid for machine in machines})


def volume_of(points: Sequence[Point]) -> Volume:
    """Add up the points of one machine, at least one, oldest first."""
    disks = [disk for point in points for disk in point.disks]
    return Volume(
        len(points),
        sum(disk.size for disk in points[-1].disks),
        sum(disk.stored_bytes for disk in disks),
        sum(disk.new_bytes for disk in disks),
        sum(disk.read_bytes for disk in disks),
    )


def report_of(
    machines: Sequence[MachineReport], urls: Sequence[str], days: tuple[date, ...], now: datetime
) -> Report:
    """Sort the machines, and add them up by repository and by host."""
    ordered = sorted(
        machines, key=lambda one: (not one.status.late, one.status.domain, one.status.uuid, one.status.host)
    )
    repositories = [
        _repository(url, [one for one in ordered if one.status.repository == url]) for url in urls
    ]
    by_host: defaultdict[str, list[MachineStatus]] = defaultdict(list)
    for machine in ordered:
        by_host[machine.status.host].append(machine.status)
    hosts = [_host(name, found) for name, found in sorted(by_host.items())]
    return Report(now, days, tuple(ordered), tuple(repositories), tuple(hosts))


def _repository(url: str, machines: Sequence[MachineReport]) -> RepositoryReport:
    return RepositoryReport(
        url,
        len(machines),
        sum(machine.volume.points for machine in machines),
        sum(machine.volume.stored for machine in machines),
    )


def _host(name: str, machines: Sequence[MachineStatus]) -> HostReport:
    count = distinct(machines)
    late = count - distinct(machine for machine in machines if not machine.late)
    return HostReport(name, count, late, max(machine.last_time for machine in machines))
