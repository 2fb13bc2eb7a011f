"""Copy of one point into a run of another repository.

::

    maps of the point and of an earlier one ─► what differs ─► packs of the source ─► verified chunks
                                                                                           │
    map of the earlier one's copy ───────────────────────────► map of the copy ◄── run of the target

What has not changed since the earlier point is taken over from its copy unread. The run looks every other
chunk up in the target, by the id that it has there, and stores it if it is new.

Repositories of one family have the same ids. There a chunk is looked up before it is read, and stored as the
source has sealed it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from operator import attrgetter
from typing import TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from puller.cancelling import CancelScope
from puller.errors import DamagedData
from puller.events import DiskDone, DiskPlanned, DiskProgress, Observer
from puller.pipeline.concurrency import FAR_AWAY
from puller.pipeline.ratelimit import RateLimit
from puller.repository.format.address import Address
from puller.repository.points import Attachment, DiskRecord, Point, Ref
from puller.repository.reading.damage import Damage
from puller.repository.reading.difference import compare_maps
from puller.repository.reading.image import DiskImage, PackJob, Window
from puller.repository.repository import Repository
from puller.repository.writing.run import DiskWriter, Run
from puller.store.parallel import each
from puller.units import CHUNK, Extent, Kind
from puller.upkeep.copying.counterparts import Pair, as_copy

_FETCHERS, _FAR_FETCHERS = 4, 12
"""Threads that fetch and store, near the source and far from it."""

_PIECE = 128
"""Chunks of a pack that a thread fetches: 8 MiB at most, of which parts are ranged reads."""

_GROUP = 32
"""Chunks that are looked up and compressed together."""

T = TypeVar("T")

Part = DiskRecord | Attachment


@dataclass(frozen=True, slots=True)
class Base:
    """The map of the same part of an earlier point: in the source, and of its copy in the target."""

    source: Address
    target: Address


class PointCopy:
    """Copies ``point`` of ``source`` into ``run``, the target's, on top of ``pair`` if there is one.

    ``read_rate`` is in bytes per second. ``chunks`` and ``stored_bytes`` are what the target did not have.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - both ends of a copy
        self,
        source: Repository,
        target: Repository,
        run: Run,
        point: Point,
        pair: Pair | None,
        observer: Observer,
        read_rate: int | None = None,
    ) -> None:
        self._threads = _FAR_FETCHERS if source.scope.round_trip >= FAR_AWAY else _FETCHERS
        self._source = source.within(run.flow.scope)
        self._target = target.within(run.flow.scope)
        self._run = run
        self._point = point
        self._pair = pair
        self._observer = observer
        self._limit = None if read_rate is None else run.flow.adopt(RateLimit(read_rate))
        self._based: set[str] = set()
        self.chunks = 0
        self.stored_bytes = 0

    def run(self) -> Point:
        """Store all parts and return the record of the copy, for ``Run.commit``.

        Raises DamagedData if anything of the point cannot be read.
        """
        disks = tuple(self._disk(disk) for disk in self._point.disks)
        attachments = tuple(self._attachment(item) for item in self._point.attachments)
        parent = self._pair.target.point if self._pair is not None and self._based else None
        return as_copy(self._source, self._point, disks, attachments, parent)

    def _disk(self, disk: DiskRecord) -> DiskRecord:
        base = self._base(disk, _disks)
        root, writer = self._copy(disk, f"disk {disk.disk}", base, self._observe(disk))
        self._observer(DiskDone(self._point.point, disk.disk))
        return msgspec.structs.replace(
            disk,
            root=Ref.to(root),
            parent=None if base is None or self._pair is None else self._pair.target.point,
            new_bytes=0 if writer is None else writer.new_bytes,
            stored_bytes=0 if writer is None else writer.stored_bytes,
        )

    def _attachment(self, item: Attachment) -> Attachment:
        base = self._base(item, _attachments)
        root, _ = self._copy(item, f"attachment {item.name}", base, lambda _, __: None)
        return msgspec.structs.replace(item, root=Ref.to(root))

    def _observe(self, disk: DiskRecord) -> Callable[[int, DiskWriter | None], None]:
        """Return what reports the progress of a disk: ``total`` bytes are to be copied."""
        subject, name = self._point.point, disk.disk

        def observe(total: int, writer: DiskWriter | None) -> None:
            if writer is None:
                self._observer(DiskPlanned(subject, name, disk.size, total))
            else:
                done = min(total, writer.done_bytes + writer.zero_bytes)
                self._observer(DiskProgress(subject, name, done, writer.done_bytes, writer.stored_bytes))

        return observe

    def _base(self, part: Part, parts: Callable[[Point], Mapping[str, Part]]) -> Base | None:
        """Return the base of ``part``, if the pair has one that the copy can build on."""
        if self._pair is None:
            return None
        name = _name(part)
        here, there = parts(self._pair.source).get(name), parts(self._pair.target).get(name)
        if here is None or there is None or here.size != there.size:
            return None
        try:
            base = Base(here.root.address, there.root.address)
            if not self._is_sound(base):
                return None
        except DamagedData:
            return None
        self._run.rely_on(self._pair.target, base.target)
        self._based.add(name)
        return base

    def _is_sound(self, base: Base) -> bool:
        """Return whether the base has no known damage in the target. Raises DamagedData if its map is
        damaged."""
        damaged = self._target.packs.damaged
        return not damaged or not DiskImage(self._target.maps, self._target.packs, base.target).needs(damaged)

    def _copy(
        self,
        part: Part,
        name: str,
        base: Base | None,
        observe: Callable[[int, DiskWriter | None], None],
    ) -> tuple[Address, DiskWriter | None]:
        """Return the root of the copy, and its writer if anything differs from the base."""
        address = part.root.address
        if base is not None and base.source == address:
            self._run.take_over(base.target)
            observe(0, None)
            return base.target, None
        try:
            image = DiskImage(self._source.maps, self._source.packs, address)
            if image.size != part.size:
                raise DamagedData(f"the map describes {image.size} bytes, the point {part.size}")
            total, windows = self._windows(image, base)
            observe(total, None)
            writer = self._run.disk(part.size, None if base is None else base.target)
            for _ in self._stored(image, windows, writer):
                observe(total, writer)
        except DamagedData as error:
            raise _damaged(self._point, name, error) from error
        root = writer.finish()
        observe(total, writer)
        self.chunks += writer.new_bytes // CHUNK
        self.stored_bytes += writer.stored_bytes
        return root, writer

    def _windows(self, image: DiskImage, base: Base | None) -> tuple[int, Iterator[Window]]:
        """Return the number of bytes to copy, and the windows that hold them."""
        if base is None:
            return image.size, image.windows()
        try:
            changes = compare_maps(self._source.maps, self._source.maps.root(base.source), image.root)
        except DamagedData:  # of the base, in the source: it cannot tell what has not changed
            return image.size, image.windows()
        return changes.bytes, image.windows_of(changes.pages)

    def _stored(self, image: DiskImage, windows: Iterator[Window], writer: DiskWriter) -> Iterator[None]:
        """Store what the ``windows`` hold; yield after each piece."""

        def seal(scope: CancelScope, job: PackJob) -> None:
            for chunks, contents in self._groups(_verified(image.within(scope), job)):
                writer.place(chunks, contents)

        def adopt(scope: CancelScope, job: PackJob) -> None:
            bound = image.within(scope)
            missing = _without(job, writer.refer(job.chunks.tolist(), [*map(bytes, bound.ids(job))]))
            for chunks, pieces in self._groups(_undamaged(bound.read_sealed(missing))):
                writer.adopt(chunks, pieces)

        store = adopt if self._source.keys.seals_like(self._target.keys) else seal
        return each(self._run.flow.scope, store, _announced(windows, writer), self._threads)

    def _groups(self, items: Iterator[tuple[int, T]]) -> Iterator[tuple[Sequence[int], Sequence[T]]]:
        """Yield numbers and contents of chunks, at the read rate: what is stored together."""
        while group := list(islice(items, _GROUP)):
            if self._limit is not None:
                self._limit.take(len(group) * CHUNK)
            numbers, contents = zip(*group, strict=True)
            yield numbers, contents


