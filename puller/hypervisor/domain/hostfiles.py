"""Files of the host that a domain's XML names besides its disks. Pure.

See https://libvirt.org/formatdomain.html. A point holds those that the domain needs to start, and small
media in its drives. Firmware code below ``/usr`` is left out, as it comes with the host's packages. Host
devices, such as PCI cards, hold nothing that a backup could read.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_BOOT_FILES = (
    ("kernel", "kernel", "./os/kernel"),
    ("initrd", "initrd", "./os/initrd"),
    ("dtb", "device tree", "./os/dtb"),
    ("acpi-table", "ACPI table", "./os/acpi/table"),
)
"""What a file is called as an attachment and for people, and where its path is."""

_TEXTS = (
    *((word, place) for _, word, place in _BOOT_FILES),
    ("NVDIMM", "./devices/memory[@model='nvdimm']/source/path"),
    ("persistent memory", "./devices/memory[@model='virtio-pmem']/source/path"),
)
_ATTRIBUTES = (
    ("fw_cfg file", "./sysinfo[@type='fwcfg']/entry[@file]", "file"),
    ("shared directory", "./devices/filesystem/source[@dir]", "dir"),
    ("shared directory", "./devices/filesystem/source[@socket]", "socket"),
    ("SCSI device", "./devices/hostdev[@type='scsi']/source/adapter[@name]", "name"),
)
_SUFFIXES = {"cdrom": "iso", "floppy": "img"}
_PACKAGED = Path("/usr")


@dataclass(frozen=True, slots=True)
class HostFile:
    """A file that a point holds as the attachment ``name``; ``word`` is what it is, for people.

    ``target`` is the drive of a medium, empty for a file that the domain boots with.
    """

    name: str
    word: str
    path: Path
    target: str = ""

    @property
    def label(self) -> str:
        """The file with its purpose, such as ``kernel /boot/vmlinuz``."""
        return f"{self.word} {self.path}"


def named_files(xml: str) -> tuple[str, ...]:
    """Return each file with its purpose, such as ``kernel /boot/vmlinuz``."""
    return tuple(dict.fromkeys(_found(ET.fromstring(xml))))


def attached_files(xml: str) -> tuple[HostFile, ...]:
    """Return the files that a point holds. The order, and so the names, follow from ``xml``."""
    root = ET.fromstring(xml)
    return (*_boot_files(root), *_media(root))


def _boot_files(root: ET.Element) -> Iterator[HostFile]:
    for name, word, place in _BOOT_FILES:
        texts = [(element.text or "").strip() for element in root.findall(place)]
        yield from _numbered(name, word, texts)
    entries = root.findall("./sysinfo[@type='fwcfg']/entry[@file]")
    yield from _numbered("fw_cfg", "fw_cfg file", [entry.attrib["file"] for entry in entries])
    loaders = [(element.text or "").strip() for element in root.findall("./os/loader")]
    own = [path for path in loaders if _PACKAGED not in Path(path).parents]
    yield from _numbered("loader", "firmware", own)


def _numbered(name: str, word: str, paths: list[str]) -> Iterator[HostFile]:
    """Yield files of one purpose: ``kernel``, ``kernel-2`` and so on."""
    for number, path in enumerate((Path(path) for path in paths if path.startswith("/")), 1):
        yield HostFile(name if number == 1 else f"{name}-{number}", word, path)


def _media(root: ET.Element) -> Iterator[HostFile]:
    """Yield the media in drives that are raw files; ``/dev/sr0`` and media on the network are not."""
    for disk in root.findall("./devices/disk[@type='file']"):
        device, driver = disk.get("device", ""), disk.find("./driver")
        source, target = disk.find("./source[@file]"), disk.find("./target[@dev]")
        is_raw = driver is None or driver.get("type", "raw") == "raw"
        if device in _SUFFIXES and is_raw and source is not None and target is not None:
            name = target.attrib["dev"]
            yield HostFile(
                f"{name}.{_SUFFIXES[device]}", f"medium of {name}", Path(source.attrib["file"]), name
            )


def _found(root: ET.Element) -> Iterator[str]:
    for word, place in _TEXTS:
        for element in root.findall(place):
            if text := (element.text or "").strip():
                yield f"{word} {text}"
    for word, place, name in _ATTRIBUTES:
        for element in root.findall(place):
            yield f"{word} {element.attrib[name]}"
