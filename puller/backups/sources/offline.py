"""The disks of a domain that is shut off, read from their images by ``qemu-nbd``.

A checkpoint can be created only while the domain runs. So a point that is taken here has no own checkpoint:
the newest one stays, its bitmaps go on recording all writes in the images, and a later run is incremental by
them from the point with which they were created (``puller.backups.bases.bases``)::

    checkpoint's own point ──────── shut off: this point ────── started, written to ────── next point
        └── the bitmap records ─────────────────────────────────────────────────────────────►

While a qcow2 image is read, ``qemu-nbd`` holds QEMU's lock on it: QEMU refuses to start the domain meanwhile
(``Failed to get "write" lock``), and starts it once the backup is over. Without the lock the guest could
start and change the images while they are read. For raw images QEMU does not separate readers from writers.
So at the end puller checks that nobody has written to any file of the image's chain, including data files
and backing files. A block device does not record writes (QEMU has its own node for it, in its mount
namespace), so puller also listens for starts of the domain.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from puller.backups.bases.bases import Base, CheckpointMark, choose, newest_checkpoint, oldest_of
from puller.backups.bases.history import History
from puller.backups.sources.source import DomainSource, PulledSource
from puller.backups.sources.unlock import keys_of, remote_image, require_keys
from puller.errors import (
    DomainNotRunning,
    HypervisorError,
    Locked,
    NbdError,
    UnsupportedDisk,
)
from puller.host.access import FileStatus
from puller.hypervisor.domain.disks.disk import Disk
from puller.hypervisor.domain.disks.image import files_of, image_facts, stored_bitmaps
from puller.hypervisor.domain.domain import Domain
from puller.hypervisor.job.events import Starts
from puller.hypervisor.job.frozen import DiskExport, FrozenDisks
from puller.nbd.image import ImageServer, Keys
from puller.nbd.strays import end_strays

_USABLE = frozenset({"auto"})


def image_of(domain: Domain, disk: Disk) -> Path:
    """Return the image file or device of the disk. Raises UnsupportedDisk if this host has none."""
    if disk.path is None:
        raise UnsupportedDisk(
            f"cannot read disk {disk.target} of domain {domain.name}: it is {disk.type}, "
            "and the domain is shut off",
            advice=f"Start the domain, or leave the disk out with --exclude-disk {disk.target}.",
        )
    return disk.path


def require_openable(domain: Domain, disk: Disk) -> None:
    """Raise UnsupportedDisk if neither this host nor QEMU by itself can open the disk's image."""
    if disk.node is None:
        image_of(domain, disk)


class Offline(DomainSource, PulledSource):
    """The images of a domain that is shut off."""

    def __init__(self, domain: Domain, disks: Sequence[Disk], repository_id: str, folder: Path) -> None:
        super().__init__(domain, disks, folder)
        self._repository_id = repository_id
        self._keys: dict[str, Keys] = {}

    def bases(self, history: History) -> dict[str, Base]:
        """See Source."""
        return choose(history, self._disks, self.bitmaps())

    def bitmaps(self) -> StoredBitmaps:
        """Return the dirty bitmaps in the images. Raises HypervisorError."""
        return StoredBitmaps.of(self._domain, self._disks, self._repository_id)

    def check_room(self, bases: Mapping[str, Base]) -> None:
        """Check that encrypted images can be opened. A domain that is shut off needs no temporary files.

        Raises UnsupportedDisk.
        """
        for disk in self._disks:
            self._keys[disk.target] = keys_of(self._domain, disk)
            require_keys(self._domain, disk, self._keys[disk.target])

    def freeze(self, bases: Mapping[str, Base], checkpoint: str, point_id: str) -> StoredDisks:
        """See Source."""
        return StoredDisks(self._domain, self._disks, bases, self._keys)

    def mark(self, bases: Mapping[str, Base], checkpoint: str) -> CheckpointMark:
        """See Source: the existing checkpoint stays."""
        return newest_checkpoint(bases)


