"""Definition of a domain whose disks were restored: ``domain.xml`` with the restored files in it.

See https://libvirt.org/formatdomain.html.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

# Otherwise the prefix becomes ns0, which is hard to read for people.
ET.register_namespace("qemu", "http://libvirt.org/schemas/domain/qemu/1.0")

_OF_THE_OLD_SOURCE = ("source", "backingStore", "mirror", "auth", "encryption", "seclabel")


@dataclass(frozen=True, slots=True)
class RestoredDomain:
    """A definition ``xml`` of the domain ``name``.

    ``left_out`` are the targets of writable disks that were not restored, and memory that is in files.
    ``added`` are the targets of restored disks that the stored definition lacks, because they were attached
    to the running domain only.
    """

    name: str
    xml: str
    left_out: tuple[str, ...]
    added: tuple[str, ...]


def adapt(  # noqa: PLR0913 - the parts of a definition
    xml: str,
    files: Mapping[str, Path],
    image_format: str,
    nvram: Path | None,
    taken: Iterable[str] | None,
    *,
    varstore: Path | None = None,
) -> RestoredDomain:
    """Adapt the domain of ``xml`` to the restored ``files`` (by target) in ``image_format``.

    ``nvram`` and ``varstore`` are the restored files of its firmware variables. ``taken`` holds the names of
    the host's domains if the original is among them: then the restored domain gets its own name, UUID and
    MAC addresses. Disks that were not restored are left out unless they are read-only. Memory in a file of
    the original is left out too: a copy must not write there. Raises ElementTree.ParseError.
    """
    root = ET.fromstring(xml)
    left_out = _adapt_disks(root.find("./devices"), files, image_format)
    if taken is not None:
        _set_apart(root, frozenset(taken))
        left_out += _without_memory(root.find("./devices"))
    _adapt_nvram(root.find("./os/nvram"), nvram, taken is not None)
    _adapt_varstore(root.find("./os/varstore"), varstore, taken is not None)
    had = {target.get("dev") for target in root.findall("./devices/disk/target")}
    added = tuple(target for target in files if target not in had)
    text = ET.tostring(root, encoding="unicode") + "\n"
    return RestoredDomain(root.findtext("./name", ""), text, left_out, added)


def _adapt_disks(devices: ET.Element | None, files: Mapping[str, Path], image_format: str) -> tuple[str, ...]:
    left_out = []
    for disk in [] if devices is None else devices.findall("./disk"):
        element = disk.find("./target")
        target = "" if element is None else element.get("dev", "")
        if target in files:
            _put_upon(disk, files[target], image_format)
        elif devices is not None and _is_writable(disk):
            devices.remove(disk)
            left_out.append(target)
    return tuple(left_out)


def _is_writable(disk: ET.Element) -> bool:
    return disk.get("device", "disk") in ("disk", "lun") and disk.find("./readonly") is None


def _put_upon(disk: ET.Element, file: Path, image_format: str) -> None:
    for name in _OF_THE_OLD_SOURCE:
        for element in disk.findall(f"./{name}"):
            disk.remove(element)
    disk.set("type", "file")
    if disk.get("device") == "lun":  # a SCSI device of the original host
        disk.set("device", "disk")
        for name in ("sgio", "rawio"):
            disk.attrib.pop(name, None)
    _set_format(disk, image_format)
    disk.insert(1, ET.Element("source", file=str(file)))


def _set_format(disk: ET.Element, image_format: str) -> None:
    driver = disk.find("./driver")
    if driver is None:
        driver = ET.Element("driver", name="qemu")
        disk.insert(0, driver)
    driver.set("type", image_format)
    if (cache := driver.find("./metadata_cache")) is not None:  # for qcow2 only
        driver.remove(cache)


def _set_apart(root: ET.Element, taken: frozenset[str]) -> None:
    """Give the domain its own name, and let libvirt create its UUID, MAC addresses and TPM state."""
    if (name := root.find("./name")) is not None:
        names = [f"{name.text}-restored", *(f"{name.text}-restored-{number}" for number in range(2, 1000))]
        name.text = next(free for free in names if free not in taken)
    for parent, path in (
        (".", "./uuid"),
        ("./devices/interface", "./mac"),
        ("./sysinfo/system", "./entry[@name='uuid']"),
        ("./devices/tpm/backend[@type='emulator']", "./source"),
    ):
        for holder in root.findall(parent):
            for element in holder.findall(path):
                holder.remove(element)


def _without_memory(devices: ET.Element | None) -> tuple[str, ...]:
    """Remove the devices whose memory is a file, which QEMU does not lock; return their names."""
    left_out = []
    for memory in [] if devices is None else devices.findall("./memory"):
        if devices is not None and (path := memory.findtext("./source/path")):
            devices.remove(memory)
            left_out.append(f"{memory.get('model', 'memory')} {path.strip()}")
    return tuple(left_out)


def _adapt_varstore(element: ET.Element | None, restored: Path | None, apart: bool) -> None:
    if element is None or (restored is None and not apart):
        return
    element.attrib.pop("path", None)  # without one libvirt creates it again
    if restored is not None:
        element.set("path", str(restored))


def _adapt_nvram(element: ET.Element | None, restored: Path | None, apart: bool) -> None:
    if element is None or (restored is None and not apart):
        return
    for child in list(element):
        element.remove(child)
    element.attrib.pop("type", None)
    element.text = None if restored is None else str(restored)  # without one libvirt creates it again