def _announced(windows: Iterator[Window], writer: DiskWriter) -> Iterator[PackJob]:
    """Announce each window to ``writer``, then yield its jobs. Raises DamagedData."""
    for window in windows:
        if window.damage:
            raise DamagedData(window.damage[0].reason)
        extents = [Extent(*place, Kind.DATA) for place in window.filled()]
        extents += [Extent(*place, Kind.ZERO) for place in window.zeros()]
        for extent in sorted(extents, key=attrgetter("offset")):
            writer.announce(extent)
        for job in window.jobs:
            yield from job.pieces(_PIECE)


def _verified(image: DiskImage, job: PackJob) -> Iterator[tuple[int, bytes]]:
    """Yield number and content of each chunk, the disk's last one padded. Raises DamagedData."""
    for chunk, content in _undamaged(image.read(job)):
        yield chunk, content.ljust(CHUNK, b"\0")


def _undamaged(items: Iterator[tuple[int, T] | Damage]) -> Iterator[tuple[int, T]]:
    """Yield number and content of each chunk. Raises DamagedData."""
    for item in items:
        if isinstance(item, Damage):
            raise DamagedData(item.reason)
        offset, content = item
        yield offset // CHUNK, content


def _without(job: PackJob, found: NDArray[np.bool_]) -> PackJob:
    """Return the job for the chunks that were not found."""
    return PackJob(job.pack_id, job.chunks[~found], job.slots[~found])


def _damaged(point: Point, part: str, error: DamagedData) -> DamagedData:
    return DamagedData(
        f"cannot copy restore point {point.point}: {part} is damaged: {error.message}",
        advice="Run 'puller check' on both repositories, or copy another point.",
    )


def _name(part: Part) -> str:
    return part.disk if isinstance(part, DiskRecord) else part.name


def _disks(point: Point) -> Mapping[str, Part]:
    return {disk.disk: disk for disk in point.disks}


def _attachments(point: Point) -> Mapping[str, Part]:
    return {item.name: item for item in point.attachments}