class StoredBitmaps:
    """The dirty bitmaps in the images of a domain that is shut off: by target, the flags of each by name."""

    def __init__(self, flags: Mapping[str, Mapping[str, frozenset[str]]], repository_id: str) -> None:
        self._flags = flags
        known = {name for bitmaps in self._flags.values() for name in bitmaps}
        self.oldest = oldest_of(known, repository_id)

    @classmethod
    def of(cls, domain: Domain, disks: Sequence[Disk], repository_id: str) -> Self:
        """Return those of the ``disks``. Raises HypervisorError."""
        for disk in disks:
            require_openable(domain, disk)
        flags = {disk.target: cls._flags_of(domain, disk) for disk in disks}
        return cls(flags, repository_id)

    @staticmethod
    def _flags_of(domain: Domain, disk: Disk) -> dict[str, frozenset[str]]:
        """A disk elsewhere is read as a whole: libvirt makes no bitmap in most of them."""
        if disk.path is None:
            return {}
        return stored_bitmaps(image_facts(disk.path, disk.format, domain.scope, domain.host))

    def sound(self, checkpoint: str) -> frozenset[str]:
        """See Bitmaps."""
        return frozenset(
            target for target, bitmaps in self._flags.items() if bitmaps.get(checkpoint) == _USABLE
        )

    def fault(self, checkpoint: str) -> str:
        """See Bitmaps."""
        return f"its dirty bitmap of checkpoint {checkpoint} is missing or inconsistent in the image"


class StoredDisks(FrozenDisks):
    """The images of a domain that is shut off: FrozenDisks while it lasts.

    ``keys`` open the images of each disk, by target. Entering raises Locked if an image is in use, NbdError
    if one cannot be served.
    """

    def __init__(
        self,
        domain: Domain,
        disks: Sequence[Disk],
        bases: Mapping[str, Base],
        keys: Mapping[str, Keys],
    ) -> None:
        self._domain = domain
        self._disks = disks
        self._bases = bases
        self._keys = keys
        self._host = domain.host
        self._starts = Starts(domain)
        self._servers = ExitStack()
        self._seen: dict[Path, FileStatus] = {}

    def __enter__(self) -> Self:
        end_strays(self._host, self._domain.scope)
        with ExitStack() as servers:
            servers.enter_context(self._starts)
            self.exports = tuple(self._serve(servers, disk) for disk in self._disks)
            self.confirm()
            self._servers = servers.pop_all()
        return self

    def __exit__(self, *failure: Any) -> None:
        self._servers.__exit__(*failure)

    def _serve(self, servers: ExitStack, disk: Disk) -> DiskExport:
        if disk.path is None:
            return self._serve_remote(servers, disk)
        path, bitmap = disk.path, self._bases[disk.target].checkpoint
        self._seen[path] = self._trace(path)  # before its header is read, which names the other files
        self._seen |= {
            file: self._trace(file)
            for file in files_of(path, disk.format, self._domain.scope, self._host)
            if file != path
        }
        try:
            keys = self._keys[disk.target]
            served = ImageServer.read_only(
                path, disk.format, bitmap=bitmap, keys=keys, scope=self._domain.scope, host=self._host
            )
            server = servers.enter_context(served)
        except NbdError as error:
            if "lock" not in error.message:
                raise
            raise Locked(
                f"image {path} of domain {self._domain.name} is in use by another process",
                advice="Wait until it is free; if the domain was started, run the backup again.",
            ) from error
        return DiskExport(disk.target, server.uri, None if bitmap is None else f"qemu:dirty-bitmap:{bitmap}")

    def _serve_remote(self, servers: ExitStack, disk: Disk) -> DiskExport:
        """Serve an image on the network, whose changes are not seen, or a part of a file."""
        image = remote_image(self._domain, disk)
        if image is None or disk.node is None:
            raise ValueError(f"disk {disk.target} has no image that QEMU can open")
        if disk.node.file is not None:
            self._seen[disk.node.file] = self._trace(disk.node.file)
        keys = self._keys[disk.target]
        served = ImageServer.read_only(
            image, disk.format, keys=keys, scope=self._domain.scope, host=self._host
        )
        return DiskExport(disk.target, servers.enter_context(served).uri, None)

    def _trace(self, path: Path) -> FileStatus:
        """Return what changes when a file is written. For a device it only identifies it."""
        try:
            found = self._host.status(path)
        except OSError as error:
            raise _unread(path, error.strerror or "") from error
        if found is None:
            raise _unread(path, os.strerror(errno.ENOENT))
        return found

    @property
    def consistency(self) -> str:
        """``offline``, unless the guest is to resume from a saved state."""
        return "crash" if self._domain.is_saved() else "offline"

    def confirm(self) -> None:
        """Raise DomainNotRunning if the domain was started, HypervisorError if an image was written."""
        if self._starts.any():
            raise DomainNotRunning(
                f"domain {self._domain.name} was started while its images were read",
                advice="Run the backup again: the domain is running now.",
            )
        for path, seen in self._seen.items():
            if self._trace(path) != seen:
                raise HypervisorError(
                    f"image {path} of domain {self._domain.name} was changed while it was read",
                    advice="Find out which program writes to the domain's images, then run the backup again.",
                )


def _unread(path: Path, why: str) -> HypervisorError:
    return HypervisorError(
        f"cannot read image {path}: {why}", advice="Check that the disk's storage is present."
    )
