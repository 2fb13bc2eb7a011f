"""The source of a domain's frozen disks: the only part in which backups differ.

libvirt freezes a running domain, and its disks are pulled from QEMU (``pull``) or first pushed by QEMU into
images (``push``). For a domain that is shut off, the images themselves are read (``offline``). The disks of
a QEMU without libvirt are exported by QEMU itself (``fleece``). The transaction uses only this interface.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from puller.backups.bases.bases import (
    Base,
    Bitmaps,
    CheckpointMark,
    LiveBitmaps,
    checkpoints_of,
    choose,
)
from puller.backups.bases.history import History
from puller.backups.sources.ways import Way, unix_socket
from puller.hypervisor.domain import checkpoint as checkpoints
from puller.hypervisor.domain.disks.disk import Disk
from puller.hypervisor.domain.disks.image import untracked
from puller.hypervisor.domain.domain import Domain
from puller.hypervisor.job.frozen import FrozenDisks
from puller.hypervisor.job.job import PullJob
from puller.hypervisor.space.scratch import check_free, required_bytes
from puller.hypervisor.space.seal import seal_of


class Source:
    """Source of ``disks`` for one run. libvirt or QEMU creates temporary files in ``folder``.

    This base class serves a domain without a disk to back up: its point holds the configuration, and nothing
    is frozen.
    """

    mode = "pull"
    """The mode in the point: ``pull`` or ``push``."""

    def __init__(self, disks: Sequence[Disk], folder: Path) -> None:
        self._disks = disks
        self._untracked = untracked_targets(disks)
        self.folder = folder

    def omit_checkpoint(self) -> None:
        """Create no checkpoint: later runs continue from the ones that exist."""
        self._untracked = frozenset(disk.target for disk in self._disks)

    def bases(self, history: History) -> dict[str, Base]:
        """Return the base of each disk, by target. Raises StoreError, HypervisorError."""
        return {}

    def check_room(self, bases: Mapping[str, Base]) -> None:
        """Raise ScratchFull or StagingFull if there is too little space for the temporary files."""

    def freeze(self, bases: Mapping[str, Base], checkpoint: str, point_id: str) -> FrozenDisks:
        """Return the disks as a context; entering it creates ``checkpoint`` if possible."""
        return FrozenDisks()

    def mark(self, bases: Mapping[str, Base], checkpoint: str) -> CheckpointMark:
        """Return the checkpoint by which later runs will find the changes since this point."""
        return CheckpointMark(None, None)


class PulledSource(Source):
    """Disks that are read where they are."""

    def bitmaps(self) -> Bitmaps:
        """Return the dirty bitmaps of the disks. Raises HypervisorError."""
        raise NotImplementedError


class DomainSource(Source):
    """Disks of a domain of libvirt."""

    def __init__(self, domain: Domain, disks: Sequence[Disk], folder: Path) -> None:
        super().__init__(disks, folder)
        self._domain = domain

    def mark(self, bases: Mapping[str, Base], checkpoint: str) -> CheckpointMark:
        """See Source."""
        if len(self._untracked) == len(self._disks):
            return CheckpointMark(None, None)
        return CheckpointMark(checkpoint, checkpoints.xml(self._domain, checkpoint))


class Pull(DomainSource, PulledSource):
    """QEMU exports the disks while the guest runs; see ``puller.hypervisor.job.job``."""

    def __init__(
        self, domain: Domain, disks: Sequence[Disk], repository_id: str, scratch: Path, way: Way = unix_socket
    ) -> None:
        super().__init__(domain, disks, scratch)
        self._repository_id = repository_id
        self._way = way

    def bases(self, history: History) -> dict[str, Base]:
        """See Source."""
        return choose(history, self._disks, self.bitmaps())

    def bitmaps(self) -> LiveBitmaps:
        """Return the dirty bitmaps of the disks. Raises HypervisorError."""
        return LiveBitmaps(self._domain, self._repository_id)

    def check_room(self, bases: Mapping[str, Base]) -> None:
        """See Source. Raises ScratchFull, UsageError; HypervisorError if no socket can be made."""
        self._way(self._domain, checkpoints.checkpoint_name(self._repository_id, "0" * 8))
        if not self._domain.host.has_files:
            return  # which the point notes
        sizes = (self._domain.disk_size(target) for target in bases)
        check_free(self.folder, required_bytes(sizes), self._domain.host)

    def freeze(self, bases: Mapping[str, Base], checkpoint: str, point_id: str) -> PullJob:
        """See Source."""
        listener = self._way(self._domain, checkpoint)
        seal = seal_of(self._domain, self._disks, checkpoint)
        return PullJob(
            self._domain, checkpoints_of(bases), checkpoint, self.folder, listener, self._untracked, seal
        )


def untracked_targets(disks: Sequence[Disk]) -> frozenset[str]:
    """Return the disks that cannot have a dirty bitmap."""
    return frozenset(disk.target for disk in disks if untracked(disk) is not None)
