"""A disk that is a volume of a storage pool, and its path on this host.

See https://libvirt.org/storage.html. The domain's XML names pool and volume; only the pool knows the path.
Without the path nothing is known about the image: a volume that libvirt created as qcow2 has version 2
(compat 0.10), which cannot hold a dirty bitmap.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import libvirt

from puller.hypervisor.domain.disks.disk import Disk

_KINDS = {libvirt.VIR_STORAGE_VOL_FILE: "file", libvirt.VIR_STORAGE_VOL_BLOCK: "block"}


def located(connection: Any, disk: Disk) -> Disk:
    """Return the disk with its file or device; unchanged if it is not a volume or libvirt finds none.

    Its ``source`` stays as in the XML, so that the disk is the same in every point.
    """
    if disk.type != "volume":
        return disk
    found = lookup(connection, *disk.source.partition("/")[::2])
    return disk if found is None else replace(disk, type=found[0], path=found[1])


def lookup(connection: Any, pool: str, name: str) -> tuple[str, Path] | None:
    """Return ``file`` or ``block`` and the path of a volume; None if it is neither or libvirt finds none."""
    try:
        volume = connection.storagePoolLookupByName(pool).storageVolLookupByName(name)
        kind = _KINDS.get(volume.info()[0])
        return None if kind is None else (kind, Path(volume.path()))
    except libvirt.libvirtError:  # the pool is not active, or libvirt has no storage driver here
        return None
