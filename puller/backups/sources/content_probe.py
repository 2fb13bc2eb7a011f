"""A probe of the image of a running disk, for an incremental push.

An image that QEMU pushed holds only the chunks that the bitmap calls dirty, so it has no clean chunk to
compare with the base (``puller.backups.bases.probe``). The disk's own image on this host has them all.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from puller.backups.bases.probe import FOREIGN, Probe
from puller.cancelling import Scoped
from puller.errors import CheckpointUnusable, DamagedData, NbdError
from puller.host.access import LOCAL, HostAccess
from puller.hypervisor.domain.disks.disk import Disk
from puller.nbd.export import Export
from puller.nbd.image import ImageServer, Keys
from puller.repository.points import DiskRecord
from puller.repository.repository import Repository
from puller.units import CHUNK, Extent

_DEPTH = 16
"""Chunks at the end of each quarter to read before the backup begins: what is dirty is not known yet, and
of what the guest overwrites while QEMU pushes nothing can be compared afterwards."""

_FLUSH = 35.0
"""Seconds within which a guest flushes its writes: ext4 and NTFS every 5 s, XFS every 30 s."""

_PAUSE = 1.0


class ContentProbe(Scoped):
    """Content of places of ``disk``, which ``keys`` open, before a backup with the base ``record``.

    QEMU may hold back writes that the guest has not flushed, so a chunk may appear older than it is. At worst
    that rejects a sound base. ``tell`` is called once, before the first wait. Raises NbdError if the image
    cannot be opened on this host, DamagedData.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - the parts of a probe
        self,
        repository: Repository,
        disk: Disk,
        record: DiskRecord,
        tell: Callable[[str], None],
        keys: Keys = (),
        host: HostAccess = LOCAL,
        *,
        image_changed: bool = False,
    ) -> None:
        self.scope = repository.scope
        self._keys = keys
        self._host = host
        self._tell = tell
        self._disk = disk
        self._record = record
        self._flushed_at: float | None = None
        self._told = False
        self._probe = Probe(repository, record, record.size, image_changed=image_changed)
        with self._opened() as server, Export(server.uri, scope=self.scope) as export:
            if export.size != record.size:
                raise NbdError(f"image {disk.path} has {export.size} bytes, the disk has {record.size}")
            places = self._probe.places(_Undated(export), _DEPTH)
            self._seen = {number: self._probe.mark(export.chunk(number)) for number in places}

    def _opened(self) -> ImageServer:
        if self._disk.path is None:
            raise ValueError(f"disk {self._disk.target} has no image on this host")
        return ImageServer.in_use(self._disk.path, self._disk.format, self._keys, self.scope, self._host)

    def _now(self, number: int) -> bytes:
        try:
            with self._opened() as server, Export(server.uri, scope=self.scope) as export:
                return self._probe.mark(export.chunk(number)) if number * CHUNK < export.size else b""
        except NbdError:
            self.scope.check()  # the connection was interrupted
            raise

    def is_foreign(self, number: int) -> bool:
        """Return whether a clean chunk differs from the base after the guest has flushed.

        Waiting is cheap: no job is open, and rejecting the base means to push all of the disk. But the wait
        must end: the last chunk of a disk that was shrunk and has grown again appears empty too.
        """
        probe, mark = self._probe, self._seen[number]
        if not probe.differs(number, mark):
            return False
        if mark and not probe.is_zero(number):
            return True  # a pending flush affects a whole cluster, which does not exist yet or still exists
        while probe.differs(number, self._now(number)):
            self.scope.check()
            if time.monotonic() >= self._deadline():
                return True
            self._say_once()
            self.scope.pause(_PAUSE)
        return False

    def _deadline(self) -> float:
        """Return when all writes of the guest before the probe are flushed: the same time for each chunk."""
        if self._flushed_at is None:
            self._flushed_at = time.monotonic() + _FLUSH
        return self._flushed_at

    def _say_once(self) -> None:
        if not self._told:
            self._tell(f"waiting up to {_FLUSH:.0f} s for the guest to flush data that the last point holds")
        self._told = True

    def confirm(self, uri: str, changed: str) -> None:
        """Raise CheckpointUnusable if the changes served at ``uri`` are not those since the base."""
        with Export(uri, changed, self.scope) as changes:
            if changes.size != self._record.size:
                raise CheckpointUnusable(f"disk {self._disk.target} was resized as the backup began")
            try:
                found = any(self.is_foreign(number) for number in self._clean(changes))
            except DamagedData as error:
                raise self._unusable(f"its last map is damaged: {error.message}") from error
            if found:
                raise self._unusable(FOREIGN)

    def _unusable(self, why: str) -> CheckpointUnusable:
        return CheckpointUnusable(f"disk {self._disk.target} cannot be incremental: {why}")

    def _clean(self, changes: Export) -> Iterator[int]:
        return (
            number
            for number in self._seen
            if next(changes.dirty(number * CHUNK, (number + 1) * CHUNK), None) is None
        )


class _Undated:
    """An image whose changes are not known yet, so that every place may be compared."""

    def __init__(self, export: Export) -> None:
        self.size = export.size
        self.allocation = export.allocation
        self.chunk = export.chunk

    def dirty(self, start: int = 0, end: int | None = None) -> Iterator[Extent]:
        """Yield nothing."""
        return iter(())
