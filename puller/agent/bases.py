"""What each disk of a new point can be taken incrementally from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from puller.errors import DamagedData, NoSuchPoint
from puller.hypervisor import checkpoint as checkpoints
from puller.hypervisor.disk import Disk
from puller.hypervisor.domain import Domain
from puller.nbd.export import Export
from puller.repository.image import DiskImage
from puller.repository.points import DiskRecord, Point
from puller.repository.repository import Repository
from puller.repository.slot import content_id
from puller.units import CHUNK, PAGE_CHUNKS, chunk_count


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
            if record is not None and disk.target in tracked and _is_same(disk, record):
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


def _is_same(disk: Disk, record: DiskRecord) -> bool:
    """All disks of a checkpoint have bitmaps of one name, so one at another target would seem to fit."""
    return (disk.format, disk.source) == (record.format, record.source)


def stands(repository: Repository, export: Export, record: DiskRecord) -> bool:
    """Whether the disk still holds what the base has, as far as one look tells.

    The look is at the last chunk that the base stores and the bitmap calls clean. Of a disk that was
    cut and has grown again that chunk is gone, yet clean: QEMU keeps no bits of what it cuts. Of
    another image in the disk's place it hardly ever is the same. An unreadable map does not stand.
    """
    same_size = record.size == export.size
    # Where the sizes differ, what is behind the smaller one is read anyway.
    end = chunk_count(export.size) if same_size else min(record.size, export.size) // CHUNK
    try:
        image = DiskImage(repository.maps, repository.packs, record.root.address)
        for first, stored in image.stored_before(end):
            clean = _clean(export, first, stored)
            if clean:
                chunk = clean[-1]
                return image.content_id(chunk) == content_id(repository.keys.id_key, export.chunk(chunk))
    except DamagedData:
        return False
    return True


def _clean(export: Export, first: int, chunks: Sequence[int]) -> list[int]:
    """Those of ``chunks``, of the page that begins with chunk ``first``, that the bitmap calls clean."""
    dirty: set[int] = set()
    for extent in export.dirty(first * CHUNK, (first + PAGE_CHUNKS) * CHUNK):
        dirty.update(range(extent.offset // CHUNK, chunk_count(extent.end)))
    return [chunk for chunk in chunks if chunk not in dirty]
