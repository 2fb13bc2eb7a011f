"""libvirt's checkpoints: the moments from which dirty bitmaps record writes.

A checkpoint is a record of libvirt and, in each disk's qcow2 image, one bitmap of the same name that
records every write since. Each bitmap records on its own, so an older checkpoint stays exact when a
newer one is deleted: it has seen the same writes. (Early versions of libvirt let only the newest bitmap
record and merged it into the older one when it was deleted; the outcome is the same.)

Record and bitmaps can get out of step. QEMU writes bitmaps to the image when it closes it, so after a crash
or a kill of QEMU, bitmaps created since its start are gone, and bitmaps that were in the image are marked
inconsistent. libvirt's records survive both. Such a checkpoint cannot be a base, and libvirt refuses to
delete it the ordinary way.

Other tools have checkpoints in the same chain. puller's have the repository's id in their names, and
nothing here deletes any other.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import libvirt

from puller.errors import HypervisorError
from puller.hypervisor.domain.domain import Domain
from puller.hypervisor.faults import code_of, translate

OWN = "puller-"
"""Prefix of the names of all checkpoints, sockets and scratch files of puller."""

PREFIX_LENGTH = len(OWN) + 12 + 1
"""Characters of :func:`owner_prefix`."""

THIRD_PARTIES = "thirdparties"
"""In the place of a repository's id: the owner of what ``puller freeze`` makes for another program."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint as libvirt records it.

    ``disks`` are the targets that have a bitmap of it, ``created`` is in seconds since 1970, ``parent`` is
    the name of the checkpoint that was newest when this one was created, or None.
    """

    name: str
    disks: frozenset[str]
    created: int
    parent: str | None


def owner_prefix(repository_id: str) -> str:
    """Return the prefix of all names that puller creates for this repository; the id is 32 hex digits."""
    return f"{OWN}{repository_id[:12]}-"


def checkpoint_name(repository_id: str, point_id: str) -> str:
    """Return the name of the checkpoint that belongs to a restore point."""
    return owner_prefix(repository_id) + point_id


def point_of(name: str, repository_id: str) -> str | None:
    """Return the point of the checkpoint ``name``, or None if it is not this repository's."""
    prefix = owner_prefix(repository_id)
    return name[len(prefix) :] if name.startswith(prefix) and name != prefix else None


def owner_of(name: str) -> str:
    """Return the point with which our checkpoint ``name`` was created."""
    return name[PREFIX_LENGTH:]


def list_checkpoints(domain: Domain) -> tuple[Checkpoint, ...]:
    """Return all checkpoints of ``domain``, by any tool, oldest first and parents before children."""
    with translate(f"cannot list the checkpoints of domain {domain.name}"):
        handles = domain.handle.listAllCheckpoints()
        texts = [handle.getXMLDesc(libvirt.VIR_DOMAIN_CHECKPOINT_XML_NO_DOMAIN) for handle in handles]
    return _oldest_first([_parse(ET.fromstring(text)) for text in texts])


def dirty_bytes(domain: Domain, name: str) -> dict[str, int]:
    """Return by target how many bytes changed on each disk since the checkpoint ``name``.

    A bitmap counts in whole granules of 64 KiB, so the sum may exceed the size of the disk.
    Only disks whose bitmap exists and is consistent are included: libvirt omits the others
    (``VIR_DOMAIN_CHECKPOINT_XML_SIZE``). So a missing disk cannot be incremental from ``name``.
    The result is empty if libvirt has no such checkpoint. The domain must be active.
    """
    handle = _find(domain, name)
    with translate(f"cannot read the dirty bitmaps of checkpoint {name} of domain {domain.name}"):
        return {} if handle is None else _sizes(handle)


def xml(domain: Domain, name: str) -> str:
    """Return the checkpoint's full XML, with the domain but no secrets, as libvirt needs to redefine it.

    Raises :class:`CheckpointUnusable` if no checkpoint has this name.
    """
    with translate(f"cannot read checkpoint {name} of domain {domain.name}"):
        return str(domain.handle.checkpointLookupByName(name).getXMLDesc(0))


def redefine(domain: Domain, name: str, text: str) -> bool:
    """Restore libvirt's record of our checkpoint ``name``, whose XML with the domain is ``text``.

    Returns whether it has a usable bitmap; if it has none, the record is removed again. The domain must be
    active. Raises :class:`HypervisorError` if libvirt refuses the record.
    """
    try:
        record = ET.fromstring(text)
    except (ET.ParseError, ValueError) as error:
        raise HypervisorError(f"the stored XML of checkpoint {name} is damaged: {error}") from error
    for parent in record.findall("parent"):
        record.remove(parent)  # the checkpoint before it, which has been deleted since
    flags = libvirt.VIR_DOMAIN_CHECKPOINT_CREATE_REDEFINE
    with translate(f"cannot redefine checkpoint {name} of domain {domain.name}"):
        handle = domain.handle.checkpointCreateXML(ET.tostring(record, encoding="unicode"), flags)
        if _sizes(handle):
            return True
        handle.delete(libvirt.VIR_DOMAIN_CHECKPOINT_DELETE_METADATA_ONLY)
    return False


