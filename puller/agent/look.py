"""A look at the image of a running disk, for where QEMU's word on what changed has to do otherwise.

An image that QEMU pushed has only what the bitmap calls dirty, so there is no clean chunk in it that could
be compared with the base (``puller.agent.bases``). Its image on this host has them all.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import chain, islice

from puller.agent.bases import mistrust, stretches
from puller.errors import CheckpointUnusable
from puller.hypervisor.disk import Disk
from puller.nbd.export import Export
from puller.nbd.image import ImageServer, Keys
from puller.repository.image import DiskImage
from puller.repository.points import DiskRecord
from puller.repository.repository import Repository
from puller.store.patience import current, long
from puller.units import Extent, chunk_count

_CHUNKS = 16
"""Chunks of each stretch to look at before the backup begins, 4 MiB of a disk: the last ones that the base
stores. The guest goes on writing while QEMU pushes, and what it overwrites then cannot be compared
afterwards."""

_FLUSH = 35.0
"""Seconds in which a guest flushes what it has written: ext4 and NTFS do every 5 s, XFS every 30 s."""

_PAUSE = 1.0


class Look:
    """What chunks of ``disk``, which ``keys`` open, held before a backup began whose base is ``record``.

    QEMU holds back what the guest has not flushed, so a chunk may look older than it is. That makes a sound
    base look wrong at worst. ``tell`` is called before a wait. Raises NbdError if the image
    cannot be opened from here, DamagedData.
    """

    def __init__(
        self,
        repository: Repository,
        disk: Disk,
        record: DiskRecord,
        tell: Callable[[str], None],
        keys: Keys = (),
    ) -> None:
        self._keys = keys
        self._repository = repository
        self._tell = tell
        self._disk = disk
        self._record = record
        self._seen = self._read(self._last_stored())

    def _last_stored(self) -> list[int]:
        image = DiskImage(self._repository.maps, self._repository.packs, self._record.root.address)
        found: list[int] = []
        for start, stop in stretches(image, chunk_count(self._record.size)):
            pages = image.stored_between(start, stop)
            found += islice(chain.from_iterable(reversed(stored) for _, stored in pages), _CHUNKS)
        return found

    def _read(self, chunks: list[int]) -> dict[int, bytes]:
        if self._disk.path is None or not chunks:
            return {}
        opened = ImageServer.in_use(self._disk.path, self._disk.format, self._keys)
        with opened as server, Export(server.uri) as export:
            return {number: export.chunk(number) for number in chunks if number < chunk_count(export.size)}

    def before(self, number: int) -> bytes | None:
        """What the chunk held before the backup began, if it was looked at then."""
        content = self._seen.get(number)
        return content if content is None or any(content) else self._flushed(number)

    def now(self, number: int) -> bytes:
        """What the chunk holds now."""
        return self._read([number]).get(number, b"")

    def _flushed(self, number: int) -> bytes:
        """What a chunk holds that was stored and seems to be empty, once the guest has flushed.

        To wait is cheap: no job is open, and to doubt the base is to push all of the disk. But it has to be
        seen: the last chunk of a disk that was cut and has grown again seems to be empty too.
        """
        waiting = current() or long()  # a signal ends it, in whatever thread this is
        deadline = time.monotonic() + _FLUSH
        told = False
        while not any(content := self.now(number)) and not waiting.ended and time.monotonic() < deadline:
            if not told:
                self._tell(
                    f"waiting up to {_FLUSH:.0f} s for the guest to flush what the last point holds of it"
                )
                told = True
            waiting.pause(_PAUSE)
        return content

    def confirm(self, uri: str, changed: str) -> None:
        """Raise CheckpointUnusable if the changes that are served at ``uri`` are not those since the base."""
        with Export(uri, changed) as changes:
            if changes.size != self._record.size:
                raise CheckpointUnusable(f"disk {self._disk.target} was resized as the backup began")
            if (why := mistrust(self._repository, _Compared(changes, self), self._record)) is not None:
                raise CheckpointUnusable(f"disk {self._disk.target} cannot be incremental: {why}")


class _Compared:
    """Changes whose clean chunks are to be had elsewhere."""

    def __init__(self, changes: Export, look: Look) -> None:
        self.size = changes.size
        self._changes = changes
        self._look = look
        self._compared = False

    def dirty(self, start: int = 0, end: int | None = None) -> Iterator[Extent]:
        """See Export."""
        return self._changes.dirty(start, end)

    def chunk(self, number: int) -> bytes | None:
        """See Compared. One has to be compared, even if the guest may have overwritten it since."""
        content = self._look.before(number)
        if content is None and not self._compared:
            content = self._look.now(number)
        self._compared = True
        return content
