"""Feeds a run of the repository from bytes in memory, as a reader would from a disk."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from puller.pipeline.buffers import Batch, ReadSegment
from puller.repository.format.address import Address
from puller.repository.reading.damage import Damage
from puller.repository.reading.image import DiskImage
from puller.repository.repository import Repository
from puller.repository.writing.run import DiskWriter, Run, Tuning
from puller.units import CHUNK, MIB, Extent, Kind, chunk_count

SMALL = Tuning(codecs=2, uploads=2, packs=3, batches=8, batch_size=MIB)


def whole(content: bytes) -> list[Extent]:
    """The extents of a full."""
    return [Extent(0, len(content), Kind.DATA)] if content else []


def chunks_of(extents: Iterable[Extent]) -> Iterator[int]:
    for extent in extents:
        yield from range(extent.offset // CHUNK, chunk_count(extent.end))


def feed(run: Run, writer: DiskWriter, content: bytes, extents: Iterable[Extent]) -> None:
    """Announce ``extents`` and submit the data ones out of ``content``, a few chunks a batch."""
    for extent in extents:
        writer.announce(extent)
        if extent.kind is Kind.DATA:
            for start in range(extent.offset, extent.end, 3 * CHUNK):
                _submit(run, writer, content[start : min(start + 3 * CHUNK, extent.end)], start)


def _submit(run: Run, writer: DiskWriter, piece: bytes, start: int) -> None:
    buffer = run.batches.acquire()
    padded = piece.ljust(chunk_count(len(piece)) * CHUNK, b"\0")
    buffer.view[: len(padded)] = padded
    writer.submit(Batch(buffer, (ReadSegment(start, len(piece), 0),)))


def store_disk(
    repository: Repository,
    content: bytes,
    base: Address | None = None,
    extents: Iterable[Extent] | None = None,
    tuning: Tuning = SMALL,
    compared: Address | None = None,
) -> tuple[Address, DiskWriter]:
    """Store one disk in a run of its own; return its root's address and the writer with its counters."""
    with repository.run(tuning) as run:
        writer = run.disk(len(content), base, compared)
        feed(run, writer, content, whole(content) if extents is None else extents)
        run.drain()
        root = writer.finish()
        run.flush()
    return root, writer


def read_disk(repository: Repository, root: Address) -> bytes:
    """The stored disk as bytes."""
    image = DiskImage(repository.maps, repository.packs, root)
    content = bytearray(image.size)
    for window in image.windows():
        assert not window.damage, window.damage
        for job in window.jobs:
            for item in image.read(job):
                assert not isinstance(item, Damage), item
                content[item[0] : item[0] + len(item[1])] = item[1]
    return bytes(content)
