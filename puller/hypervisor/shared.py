"""A disk that another running machine of this host can write to.

QEMU freezes what passes through itself. What another QEMU writes to the same file or device passes it by, so
a point of such a disk mixes moments; and libvirt 9.0 crashes in the begin of a job that has such a disk
(seen). QEMU's image locks keep a running machine alone with its disks unless they are shareable. Writers on
other hosts are not seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from stat import S_ISBLK

from puller.errors import HypervisorError, UnsupportedDisk
from puller.hypervisor.connection import Host
from puller.hypervisor.domain.disk import Disk
from puller.hypervisor.domain.domain import Domain


def refuse_shared(host: Host, domain: Domain, disks: Sequence[Disk]) -> None:
    """Raise :class:`UnsupportedDisk` if another active domain can write to one of ``disks``."""
    for target, other in writers(host, domain, disks).items():
        raise UnsupportedDisk(
            f"disk {target} of domain {domain.name} is in use by the running domain {other}, "
            "which would write to it during the backup",
            advice=f"Leave it out with --exclude-disk {target}, or back it up while {other} is shut off.",
        )


def writers(host: Host, domain: Domain, disks: Sequence[Disk]) -> dict[str, str]:
    """By target, the name of another active domain that can write to the same source."""
    is_alone = domain.is_active()
    wanted = {_identity(disk): disk.target for disk in disks if disk.shareable or not is_alone}
    if not wanted:
        return {}
    return {
        wanted[_identity(disk)]: other.name
        for other in host.active_domains()
        if other.uuid != domain.uuid
        for disk in _writable(other)
        if _identity(disk) in wanted
    }


def _writable(domain: Domain) -> Iterator[Disk]:
    with suppress(HypervisorError):  # it was shut off just now
        yield from (disk for disk in domain.disks() if disk.holds_changes)


def _identity(disk: Disk) -> tuple[object, ...]:
    """What is the same of two disks on one source, whatever they call it."""
    return ("source", disk.source) if disk.path is None else _node(disk.path)


def _node(path: Path) -> tuple[object, ...]:
    try:
        found = path.stat()
    except OSError:
        return "path", path
    if S_ISBLK(found.st_mode):
        return "device", found.st_rdev
    return "file", found.st_dev, found.st_ino
