"""What each disk of a new point can be taken incrementally from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from puller.errors import DamagedData, NoSuchPoint
from puller.hypervisor import checkpoint as checkpoints
from puller.hypervisor.disk import Disk
from puller.hypervisor.domain import Domain
from puller.repository.points import DiskRecord, Point
from puller.repository.repository import Repository


@dataclass(frozen=True, slots=True)
class Base:
    """A disk's parent: the point, its record of the disk, and the checkpoint that has tracked it since."""

    point: Point
    record: DiskRecord
    checkpoint: str


def choose(domain: Domain, repository: Repository, disks: Sequence[Disk]) -> dict[str, Base]:
    """By target: the newest point that has the disk and whose bitmap of it is whole. Others get a full.

    Raises StoreError, HypervisorError.
    """
    bases: dict[str, Base] = {}
    for checkpoint, point in _committed(domain, repository):
        missing = [disk for disk in disks if disk.target not in bases]
        if not missing:
            break
        tracked = checkpoints.dirty_bytes(domain, checkpoint)
        for disk in missing:
            record = point.disk(disk.target)
            if record is not None and disk.target in tracked and record.format == disk.format:
                bases[disk.target] = Base(point, record, checkpoint)
    return bases


def _committed(domain: Domain, repository: Repository) -> Iterator[tuple[str, Point]]:
    """Our checkpoints whose points are in the repository, newest first."""
    for checkpoint in reversed(checkpoints.list_checkpoints(domain)):
        point_id = checkpoints.point_of(checkpoint.name, repository.id)
        if point_id is None:
            continue
        try:
            yield checkpoint.name, repository.points.get(domain.uuid, point_id)
        except (NoSuchPoint, DamagedData):
            continue
