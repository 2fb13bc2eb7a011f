"""Definition of a domain whose disks were restored: ``domain.xml`` with the restored files in it.

See https://libvirt.org/formatdomain.html.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from puller.hypervisor.domain.definition.separation import (
    make_media_optional,
    separate_channels,
    separate_interfaces,
    without_own_arguments,
    without_shared,
)

# Otherwise the prefix becomes ns0, which is hard to read for people.
ET.register_namespace("qemu", "http://libvirt.org/schemas/domain/qemu/1.0")

_OF_THE_OLD_SOURCE = ("source", "backingStore", "mirror", "auth", "encryption", "seclabel")


RECONNECT_SECONDS = 86400
"""How long QEMU waits for an NBD server that is gone, in seconds, before the guest gets an error."""


@dataclass(frozen=True, slots=True)
class NbdExport:
    """What a disk reads that its own image does not have: the export ``name`` at a Unix ``socket``."""

    socket: Path
    name: str


@dataclass(frozen=True, slots=True)
class DiskSource:
    """A restored disk: the file or block device at ``path``, which is an image of ``format``.

    ``behind`` is what lies behind the image, if it is not complete.
    """

    path: Path
    format: str
    behind: NbdExport | None = None


@dataclass(frozen=True, slots=True)
class RestoredDomain:
    """A definition ``xml`` of the domain ``name``.

    ``left_out`` are the targets of its writable disks that were not restored, and of a copy what the original
    has and two cannot share: memory in files, devices and directories of the host, arguments of QEMU's;
    ``added`` are those of restored disks that the definition does not have: they were attached to the running
    domain only.
    """

    name: str
    xml: str
    left_out: tuple[str, ...]
    added: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Copy:
    """A domain to live beside the one that was backed up: its name, and its UUID unless libvirt makes one."""

    name: str
    uuid: str | None = None


@dataclass(frozen=True, slots=True)
class Networks:
    """What becomes of the domain's network interfaces.

    ``disconnect`` takes their cables out; ``all`` is the libvirt network that they are all connected to;
    ``mapped`` gives other names to networks and bridges. Interfaces on those that are ``absent``, without
    which the domain would not start, are on QEMU's own network instead.
    """

    disconnect: bool = False
    all: str | None = None
    mapped: Mapping[str, str] = field(default_factory=dict)
    absent: frozenset[str] = frozenset()


def free_name(name: str, taken: Iterable[str]) -> str:
    """A name for a copy of the domain ``name`` that is not among those that are ``taken``."""
    used = frozenset(taken)
    names = [f"{name}-restored", *(f"{name}-restored-{number}" for number in range(2, len(used) + 3))]
    return next(free for free in names if free not in used)


def adapt(  # noqa: PLR0913 - what a definition is made of
    xml: str,
    sources: Mapping[str, DiskSource],
    nvram: Path | None,
    copy: Copy | None,
    *,
    varstore: Path | None = None,
    networks: Networks | None = None,
) -> RestoredDomain:
    """The domain of ``xml`` on the restored ``sources``, which are by target.

    ``nvram`` and ``varstore`` are the restored files of its firmware variables. A ``copy`` gets MAC addresses
    of its own, and no TPM state, ports, sockets and logs of the original's. Disks that were not restored are
    left out unless they are read-only, and so is, of a copy, what it must not share. Raises
    ElementTree.ParseError.
    """
    root = ET.fromstring(xml)
    left_out = _adapt_disks(root.find("./devices"), sources)
    _connect(root, networks or Networks())
    if copy is not None:
        _set_apart(root, copy)
        left_out += without_shared(root.find("./devices")) + without_own_arguments(root)
    _adapt_nvram(root.find("./os/nvram"), nvram, copy is not None)
    _adapt_varstore(root.find("./os/varstore"), varstore, copy is not None)
    if (generation := root.find("./genid")) is not None:
        generation.text = None  # a new one tells the guest that it is not where it was
    had = {target.get("dev") for target in root.findall("./devices/disk/target")}
    added = tuple(target for target in sources if target not in had)
    text = ET.tostring(root, encoding="unicode") + "\n"
    return RestoredDomain(root.findtext("./name", ""), text, left_out, added)


def _adapt_disks(devices: ET.Element | None, sources: Mapping[str, DiskSource]) -> tuple[str, ...]:
    left_out = []
    for disk in [] if devices is None else devices.findall("./disk"):
        element = disk.find("./target")
        target = "" if element is None else element.get("dev", "")
        if target in sources:
            _put_upon(disk, sources[target])
        elif devices is not None and _is_writable(disk):
            devices.remove(disk)
            left_out.append(target)
    return tuple(left_out)


def _is_writable(disk: ET.Element) -> bool:
    return disk.get("device", "disk") in ("disk", "lun") and disk.find("./readonly") is None


def _put_upon(disk: ET.Element, source: DiskSource) -> None:
    for name in _OF_THE_OLD_SOURCE:
        for element in disk.findall(f"./{name}"):
            disk.remove(element)
    block = source.path.is_block_device()
    disk.set("type", "block" if block else "file")
    if disk.get("device") == "lun":  # a SCSI device of the original host
        disk.set("device", "disk")
        for name in ("sgio", "rawio"):
            disk.attrib.pop(name, None)
    _set_format(disk, source.format)
    disk.insert(1, ET.Element("source", {"dev" if block else "file": str(source.path)}))
    if source.behind is not None:
        disk.insert(2, backing_store(source.behind))
        _keep_what_is_written(disk)


def _keep_what_is_written(disk: ET.Element) -> None:
    """The image is this domain's alone (libvirt shares no qcow2), and holds what the guest writes."""
    for name in ("shareable", "transient"):
        for element in disk.findall(f"./{name}"):
            disk.remove(element)


