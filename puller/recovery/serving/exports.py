"""The served disks, and what of their failures puller's user is told."""

from __future__ import annotations

import threading
from collections.abc import Callable

from puller.cancelling import WORK, CancelScope, RetryPolicy
from puller.errors import DamagedData, NoSuchDisk, PullerError
from puller.recovery.diskcopy import open_image
from puller.recovery.serving.chunks import ChunkCache
from puller.recovery.serving.disk import Run, ServedDisk
from puller.recovery.serving.fetching import Fetcher
from puller.recovery.serving.hold import Hold
from puller.recovery.serving.opening import open_session
from puller.recovery.serving.overlay import OverlaidDisk
from puller.recovery.serving.session import Session

_TOLD = 10_000
"""Damaged ranges that are remembered, so that each is told once."""


Disk = ServedDisk | OverlaidDisk


class Exports:
    """The disks that ``session`` names; ``tell`` passes a text on to puller's user.

    Raises what ``opening.open_session`` does.
    """

    def __init__(self, session: Session, tell: Callable[[str], None], policy: RetryPolicy = WORK) -> None:
        self._tell = tell
        self._scope = CancelScope(policy, tell)
        served = open_session(session, self._scope, tell)
        self.point = served.point
        self._repository = served.repository
        self._cache = ChunkCache(session.memory)
        self._images = {
            record.disk: open_image(self._repository, self.point, record) for record in served.records
        }
        self._is_writable = session.writable
        self.disks: list[Disk] = []
        self._told: set[str] = set()
        self._failing = False
        self._lock = threading.Lock()
        self._hold = Hold(self._repository, self.point, tell)

    def begin(self) -> None:
        """Start the threads, in the process that will serve. Raises ServeFailed."""
        fetcher = Fetcher(self._cache, self._repository.maps.table, self._scope)
        served = [
            ServedDisk(name, self._repository, image, self._cache, fetcher)
            for name, image in self._images.items()
        ]
        self.disks = [OverlaidDisk(disk) for disk in served] if self._is_writable else [*served]
        self._hold.begin()  # last, because a process that fails here lets nothing go

    def end(self) -> None:
        """End all waits, and let the point go. It may be called twice."""
        self._scope.cancel()
        self._hold.end()

    def named(self, name: str) -> Disk:
        """Return the disk of this name. Raises NoSuchDisk."""
        for disk in self.disks:
            if disk.name == name or not name:
                return disk
        raise NoSuchDisk(f"no disk {name!r} is served")

    def description(self, disk: Disk) -> str:
        """Describe the disk in one line."""
        return f"disk {disk.name} of {self.point.domain}, point {self.point.point}"

    def read(self, disk: Disk, buffer: memoryview, offset: int) -> None:
        """Fill ``buffer`` from ``offset``; what fails is told and raised."""
        try:
            disk.read_into(buffer, offset)
        except PullerError as error:
            self._note(disk, offset, error)
            raise
        self._failing = False

    def write(self, disk: OverlaidDisk, content: memoryview, offset: int) -> None:
        """Write ``content`` at ``offset``; what cannot be read of a chunk's rest is told and raised."""
        try:
            disk.write(content, offset)
        except PullerError as error:
            self._note(disk, offset, error)
            raise

    def zero(self, disk: OverlaidDisk, offset: int, count: int) -> None:
        """Make the range read as zeros; as ``write``."""
        try:
            disk.zero(offset, count)
        except PullerError as error:
            self._note(disk, offset, error)
            raise

    def runs(self, disk: Disk, offset: int, count: int) -> list[Run]:
        """Return what of the range is stored; what fails is told and raised."""
        try:
            return list(disk.runs(offset, count))
        except PullerError as error:
            self._note(disk, offset, error)
            raise

    def _note(self, disk: Disk, offset: int, error: PullerError) -> None:
        """Tell of each damaged range once, and of an outage once until a read succeeds."""
        with self._lock:
            if isinstance(error, DamagedData):
                is_new = error.message not in self._told and len(self._told) < _TOLD
                self._told.add(error.message)
                text = error.message
            else:
                is_new, self._failing = not self._failing, True
                text = f"cannot read disk {disk.name} at byte {offset}: {error.message}"
        if is_new and not self._scope.cancelled:
            self._tell(text)
