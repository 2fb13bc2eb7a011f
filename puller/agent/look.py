"""A look at the image of a running disk, for where QEMU's word on what changed has to do otherwise.

An image that QEMU pushed has only what the bitmap calls dirty, so there is no clean chunk in it that could
be compared with the base (``puller.agent.bases``). Its image on this host has them all.
"""

from __future__ import annotations

from itertools import chain, islice

from puller.agent.bases import mistrust
from puller.errors import CheckpointUnusable
from puller.hypervisor.disk import Disk
from puller.nbd.export import Export
from puller.nbd.image import ImageServer
from puller.repository.image import DiskImage
from puller.repository.points import DiskRecord
from puller.repository.repository import Repository
from puller.units import chunk_count

_CHUNKS = 64
"""Chunks to look at before the backup begins, 4 MiB: the last ones that the base stores. The guest goes on
writing while QEMU pushes, and what it overwrites then cannot be compared afterwards."""


class Look:
    """What the last chunks of ``disk`` held before a backup began whose base is ``record``.

    QEMU holds back what the guest has not flushed, so a chunk may look older than it is. That makes a sound
    base look wrong at worst. Raises NbdError if the image cannot be opened from here, DamagedData.
    """

    def __init__(self, repository: Repository, disk: Disk, record: DiskRecord) -> None:
        self._repository = repository
        self._disk = disk
        self._record = record
        self._seen = self._read(self._last_stored())

    def _last_stored(self) -> list[int]:
        image = DiskImage(self._repository.maps, self._repository.packs, self._record.root.address)
        pages = image.stored_before(chunk_count(self._record.size))
        return list(islice(chain.from_iterable(reversed(stored) for _, stored in pages), _CHUNKS))

    def _read(self, chunks: list[int]) -> dict[int, bytes]:
        if self._disk.path is None or not chunks:
            return {}
        with ImageServer.in_use(self._disk.path, self._disk.format) as server, Export(server.uri) as export:
            return {number: export.chunk(number) for number in chunks if number < chunk_count(export.size)}

    def chunk(self, number: int) -> bytes:
        """What the chunk held before the backup began if it was looked at then, else what it holds now."""
        if number not in self._seen:
            self._seen |= self._read([number])
        return self._seen.get(number, b"")

    def confirm(self, uri: str, changed: str) -> None:
        """Raise CheckpointUnusable if the changes that are served at ``uri`` are not those since the base."""
        with _Compared(uri, changed, self) as changes:
            if changes.size != self._record.size:
                raise CheckpointUnusable(f"disk {self._disk.target} was resized as the backup began")
            if (why := mistrust(self._repository, changes, self._record)) is not None:
                raise CheckpointUnusable(f"disk {self._disk.target} cannot be incremental: {why}")


class _Compared(Export):
    """Changes whose clean chunks are to be had elsewhere."""

    def __init__(self, uri: str, changed: str, look: Look) -> None:
        super().__init__(uri, changed)
        self._look = look

    def chunk(self, number: int) -> bytes:
        return self._look.chunk(number)
