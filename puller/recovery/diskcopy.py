"""One disk of a point on its way to an output.

The main thread walks the map in disk order; a crew fetches each window's packs, verifies every chunk and
writes it where it belongs.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from puller.errors import DamagedData
from puller.events import DiskPlanned, DiskProgress, Notice, Observer
from puller.pipeline.buffers import BufferPool
from puller.pipeline.flow import Flow
from puller.recovery.outputs import Output
from puller.recovery.write_coalescer import STRETCH, WriteCoalescer
from puller.repository.points import DiskRecord, Point
from puller.repository.reading.damage import Damage
from puller.repository.reading.image import DiskImage, PackJob
from puller.repository.repository import Repository

FETCHERS = 4
"""Threads that fetch, open and write. Each holds a range of at most 8 MiB."""


def open_image(repository: Repository, point: Point, record: DiskRecord) -> DiskImage:
    """The stored disk of ``record``. Raises DamagedData naming the point and the disk."""
    try:
        image = DiskImage(repository.maps, repository.packs, record.root.address)
        if image.size != record.size:
            raise DamagedData(f"the map describes {image.size} bytes, the point {record.size}")
        return image
    except DamagedData as error:
        whole = Damage(0, record.size, error.message)
        raise damaged(point, record.disk, [whole]) from error


def damaged(point: Point, disk: str, damage: Sequence[Damage]) -> DamagedData:
    """The error that names what of a disk is lost."""
    shown = "; ".join(
        f"bytes {item.offset} to {item.offset + item.length - 1}: {item.reason}" for item in damage[:3]
    )
    more = f"; and {len(damage) - 3} more ranges" if len(damage) > 3 else ""
    return DamagedData(
        f"disk {disk} of point {point.point} is damaged: {shown}{more}",
        advice="Restore another point, or pass --salvage to get the rest, with zeros for what is lost.",
    )


class Copier:
    """Copies one disk from its image to its output. ``flow`` is for its threads, and is entered here."""

    def __init__(  # noqa: PLR0913, PLR0917 - what a copy is made of
        self, subject: str, disk: str, image: DiskImage, output: Output, observer: Observer, flow: Flow
    ) -> None:
        self._subject = subject
        self._disk = disk
        self._flow = flow
        self._image = image.within(flow.scope)
        self._output = output
        self._buffers: BufferPool
        self._observer = observer
        self._lock = threading.Lock()
        self._done = 0
        self.written = 0
        self.damage: list[Damage] = []

    def copy(self) -> None:
        """Copy everything. Damage is collected, any other error is raised."""
        self._observer(DiskPlanned(self._subject, self._disk, self._image.size, self._image.size))
        with self._flow as flow:
            self._buffers = flow.adopt(BufferPool(FETCHERS, STRETCH))
            crew = flow.crew("restore", FETCHERS, FETCHERS, self._copy_job)
            for window in self._image.windows():
                self._lose(window.damage)
                for offset, length in window.gaps():
                    self._output.zero(offset, length)
                    self._progress(length, 0)
                for offset, length in window.filled():
                    self._output.expect(offset, length)
                for job in window.jobs:
                    crew.put(job)
            crew.finish()

    def _copy_job(self, job: PackJob) -> None:
        buffer = self._buffers.acquire()
        stretch = WriteCoalescer(buffer, self._output)
        done = 0
        for item in self._image.read(job):
            if isinstance(item, Damage):
                self._lose([item])
                self._output.zero(item.offset, item.length)
                self._progress(item.length, 0)
            else:
                stretch.add(*item)
                done += len(item[1])
        stretch.flush()
        self._progress(done, done)
        buffer.release()

    def _lose(self, damage: Sequence[Damage]) -> None:
        if not damage:
            return
        with self._lock:
            first = not self.damage
            self.damage += damage
        if first:
            self._observer(Notice(self._subject, f"disk {self._disk}: {damage[0].reason}"))

    def _progress(self, done: int, written: int) -> None:
        with self._lock:
            self._done += done
            self.written += written
            event = DiskProgress(self._subject, self._disk, self._done, self.written, 0)
        self._observer(event)
