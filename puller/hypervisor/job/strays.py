"""Dirty bitmaps of ours in images for which libvirt has no checkpoint.

They stay when only the record is lost, or when a disk was detached from the domain while its checkpoint was
deleted. Nobody uses them, yet QEMU loads them at each start and updates them. libvirt deletes a bitmap only
with its checkpoint, so each bitmap gets a record first.
"""

from __future__ import annotations

import time
import xml.etree.ElementTree as ET
from collections.abc import Iterable
from contextlib import suppress

import libvirt

from puller.errors import HypervisorError
from puller.hypervisor.domain.checkpoint import list_checkpoints, owner_prefix
from puller.hypervisor.domain.disks.image import image_facts, stored_bitmaps
from puller.hypervisor.domain.domain import Domain
from puller.hypervisor.faults import translate


def find_strays(domain: Domain, repository_id: str) -> dict[str, list[str]]:
    """Return the bitmaps of :func:`find_stored` that belong to no checkpoint of libvirt."""
    known = {checkpoint.name for checkpoint in list_checkpoints(domain)}
    stored = find_stored(domain, repository_id)
    return {name: targets for name, targets in stored.items() if name not in known}


def find_stored(domain: Domain, repository_id: str) -> dict[str, list[str]]:
    """Return the disks by the name of the bitmap in their image. Unreadable images are skipped.

    This reads the bitmaps stored in an image; bitmaps that QEMU created since its start are not in it.
    """
    found: dict[str, list[str]] = {}
    for disk in domain.disks():
        if disk.path is None or disk.format != "qcow2":
            continue
        with suppress(HypervisorError):
            for name in stored_bitmaps(image_facts(disk.path, disk.format, domain.scope, domain.host)):
                if name.startswith(owner_prefix(repository_id)):
                    found.setdefault(name, []).append(disk.target)
    return found


def remove_stray(domain: Domain, name: str, targets: Iterable[str]) -> tuple[str, ...]:
    """Remove the bitmap ``name`` from these disks, and return those that had it; the domain must be active.

    Does nothing if QEMU no longer has it: an image still lists bitmaps that were deleted since the start.
    Raises HypervisorError.
    """
    removed = []
    for target in targets:
        with translate(f"cannot remove bitmap {name} of disk {target} of domain {domain.name}"):
            flags = libvirt.VIR_DOMAIN_CHECKPOINT_CREATE_REDEFINE
            handle = domain.handle.checkpointCreateXML(_record(domain, name, target), flags)
            try:
                handle.delete()
                removed.append(target)
            except libvirt.libvirtError:
                handle.delete(libvirt.VIR_DOMAIN_CHECKPOINT_DELETE_METADATA_ONLY)
    return tuple(removed)


def _record(domain: Domain, name: str, target: str) -> str:
    """Return the XML by which libvirt accepts a checkpoint as its own."""
    root = ET.Element("domaincheckpoint")
    ET.SubElement(root, "name").text = name
    ET.SubElement(root, "creationTime").text = str(int(time.time()))
    ET.SubElement(ET.SubElement(root, "disks"), "disk", name=target, checkpoint="bitmap", bitmap=name)
    root.append(ET.fromstring(domain.xml()))
    return ET.tostring(root, encoding="unicode")