def backing_store(export: NbdExport) -> ET.Element:
    """Return the element that puts the export behind an image.

    See https://libvirt.org/formatdomain.html#hard-drives-floppy-disks-cdroms (``backingStore``).

    libvirt knows ``reconnect`` of NBD from 9.1 on, and leaves it out before.
    """
    store = ET.Element("backingStore", type="network")
    ET.SubElement(store, "format", type="raw")
    source = ET.SubElement(store, "source", protocol="nbd", name=export.name)
    ET.SubElement(source, "host", transport="unix", socket=str(export.socket))
    ET.SubElement(source, "reconnect", delay=str(RECONNECT_SECONDS))
    ET.SubElement(store, "backingStore")
    return store


def _set_format(disk: ET.Element, image_format: str) -> None:
    driver = disk.find("./driver")
    if driver is None:
        driver = ET.Element("driver", name="qemu")
        disk.insert(0, driver)
    driver.set("type", image_format)
    if (cache := driver.find("./metadata_cache")) is not None:  # for qcow2 only
        driver.remove(cache)


def _connect(root: ET.Element, networks: Networks) -> None:
    """See https://libvirt.org/formatdomain.html#network-interfaces."""
    for interface in root.findall("./devices/interface"):
        source = interface.find("./source")
        if networks.all is not None:
            for name in ("source", "virtualport", "portForward"):  # of the kind of connection that it had
                for element in interface.findall(f"./{name}"):
                    interface.remove(element)
            interface.set("type", "network")
            interface.insert(0, ET.Element("source", network=networks.all))
        elif source is not None:
            for name in ("network", "bridge"):
                used = source.get(name, "")
                if used in networks.mapped:
                    source.set(name, networks.mapped[used])
                elif used in networks.absent:
                    _put_on_own_network(interface)
        if networks.disconnect:
            for link in interface.findall("./link"):
                interface.remove(link)
            interface.append(ET.Element("link", state="down"))


_OF_ANY_INTERFACE = frozenset({"mac", "model", "address", "boot", "rom", "alias", "link"})


def _put_on_own_network(interface: ET.Element) -> None:
    for element in [element for element in interface if element.tag not in _OF_ANY_INTERFACE]:
        interface.remove(element)
    interface.set("type", "user")


def networks_of(xml: str) -> frozenset[str]:
    """The networks and bridges that the domain's interfaces are on."""
    sources = ET.fromstring(xml).findall("./devices/interface/source")
    return frozenset(source.get(kind, "") for source in sources for kind in ("network", "bridge")) - {""}


def _set_apart(root: ET.Element, copy: Copy) -> None:
    """Give the domain its own name and UUID, and let libvirt make its MAC addresses and TPM state."""
    if (name := root.find("./name")) is not None:
        name.text = copy.name
    for parent, path in (
        (".", "./uuid"),
        ("./devices/interface", "./mac"),
        ("./sysinfo/system", "./entry[@name='uuid']"),
        ("./devices/tpm/backend[@type='emulator']", "./source"),
    ):
        for holder in root.findall(parent):
            for element in holder.findall(path):
                holder.remove(element)
    separate_channels(root.find("./devices"))
    make_media_optional(root.find("./devices"))
    separate_interfaces(root.find("./devices"))
    if copy.uuid is not None:
        element = ET.Element("uuid")
        element.text = copy.uuid
        root.insert(1, element)


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
