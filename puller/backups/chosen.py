"""The disks of a domain that a backup or a freeze is of."""

from __future__ import annotations

from collections.abc import Sequence

from puller.errors import RollbackUnfinished
from puller.hypervisor.domain.disk import Disk
from puller.hypervisor.domain.domain import Domain
from puller.hypervisor.domain.facts import with_facts
from puller.hypervisor.domain.image import with_stored_chain
from puller.hypervisor.storage.rollback_mark import UNREADABLE, find_mark


def chosen_disks(
    domain: Domain, wanted: Sequence[str], exclude: Sequence[str], exclude_if_present: Sequence[str] = ()
) -> tuple[Disk, ...]:
    """Return the chosen disks, with the images behind them. Raises NoSuchDisk, UnsupportedDisk."""
    chosen = domain.select_disks(wanted, exclude, exclude_if_present)
    known = with_facts(domain, chosen)
    return (
        known
        if domain.is_active()
        else tuple(with_stored_chain(disk, domain.scope, domain.host) for disk in known)
    )


def refuse_half_rolled_back(domain: Domain, disks: Sequence[Disk]) -> None:
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
