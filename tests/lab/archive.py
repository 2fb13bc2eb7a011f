"""Restore points without a hypervisor: real packs, maps and records, made of bytes in memory."""

from __future__ import annotations

import os
import platform
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

from puller.pipeline.buffers import Batch, ReadSegment
from puller.repository.points import Attachment, DiskRecord, Point, Ref, new_id
from puller.repository.repository import Repository
from puller.repository.writing.run import DiskWriter, Run, Tuning
from puller.units import CHUNK, MIB, Extent, Kind, chunk_count

DOMAIN_XML = b"<domain type='qemu'><name>of-the-lab</name></domain>\n"

_TUNING = Tuning(codecs=1, uploads=1, packs=3, batches=2, batch_size=MIB)
_MOMENT = datetime(2026, 11, 23, 5, 0, tzinfo=UTC)
_NAMES = uuid.UUID("6ba7b811-9dad-11d1-80b4-00c04fd430c8")


def make_point(
    repository: Repository,
    content: Mapping[str, bytes],
    domain: str = "web1",
    moment: datetime = _MOMENT,
    tags: Mapping[str, str] | None = None,
    host: str | None = None,
) -> Point:
    """Store ``content`` (disk target to bytes) and commit a full point of ``domain`` that has it.

    Every disk is a run of its own, so that a damaged pack hurts one disk only.
    """
    disks = tuple(_store(repository, target, disk) for target, disk in content.items())
    with repository.run(_TUNING) as run:
        attachment = Attachment("domain.xml", len(DOMAIN_XML), Ref.to(run.attach(DOMAIN_XML)))
        run.flush()
    point = Point(
        point=new_id(moment),
        domain=domain,
        uuid=str(uuid.uuid5(_NAMES, domain)),
        time=moment,
        mode="pull",
        kind="full",
        disks=disks,
        checkpoint_xml="<domaincheckpoint/>",
        tags=dict(tags or {}),
        host=host or platform.node(),
        seconds=1.5,
        attachments=(attachment,),
    )
    repository.points.commit(point)
    return point


def tagged_points(repository: Repository) -> list[str]:
    """Make three daily points of web1 and two of db1, the first of each with the tag of a golden release."""
    noon = datetime(2023, 11, 20, 12, tzinfo=UTC)
    made = []
    for number, domain in enumerate(["web1", "web1", "web1", "db1", "db1"]):
        tags = {"release": "golden" if number in {0, 3} else "nightly"}
        disks = {"vda": os.urandom(CHUNK)}
        made.append(make_point(repository, disks, domain, noon + timedelta(days=number), tags).point)
    return made


def data_packs(folder: Path) -> list[Path]:
    """The data packs of a repository in ``folder``."""
    return sorted(path for path in (folder / "packs").rglob("*") if path.is_file())


def _store(repository: Repository, target: str, content: bytes) -> DiskRecord:
    with repository.run(_TUNING) as run:
        writer = run.disk(len(content), None)
        _feed(run, writer, content)
        run.drain()
        root = writer.finish()
        run.flush()
    return DiskRecord(
        disk=target,
        kind="full",
        size=len(content),
        root=Ref.to(root),
        format="raw",
        dirty_bytes=len(content),
        read_bytes=writer.read_bytes,
        zero_bytes=writer.zero_bytes,
        new_bytes=writer.new_bytes,
        stored_bytes=writer.stored_bytes,
    )


def _feed(run: Run, writer: DiskWriter, content: bytes) -> None:
    writer.announce(Extent(0, len(content), Kind.DATA))
    for offset in range(0, len(content), MIB):
        piece = content[offset : offset + MIB]
        buffer = run.batches.acquire()
        padded = chunk_count(len(piece)) * CHUNK
        buffer.view[:padded] = piece.ljust(padded, b"\0")
        writer.submit(Batch(buffer, (ReadSegment(offset, len(piece), 0),)))
