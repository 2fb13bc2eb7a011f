"""Disks whose rollback was not completed: neither a backup nor a freeze may read them."""

from __future__ import annotations

from collections.abc import Sequence

from puller.backups.machines.machine import Machine
from puller.errors import RollbackUnfinished
from puller.hypervisor.domain.disks.disk import Disk
from puller.hypervisor.storage.rollback_mark import UNREADABLE, find_mark


def refuse_half_rolled_back(domain: Machine, disks: Sequence[Disk]) -> None:
    """Raise RollbackUnfinished if a rollback of one of ``disks`` was not completed."""
    for disk in disks:
        if disk.path is None or (mark := find_mark(disk.path, domain.host)) is None:
            continue
        known = mark != UNREADABLE
        raise RollbackUnfinished(
            f"the rollback of disk {disk.target} of domain {domain.name} to "
            f"{f'point {mark.point}' if known else 'an unknown point'} was not completed: "
            "the disk is partly old and partly new",
            advice=f"Shut {domain.name} off and run 'puller restore {mark.point if known else 'POINT'} "
            f"--in-place' again, or leave the disk out with --exclude-disk {disk.target}.",
        )