def delete(domain: Domain, name: str) -> None:
    """Delete our checkpoint ``name`` with its bitmaps; older checkpoints stay exact.

    Does nothing if it is gone. The domain must be active, or libvirt refuses. A checkpoint that has lost
    bitmaps is deleted too.
    """
    handle = _find_own(domain, name)
    if handle is None:
        return
    with translate(f"cannot delete checkpoint {name} of domain {domain.name}"):
        try:
            handle.delete()
        except libvirt.libvirtError:
            record = ET.fromstring(handle.getXMLDesc(libvirt.VIR_DOMAIN_CHECKPOINT_XML_NO_DOMAIN))
            if _tracked(record) == _sizes(handle).keys():
                raise
            _delete_remains(domain, name)


def forget_record(domain: Domain, name: str) -> None:
    """Delete libvirt's record of our checkpoint ``name``, but no bitmap. Does nothing if it is gone.

    libvirt cannot do more while the domain is shut off.
    """
    handle = _find_own(domain, name)
    if handle is not None:
        with translate(f"cannot delete the record of checkpoint {name} of domain {domain.name}"):
            handle.delete(libvirt.VIR_DOMAIN_CHECKPOINT_DELETE_METADATA_ONLY)


def _delete_remains(domain: Domain, name: str) -> None:
    """Delete a checkpoint that lacks bitmaps, together with the bitmaps that it still has.

    libvirt deletes the bitmaps of all disks in one transaction or none ("bitmap not found in backing
    chain"), and deleting the record alone leaves bitmaps in the images that nobody can remove later.
    So the record is redefined with one disk at a time, and deleted with that disk's bitmap.
    """
    handle = domain.handle.checkpointLookupByName(name)
    record, sound = ET.fromstring(handle.getXMLDesc(0)), _sizes(handle)
    for target in sorted(_tracked(record)):
        redefine = libvirt.VIR_DOMAIN_CHECKPOINT_CREATE_REDEFINE
        piece = domain.handle.checkpointCreateXML(_with_only(record, target), redefine)
        try:
            piece.delete()
        except libvirt.libvirtError:
            if target in sound:
                raise
    remains = _find(domain, name)
    if remains is not None:
        remains.delete(libvirt.VIR_DOMAIN_CHECKPOINT_DELETE_METADATA_ONLY)


def _find_own(domain: Domain, name: str) -> Any:
    if not name.startswith(OWN):
        raise ValueError(f"checkpoint {name} is not puller's to delete")
    return _find(domain, name)


def _find(domain: Domain, name: str) -> Any:
    """Return libvirt's handle of the checkpoint, or None."""
    with translate(f"cannot look up checkpoint {name} of domain {domain.name}"):
        try:
            return domain.handle.checkpointLookupByName(name)
        except libvirt.libvirtError as error:
            if code_of(error) == libvirt.VIR_ERR_NO_DOMAIN_CHECKPOINT:
                return None
            raise


def _sizes(handle: Any) -> dict[str, int]:
    """Return dirty bytes by target, of the disks whose bitmap exists and is consistent."""
    flags = libvirt.VIR_DOMAIN_CHECKPOINT_XML_NO_DOMAIN | libvirt.VIR_DOMAIN_CHECKPOINT_XML_SIZE
    disks = ET.fromstring(handle.getXMLDesc(flags)).findall("./disks/disk[@size]")
    return {disk.attrib["name"]: int(disk.attrib["size"]) for disk in disks}


def _tracked(record: ET.Element) -> frozenset[str]:
    """Return the targets that have a bitmap according to the record."""
    return frozenset(disk.attrib["name"] for disk in record.findall("./disks/disk[@checkpoint='bitmap']"))


def _with_only(record: ET.Element, target: str) -> str:
    """Return the record as XML, with the bitmap of ``target`` only."""
    copy = deepcopy(record)
    for disk in copy.findall("./disks/disk"):
        if disk.get("name") != target:
            disk.set("checkpoint", "no")
            disk.attrib.pop("bitmap", None)
    return ET.tostring(copy, encoding="unicode")


def _parse(record: ET.Element) -> Checkpoint:
    return Checkpoint(
        name=record.findtext("name", ""),
        disks=_tracked(record),
        created=int(record.findtext("creationTime", "0")),
        parent=record.findtext("./parent/name"),
    )


def _oldest_first(checkpoints: Iterable[Checkpoint]) -> tuple[Checkpoint, ...]:
    """Order by creation time, but never a child before its parent, even if the clock was set back.

    libvirt's topological order does not order several roots by age, and a deletion that failed half-way
    leaves more than one root.
    """
    waiting = sorted(checkpoints, key=lambda checkpoint: (checkpoint.created, checkpoint.name))
    ordered: list[Checkpoint] = []
    while waiting:
        names = {checkpoint.name for checkpoint in waiting}
        ready = next((each for each in waiting if each.parent not in names), waiting[0])
        waiting.remove(ready)
        ordered.append(ready)
    return tuple(ordered)
