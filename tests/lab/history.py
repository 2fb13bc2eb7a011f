"""Restore points that build on each other, made of bytes in memory; and proof that they are whole."""

from __future__ import annotations

import platform
import random
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache

from puller.errors import PullerError
from puller.repository.format.index import IndexedPack, PackEntry
from puller.repository.format.packname import PackKind, parse_pack_name
from puller.repository.points import Attachment, DiskRecord, Point, Ref, new_id
from puller.repository.reading.packs import PackReader
from puller.repository.repository import Repository
from puller.repository.writing.run import Run, Tuning
from puller.units import CHUNK, MIB, Extent, Kind
from tests.lab.feed import feed, read_disk, whole

TUNING = Tuning(codecs=1, uploads=1, packs=2, batches=2, batch_size=MIB)
MOMENT = datetime(2026, 11, 23, 5, 0, tzinfo=UTC)

Disk = list[int]
"""A disk as the seeds of its chunks; 0 stands for a chunk that was never written or was discarded."""

ZEROED = -1
"""A chunk into which the guest has written zeros."""


@lru_cache(1024)
def chunk(seed: int) -> bytes:
    """65536 bytes that do not compress and are the same for the same seed."""
    return random.Random(seed).randbytes(CHUNK) if seed > 0 else bytes(CHUNK)


def content(disk: Sequence[int]) -> bytes:
    return b"".join(map(chunk, disk))


def attached(domain: str, title: str) -> bytes:
    """What a point of ``domain`` has attached: always the same unless its title changes."""
    return f"<domain type='qemu'><name>{domain}</name><title>{title}</title></domain>\n".encode()


def uuid_of(domain: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_DNS, domain))


@dataclass(frozen=True)
class Backup:
    """A run whose packs and indexes are durable, and the point that it is going to commit."""

    run: Run
    point: Point
    disk: Disk

    def commit(self) -> Point:
        return self.run.commit(self.point)


def back_up(
    repository: Repository,
    domain: str,
    disk: Disk,
    parent: Point | None = None,
    before: Disk | None = None,
    title: str = "",
    moment: datetime = MOMENT,
    dirty: Collection[int] = (),
    host: str | None = None,
    time: datetime | None = None,
    compared: Point | None = None,
) -> Backup:
    """Store ``disk``: what differs from ``before``, the disk at ``parent``, or all of it.

    All of it is compared with the point ``compared``, if there is one. Chunks at the ``dirty`` places are
    read even if they are as before. The id is of ``moment``, and so is the point's time unless ``time`` says
    otherwise.
    """
    data = content(disk)
    extents = whole(data) if before is None else _changes(before, disk, dirty)
    base = None if parent is None else parent.disks[0].root.address
    with repository.run(TUNING) as run:
        for other in (parent, compared):
            if other is not None:
                run.rely_on(other, other.disks[0].root.address)
        writer = run.disk(len(data), base, None if compared is None else compared.disks[0].root.address)
        feed(run, writer, data, extents)
        run.drain()
        root = Ref.to(writer.finish())
        xml = attached(domain, title)
        attachment = Attachment("domain.xml", len(xml), Ref.to(run.attach(xml)))
        run.flush()
    record = DiskRecord(
        "vda", "full", len(data), root, parent=parent.point if parent else None, new_bytes=writer.new_bytes
    )
    point = Point(
        point=new_id(moment),
        domain=domain,
        uuid=uuid_of(domain),
        time=time or moment,
        mode="pull",
        kind="full",
        disks=(record,),
        tags={"title": title},
        host=platform.node() if host is None else host,
        attachments=(attachment,),
    )
    return Backup(run, point, disk)


def _changes(before: Disk, disk: Disk, dirty: Collection[int]) -> list[Extent]:
    return [
        Extent(place * CHUNK, CHUNK, Kind.DATA if seed else Kind.ZERO)
        for place, (old, seed) in enumerate(zip(before, disk, strict=True))
        if old != seed or place in dirty
    ]


def wrong_points(repository: Repository, expected: Mapping[str, Disk]) -> list[str]:
    """Ids of the points that do not restore to what is expected of them. Each point must be expected."""
    return [
        point.point
        for point in repository.points.all()
        if not is_whole(repository, point, expected[point.point])
    ]


def is_whole(repository: Repository, point: Point, disk: Disk) -> bool:
    """Whether the point restores to ``disk`` and its attachment to what it was."""
    try:
        return read_disk(repository, point.disks[0].root.address) == content(disk) and read_disk(
            repository, point.attachments[0].root.address
        ) == attached(point.domain, point.tags["title"])
    except (PullerError, AssertionError):
        return False


def misleading_index(repository: Repository) -> list[str]:
    """Packs of which prune, by their size, believes the index, and the index is wrong."""
    sizes = {info.key: info.size for info in repository.store.list("")}
    reader = PackReader(repository.store, repository.keys)
    wrong = []
    for pack in repository.indexed():
        name = pack.kind.object_name(pack.pack_id, pack.generation)
        if sizes.get(name) == pack.size:
            opened = reader.open(pack.kind, pack.pack_id, pack.generation)
            said = IndexedPack(opened.kind, opened.pack_id, opened.size, opened.footer, opened.generation)
            if PackEntry.of(said) != pack:
                wrong.append(name)
    return wrong


def pack_id_of(name: str) -> bytes:
    """The id of the pack that is stored under ``name``."""
    parsed = parse_pack_name(name)
    assert parsed is not None, name
    return parsed[1]


def data_bytes(repository: Repository) -> int:
    """Bytes of all data packs."""
    return sum(info.size for info in repository.store.list(PackKind.DATA.prefix))
