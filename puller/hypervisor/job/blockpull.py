"""Pulling what is behind a disk's image into the image, while the guest runs.

See https://libvirt.org/html/libvirt-libvirt-domain.html#virDomainBlockPull.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import dataclass

import libvirt

from puller.errors import JobRunning
from puller.hypervisor.domain.domain import Domain
from puller.hypervisor.faults import code_of, text_of, translate


@dataclass(frozen=True, slots=True)
class PullProgress:
    """Bytes of the disk that the job has dealt with, of all."""

    done: int
    total: int


def begin_pull(domain: Domain, target: str, rate: int | None) -> None:
    """Begin to pull the disk ``target``, at most ``rate`` bytes per second.

    Raises JobRunning if libvirt has not yet come to the end of an earlier job, HypervisorError.
    """
    doing = f"cannot pull disk {target} of domain {domain.name}"
    with translate(doing):
        try:
            domain.handle.blockPull(target, rate or 0, libvirt.VIR_DOMAIN_BLOCK_PULL_BANDWIDTH_BYTES)
        except libvirt.libvirtError as error:
            if code_of(error) == libvirt.VIR_ERR_OPERATION_UNSUPPORTED:  # "already in active block job"
                raise JobRunning(f"{doing}: {text_of(error)}") from error
            raise


def set_pull_rate(domain: Domain, target: str, rate: int | None) -> None:
    """Change the rate of the job that runs, if one does; None means no limit. Raises HypervisorError."""
    with translate(f"cannot set the rate of the pull of disk {target} of domain {domain.name}"):
        flags = libvirt.VIR_DOMAIN_BLOCK_JOB_SPEED_BANDWIDTH_BYTES
        try:
            domain.handle.blockJobSetSpeed(target, rate or 0, flags)
        except libvirt.libvirtError:
            if domain.handle.blockJobInfo(target, 0):
                raise


def end_pull(domain: Domain, target: str) -> None:
    """End the job of this disk, if one runs; what it has pulled stays. Raises HypervisorError."""
    with translate(f"cannot end the pull of disk {target} of domain {domain.name}"):
        try:
            domain.handle.blockJobAbort(target, 0)
        except libvirt.libvirtError:
            if domain.handle.blockJobInfo(target, 0):
                raise


def pull_progress(domain: Domain, target: str) -> PullProgress | None:
    """Return the progress of the job of this disk; None if none runs. Raises HypervisorError."""
    with translate(f"cannot read the pull of disk {target} of domain {domain.name}"):
        try:
            found = domain.handle.blockJobInfo(target, 0)
        except libvirt.libvirtError as error:
            if code_of(error) == libvirt.VIR_ERR_OPERATION_INVALID:  # the domain is shut off
                return None
            raise
    return PullProgress(int(found["cur"]), int(found["end"])) if found else None


def images_behind(xml: str) -> dict[str, bool]:
    """Return for each disk of a domain's XML, by target, whether something is behind its image."""
    found = {}
    for disk in ET.fromstring(xml).iterfind("./devices/disk"):
        target = disk.find("./target")
        if target is not None:
            found[target.get("dev", "")] = disk.find("./backingStore/source") is not None
    return found
