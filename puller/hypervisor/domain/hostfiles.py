"""Files of the host that a domain's XML names besides its disks, and that no point holds. Pure.

See https://libvirt.org/formatdomain.html. Firmware code (``<loader>``) is omitted, as it comes with the
host's packages. Host devices, such as PCI cards, hold nothing that a backup could read.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterator

_TEXTS = (
    ("kernel", "./os/kernel"),
    ("initrd", "./os/initrd"),
    ("device tree", "./os/dtb"),
    ("ACPI table", "./os/acpi/table"),
    ("NVDIMM", "./devices/memory[@model='nvdimm']/source/path"),
    ("persistent memory", "./devices/memory[@model='virtio-pmem']/source/path"),
)
_ATTRIBUTES = (
    ("fw_cfg file", "./sysinfo[@type='fwcfg']/entry[@file]", "file"),
    ("shared directory", "./devices/filesystem/source[@dir]", "dir"),
    ("shared directory", "./devices/filesystem/source[@socket]", "socket"),
    ("SCSI device", "./devices/hostdev[@type='scsi']/source/adapter[@name]", "name"),
)


def named_files(xml: str) -> tuple[str, ...]:
    """Return each file with its purpose, such as ``kernel /boot/vmlinuz``."""
    return tuple(dict.fromkeys(_found(ET.fromstring(xml))))


def _found(root: ET.Element) -> Iterator[str]:
    for word, place in _TEXTS:
        for element in root.findall(place):
            if text := (element.text or "").strip():
                yield f"{word} {text}"
    for word, place, name in _ATTRIBUTES:
        for element in root.findall(place):
            yield f"{word} {element.attrib[name]}"
