"""A storage pool of libvirt, in which a restore makes volumes. See https://libvirt.org/formatstorage.html."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from contextlib import suppress
from pathlib import Path
from typing import Any

import libvirt

from puller.errors import HypervisorError
from puller.hypervisor.faults import translate

_OF_FILES = frozenset({"dir", "fs", "netfs"})
_OF_DEVICES = frozenset({"logical"})


class Pool:
    """The pool ``name`` of libvirt's ``connection``. Raises HypervisorError if there is none."""

    def __init__(self, connection: Any, name: str) -> None:
        self.name = name
        with translate(f"cannot look up storage pool {name}", "List the pools with 'virsh pool-list --all'."):
            self._handle = connection.storagePoolLookupByName(name)
            root = ET.fromstring(self._handle.XMLDesc())
        self.directory = Path(root.findtext("./target/path", "/"))
        self.kind = root.get("type", "")
        if self.kind not in _OF_FILES | _OF_DEVICES:
            raise HypervisorError(
                f"storage pool {name} is of type {self.kind}, in which puller makes no volumes",
                advice="Make them with 'virsh vol-create-as', and name them with --map-disk TARGET=PATH.",
            )

    @property
    def holds_files(self) -> bool:
        """Whether its volumes are files in ``directory``; else they are block devices."""
        return self.kind in _OF_FILES

    def has(self, volume: str) -> bool:
        """Whether there is a volume of this name."""
        with translate(f"cannot list the volumes of storage pool {self.name}"):
            return volume in self._handle.listVolumes()

    def make(self, volume: str, size: int, image_format: str) -> None:
        """Make a volume of ``size`` bytes, without content, as thin as the pool can."""
        root = ET.Element("volume")
        ET.SubElement(root, "name").text = volume
        ET.SubElement(root, "capacity", unit="bytes").text = str(size)
        if self.holds_files:
            ET.SubElement(root, "allocation", unit="bytes").text = "0"
            ET.SubElement(ET.SubElement(root, "target"), "format", type=image_format)
        with translate(f"cannot make volume {volume} in storage pool {self.name}"):
            self._handle.createXML(ET.tostring(root, encoding="unicode"))

    def remove(self, volume: str) -> None:
        """Delete a volume; fine if it is gone."""
        with suppress(libvirt.libvirtError):
            self._handle.storageVolLookupByName(volume).delete()

    def refresh(self) -> None:
        """Let libvirt look at what the pool holds now."""
        with translate(f"cannot refresh storage pool {self.name}"):
            self._handle.refresh()
