"""The disks of a QEMU without libvirt, exported by QEMU itself while the guest runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from puller.backups.bases.bases import Base, CheckpointMark, checkpoints_of, choose, oldest_of
from puller.backups.bases.history import History
from puller.backups.sources.source import PulledSource
from puller.hypervisor.domain.checkpoint import checkpoint_name
from puller.hypervisor.domain.disks.disk import Disk
from puller.hypervisor.job.job import require_short
from puller.hypervisor.space.scratch import check_free, required_bytes
from puller.qmp.fleecing import FleecedDisks, socket_path
from puller.qmp.machine import QemuMachine


class Fleece(PulledSource):
    """Disks that are fleeced: see ``puller.qmp.fleecing``."""

    def __init__(
        self, machine: QemuMachine, disks: Sequence[Disk], repository_id: str, scratch: Path
    ) -> None:
        super().__init__(disks, scratch)
        self._machine = machine
        self._repository_id = repository_id

    def bases(self, history: History) -> dict[str, Base]:
        """See Source."""
        return choose(history, self._disks, self.bitmaps())

    def bitmaps(self) -> QemuBitmaps:
        """See PulledSource."""
        return QemuBitmaps(self._machine, self._repository_id)

    def check_room(self, bases: Mapping[str, Base]) -> None:
        """See Source. Raises ScratchFull, UsageError; HypervisorError if no socket can be made."""
        socket = socket_path(self._machine, checkpoint_name(self._repository_id, "0" * 8), self.folder)
        require_short(socket, "Name a directory with a shorter path with --scratch-dir.")
        sizes = {drive.disk.target: drive.size for drive in self._machine.drives()}
        check_free(self.folder, required_bytes(sizes[target] for target in bases))

    def freeze(self, bases: Mapping[str, Base], checkpoint: str, point_id: str) -> FleecedDisks:
        """See Source."""
        return FleecedDisks(
            self._machine,
            checkpoints_of(bases),
            checkpoint=checkpoint,
            scratch=self.folder,
            untracked=self._untracked,
        )

    def mark(self, bases: Mapping[str, Base], checkpoint: str) -> CheckpointMark:
        """See Source. The bitmaps are all that there is of a checkpoint."""
        tracked = len(self._untracked) < len(self._disks)
        return CheckpointMark(checkpoint if tracked else None, None)


class QemuBitmaps:
    """The dirty bitmaps of a QEMU without libvirt. Raises HypervisorError."""

    def __init__(self, machine: QemuMachine, repository_id: str) -> None:
        self._drives = machine.drives()
        names = {bitmap.name for drive in self._drives for bitmap in drive.bitmaps}
        self.oldest = oldest_of(names, repository_id)

    def sound(self, checkpoint: str) -> frozenset[str]:
        """See Bitmaps."""
        found = ((drive.disk.target, drive.bitmap(checkpoint)) for drive in self._drives)
        return frozenset(target for target, bitmap in found if bitmap is not None and bitmap.usable)

    def fault(self, checkpoint: str) -> str:
        """See Bitmaps."""
        return f"its dirty bitmap of checkpoint {checkpoint} is missing or inconsistent in QEMU"
