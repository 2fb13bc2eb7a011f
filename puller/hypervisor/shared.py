"""Disks to which another running domain of this host can write.

QEMU freezes only the writes that pass through it. Another QEMU that writes to the same file or device is not
frozen, so a point of such a disk would mix moments; and libvirt 9.0 crashes at the start of a job with such
a disk (seen). QEMU's image locks keep a disk to one running domain unless it is shareable. Writers on other
hosts cannot be detected.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress

from puller.errors import HypervisorError, UnsupportedDisk
from puller.hypervisor.connection import Host
from puller.hypervisor.domain.disks.disk import Disk
from puller.hypervisor.domain.domain import Domain
from puller.hypervisor.storage.storage import DistantStorage, Storage, storage_on


def refuse_shared(host: Host, domain: Domain, disks: Sequence[Disk]) -> None:
    """Raise :class:`UnsupportedDisk` if another active domain can write to one of ``disks``."""
    for target, other in writers(host, domain, disks).items():
        raise UnsupportedDisk(
            f"cannot back up disk {target} of domain {domain.name}: the running domain {other} uses it "
            "and could write to it during the backup",
            advice=f"Leave it out with --exclude-disk {target}, or back it up while {other} is shut off.",
        )


def writers(host: Host, domain: Domain, disks: Sequence[Disk]) -> dict[str, str]:
    """Return by target the name of another active domain that can write to the same source."""
    is_alone = domain.is_active()
    asked = [disk for disk in disks if disk.shareable or not is_alone]
    if not asked:
        return {}
    others = [other for other in host.active_domains() if other.uuid != domain.uuid]
    used = [(other.name, disk) for other in others for disk in _writable(other)]
    wanted = [(disk, storage) for disk in asked for storage in _storages(domain, disk)]
    return {
        disk.target: name
        for disk, storage in wanted
        for name, theirs in used
        if _is_shared(disk, storage, theirs)
    }


def _storages(domain: Domain, disk: Disk) -> Iterator[Storage | DistantStorage | None]:
    """Yield where the image of the disk is, and where its data file is if it has one."""
    yield None if disk.path is None else storage_on(domain.host, disk.path)
    if disk.data_file is not None:
        yield storage_on(domain.host, disk.data_file)


def _writable(domain: Domain) -> Iterator[Disk]:
    with suppress(HypervisorError):  # it has just been shut off
        yield from (disk for disk in domain.disks() if disk.holds_changes)


def _is_shared(disk: Disk, storage: Storage | DistantStorage | None, theirs: Disk) -> bool:
    """Return whether ``theirs`` shares bytes with ``disk``, which is at ``storage``, under any name."""
    if storage is None or theirs.path is None:
        return (disk.path or disk.source) == (theirs.path or theirs.source)
    return storage.is_at(str(theirs.path))
