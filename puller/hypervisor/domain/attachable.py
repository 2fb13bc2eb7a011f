"""What a point holds of a domain besides disks and firmware state: files of the host, and libvirt's records.

Snapshots and other tools' checkpoints are stored as libvirt describes them. A restore puts these records
beside the disks and defines none of them: restored images have no internal snapshots and no bitmaps.
"""

from __future__ import annotations

import libvirt

from puller.errors import HypervisorError
from puller.hypervisor.domain.checkpoint import OWN
from puller.hypervisor.domain.domain import Domain
from puller.hypervisor.domain.hostfiles import HostFile
from puller.hypervisor.faults import translate
from puller.units import MIB, format_bytes

MEDIUM_LIMIT = 16 * MIB
"""Bytes of a medium that a point holds by default: enough for a seed of cloud-init or a floppy disk."""

BOOT_LIMIT = 64 * MIB
"""Bytes of a kernel, an initrd and the like: contents are in memory while the disks are read."""


def read_file(domain: Domain, file: HostFile, medium_limit: int) -> bytes:
    """Return the content of ``file``. Raises HypervisorError if it is too large or cannot be read."""
    limit = medium_limit if file.target else max(BOOT_LIMIT, medium_limit)
    try:
        found = domain.host.status(file.path)
        if found is None or found.kind != "file":
            why = "no such file" if found is None else "not a regular file"
            raise HypervisorError(f"cannot read {file.label}: {why}")
        content = domain.host.read(file.path, limit + 1)
    except OSError as error:
        raise HypervisorError(
            f"cannot read {file.label}: {error.strerror or error}", advice="Run puller as root."
        ) from error
    if len(content) > limit:
        raise HypervisorError(f"{file.label} is larger than {format_bytes(limit)}")
    return content


def snapshots_xml(domain: Domain, *, sealed: bool) -> bytes | None:
    """Return libvirt's description of each snapshot, with passwords if ``sealed``; None without any."""
    flags = libvirt.VIR_DOMAIN_SNAPSHOT_XML_SECURE if sealed else 0
    with translate(f"cannot read the snapshots of domain {domain.name}"):
        found = domain.handle.listAllSnapshots(libvirt.VIR_DOMAIN_SNAPSHOT_LIST_TOPOLOGICAL)
        return _document("domainsnapshots", [snapshot.getXMLDesc(flags) for snapshot in found])


def checkpoints_xml(domain: Domain, *, sealed: bool) -> bytes | None:
    """Return libvirt's description of each checkpoint that is not puller's; None without any."""
    flags = libvirt.VIR_DOMAIN_CHECKPOINT_XML_SECURE if sealed else 0
    with translate(f"cannot read the checkpoints of domain {domain.name}"):
        found = domain.handle.listAllCheckpoints(libvirt.VIR_DOMAIN_CHECKPOINT_LIST_TOPOLOGICAL)
        others = [checkpoint for checkpoint in found if not checkpoint.getName().startswith(OWN)]
        return _document("domaincheckpoints", [checkpoint.getXMLDesc(flags) for checkpoint in others])


def _document(tag: str, records: list[str]) -> bytes | None:
    return f"<{tag}>\n{''.join(records)}</{tag}>\n".encode() if records else None
