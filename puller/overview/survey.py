"""The machines of repositories, read from their points and proofs alone: no host is asked."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import datetime
from fnmatch import fnmatchcase

from puller.errors import DamagedData
from puller.overview.machine import MachineStatus, machine_of
from puller.repository.points import Point
from puller.repository.records.proofs import Proof
from puller.repository.repository import Repository

Damaged = Callable[[str, DamagedData], None]


def survey(
    repositories: Iterable[Repository],
    now: datetime,
    hosts: Collection[str] = (),
    exclude: Collection[str] = (),
    damaged: Damaged | None = None,
) -> tuple[MachineStatus, ...]:
    """Return all machines: the late ones first, then by name.

    A machine belongs to the host that took its newest point; of ``hosts``, names or patterns, only the
    machines count. ``exclude`` has names or patterns of domains that do not. A damaged record raises
    DamagedData, or is passed to ``damaged``. Raises StoreError.
    """
    found = [machine for repository in repositories for machine in _machines(repository, now, damaged)]
    chosen = [machine for machine in found if _is_from(machine, hosts) and not _matches(machine, exclude)]
    return tuple(sorted(chosen, key=lambda machine: (not machine.late, machine.domain, machine.uuid)))


def _machines(repository: Repository, now: datetime, damaged: Damaged | None) -> list[MachineStatus]:
    points: defaultdict[str, list[Point]] = defaultdict(list)
    for point in repository.points.all(damaged):
        points[point.uuid].append(point)
    proofs: defaultdict[str, dict[str, Proof]] = defaultdict(dict)
    for (uuid, point_id), proof in repository.proofs.newest().items():
        proofs[uuid][point_id] = proof
    url = repository.store.url
    return [machine_of(of_one, proofs.get(uuid, {}), url, now) for uuid, of_one in points.items()]


def _is_from(machine: MachineStatus, hosts: Collection[str]) -> bool:
    return not hosts or any(fnmatchcase(machine.host, pattern) for pattern in hosts)


def _matches(machine: MachineStatus, names: Collection[str]) -> bool:
    return any(machine.uuid == name or fnmatchcase(machine.domain, name) for name in names)


def late_of(machines: Sequence[MachineStatus]) -> list[MachineStatus]:
    """Return the late ones."""
    return [machine for machine in machines if machine.late]
