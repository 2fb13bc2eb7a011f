"""One disk of a point on its way to an output.

The main thread walks the map in disk order; a crew fetches each window's packs, verifies every chunk and
writes it where it belongs.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Sequence

from puller.cancelling import CancelScope
from puller.errors import DamagedData
from puller.events import DiskPlanned, DiskProgress, Notice, Observer
from puller.pipeline.buffers import Buffer, BufferPool
from puller.pipeline.concurrency import FAR_AWAY, Concurrency
from puller.pipeline.flow import Flow
from puller.pipeline.gate import Gate
from puller.recovery.targets import outputs
from puller.recovery.targets.outputs import Output
from puller.recovery.targets.write_coalescer import STRETCH, WriteCoalescer
from puller.repository.points import DiskRecord, Point
from puller.repository.reading.damage import Damage
from puller.repository.reading.difference import Changes
from puller.repository.reading.image import DiskImage, PackJob, Window
from puller.repository.repository import Repository
from puller.units import CHUNK

FETCHERS = 4
"""Threads that fetch, open and write from a nearby store. Each holds a range of at most 8 MiB."""

FAR_FETCHERS, MOST_FETCHERS = 12, 20
"""The same for a distant store: the first and the largest number."""

PIECE = 64
"""Chunks of a pack that a thread fetches while there are more threads than FETCHERS: at most 4 MiB. So many
fetches share one pack, and need less memory each."""


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


def copy_all(copiers: Sequence[Copier], flow: Flow, connections: int | None = None) -> None:
    """Copy all disks at the same time, a window of each in turn. Damage is collected, other errors raised.

    ``connections`` is the number of fetches at once, at most MOST_FETCHERS; None to adapt it.
    ``flow`` is for the threads, and is entered here; its scope is that of the outputs.
    """
    for copier in copiers:
        copier.begin(flow.scope)
    with flow:
        buffers = flow.adopt(BufferPool(MOST_FETCHERS, STRETCH))
        gate = flow.adopt(Gate(_law(flow.scope.round_trip, connections)))

        def work(item: tuple[Copier, PackJob]) -> None:
            with gate.passing(len(item[1].chunks) * CHUNK):
                buffer = buffers.acquire()
                with outputs.translated(item[0].place):
                    item[0].do(item[1], buffer)
                buffer.release()

        crew = flow.crew("restore", MOST_FETCHERS, FETCHERS, work)
        for copier, jobs in _in_turn(copiers):
            for job in jobs:
                for piece in job.pieces(PIECE) if gate.limit > FETCHERS else (job,):
                    crew.put((copier, piece))
        crew.finish()


def _law(round_trip: float, connections: int | None) -> Concurrency:
    if connections is not None:
        return Concurrency.fixed(min(connections, MOST_FETCHERS))
    return Concurrency(FETCHERS, MOST_FETCHERS, FAR_FETCHERS if round_trip >= FAR_AWAY else FETCHERS)


def _in_turn(copiers: Sequence[Copier]) -> Iterator[tuple[Copier, list[PackJob]]]:
    waiting = deque((copier, copier.works()) for copier in copiers)
    while waiting:
        copier, works = waiting.popleft()
        with outputs.translated(copier.place):
            jobs = next(works, None)
        if jobs is not None:
            yield copier, jobs
            waiting.append((copier, works))


class Copier:
    """Copies one disk from its image to its output, whose name in messages is ``place``."""

    def __init__(  # noqa: PLR0913, PLR0917 - what a copy is made of
        self,
        subject: str,
        disk: str,
        image: DiskImage,
        output: Output,
        place: str,
        observer: Observer,
    ) -> None:
        self._subject = subject
        self._disk = disk
        self._image = image
        self._output = output
        self.place = place
        self._observer = observer
        self._lock = threading.Lock()
        self._done = 0
        self.written = 0
        self.damage: list[Damage] = []

    def begin(self, scope: CancelScope) -> None:
        """Say how much there is to do; waits for the store belong to ``scope``."""
        self._image = self._image.within(scope)
        self._observer(DiskPlanned(self._subject, self._disk, self._image.size, self._total()))

    def works(self) -> Iterator[list[PackJob]]:
        """Prepare the output for a window at a time, and yield the window's jobs for ``do``."""
        for window in self._windows():
            self._lose(window.damage)
            zeros = list(self._zeros(window))
            self._output.zero(zeros)
            self._progress(sum(length for _, length in zeros), 0)
            for offset, length in window.filled():
                self._output.expect(offset, length)
            yield list(window.jobs)

    def _total(self) -> int:
        return self._image.size

    def _windows(self) -> Iterator[Window]:
        return self._image.windows()

    def _zeros(self, window: Window) -> Iterator[tuple[int, int]]:
        return window.gaps()

    def do(self, job: PackJob, buffer: Buffer) -> None:
        """Fetch, verify and write what ``job`` names. Damage is collected, any other error is raised."""
        stretch = WriteCoalescer(buffer, self._output)
        done = 0
        for item in self._image.read(job):
            if isinstance(item, Damage):
                self._lose([item])
                self._give_up(item)
                self._progress(item.length, 0)
            else:
                stretch.add(*item)
                done += len(item[1])
        stretch.flush()
        self._progress(done, done)

    def _give_up(self, lost: Damage) -> None:
        """Put zeros in place of what is lost: the output is new, or to be salvaged."""
        self._output.zero([(lost.offset, lost.length)])

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


class ChangedCopier(Copier):
    """Copies what ``changes`` names of a disk onto an output that has all else.

    What is lost of the point stays as it is there, unless ``salvage`` asks for zeros.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - a copier's parameters and its own
        self,
        subject: str,
        disk: str,
        image: DiskImage,
        output: Output,
        place: str,
        observer: Observer,
        changes: Changes,
        *,
        salvage: bool,
    ) -> None:
        super().__init__(subject, disk, image, output, place, observer)
        self._changes = changes
        self._salvage = salvage

    def _total(self) -> int:
        return self._changes.bytes

    def _windows(self) -> Iterator[Window]:
        return self._image.windows_of(self._changes.pages)

    def _zeros(self, window: Window) -> Iterator[tuple[int, int]]:
        return window.gaps() if self._salvage else window.zeros()

    def _give_up(self, lost: Damage) -> None:
        if self._salvage:
            super()._give_up(lost)
