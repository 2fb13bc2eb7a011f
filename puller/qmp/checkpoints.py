"""Checkpoints of a QEMU without libvirt: bitmaps of one name on the disks that were frozen together."""

from __future__ import annotations

from puller.hypervisor.domain.checkpoint import OWN, Checkpoint
from puller.qmp.machine import QemuMachine
from puller.qmp.names import is_changes


def list_checkpoints(machine: QemuMachine) -> tuple[Checkpoint, ...]:
    """Return puller's checkpoints of any repository, oldest first: their names hold the time."""
    disks: dict[str, set[str]] = {}
    for drive, name in machine.bitmaps(OWN):
        if not is_changes(name):
            disks.setdefault(name, set()).add(drive.disk.target)
    return tuple(Checkpoint(name, frozenset(disks[name]), 0, None) for name in sorted(disks))


def delete(machine: QemuMachine, name: str) -> None:
    """Remove the bitmaps of our checkpoint ``name``, inconsistent ones too. Raises HypervisorError."""
    if not name.startswith(OWN):
        raise ValueError(f"checkpoint {name} is not puller's to delete")
    for drive in machine.drives():
        if drive.bitmap(name) is not None:
            machine.remove_bitmap(drive, name)
