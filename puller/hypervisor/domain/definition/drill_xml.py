"""The machine of a restore drill: a restored domain's XML without all that reaches beyond the drill.

See docs/drills.md, "The machine of a drill", and https://libvirt.org/formatdomain.html.
"""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

_QEMU = "http://libvirt.org/schemas/domain/qemu/1.0"
NETWORK = "drill"
"""QEMU's id of the network with the forwarded port."""

_OF_THE_HOST = (
    *("hostdev", "filesystem", "shmem", "vsock", "smartcard", "redirdev", "redirfilter", "lease"),
    *("graphics", "audio", "parallel"),
)
"""Devices that belong to the host, to other machines, or to somebody who looks at the screen."""

_TUNING = ("cputune", "numatune", "blkiotune", "memtune", "resource", "iothreadids", "keywrap")
_SPICE = ("spicevmc", "spiceport", "qemu-vdagent", "dbus", "nmdm")
_AGENT = "org.qemu.guest_agent.0"


@dataclass(frozen=True, slots=True)
class DrillMachine:
    """How the machine of a drill differs from the domain that was backed up.

    Attributes:
        folder: Directory for the files that its serial consoles write.
        disks: Targets of the disks that the machine has.
        macs: MAC addresses of its interfaces, in their order. On networks that lead nowhere they may be those
            of the original, by which its guest may know its interfaces.
        memory: Most memory in KiB; None for that of the domain.
        port: TCP port in the guest that is forwarded; None for no network.
    """

    folder: Path
    disks: Collection[str] = ()
    macs: tuple[str, ...] = ()
    memory: int | None = None
    port: int | None = None


@dataclass(frozen=True, slots=True)
class Offers:
    """What a guest offers as evidence: a channel for the agent, a serial console."""

    agent: bool
    console: bool


def offers_of(xml: str) -> Offers:
    """Return what the guest of a domain's XML offers as evidence."""
    root = ET.fromstring(xml)
    agent = root.find(f"./devices/channel/target[@type='virtio'][@name='{_AGENT}']") is not None
    return Offers(agent, any(root.find(f"./devices/{name}") is not None for name in ("serial", "console")))


def memory_of(xml: str, most: int | None) -> int:
    """Return the KiB of memory that a drill's machine takes."""
    root = ET.fromstring(xml)
    own = _kib(root.find("./memory"))
    return own if most is None or root.find("./cpu/numa") is not None else min(own, most)


def for_drill(xml: str, machine: DrillMachine) -> str:
    """Return the XML of the drill's machine. ``xml`` has its own name, UUID, disks and firmware already."""
    root = ET.fromstring(xml)
    _limit(root, machine)
    _keep_variables(root.find("./os"), machine.folder)
    devices = root.find("./devices")
    if devices is not None:
        for name in _OF_THE_HOST:
            _remove_all(devices, name)
        for disk in devices.findall("./disk"):
            _place_disk(devices, disk, machine.disks)
        for tpm in devices.findall("./tpm"):
            if tpm.find("./backend[@type='emulator']") is None:
                devices.remove(tpm)
        _redirect(devices, machine.folder)
        _set_macs(devices, machine.macs)
        _isolate(root, devices, machine.port)
    return ET.tostring(root, encoding="unicode") + "\n"


def _keep_variables(system: ET.Element | None, folder: Path) -> None:
    """Keep the firmware's variables in ``folder``, also those that libvirt makes from a template.

    In libvirt's own directory they would outlive the machine.
    """
    if system is None:
        return
    loader, nvram, varstore = (system.find(f"./{name}") for name in ("loader", "nvram", "varstore"))
    is_flash = loader is not None and loader.get("type") == "pflash" and loader.get("stateless") != "yes"
    if nvram is None and (is_flash or system.get("firmware") == "efi"):
        nvram = ET.SubElement(system, "nvram")
    if nvram is not None:
        nvram.text = str(folder / "nvram.fd")
    if varstore is not None:
        varstore.set("path", str(folder / "varstore.json"))


def emulated(xml: str) -> str:
    """Return the XML for a QEMU that emulates the processor, on any host."""
    root = ET.fromstring(xml)
    root.set("type", "qemu")
    _remove_all(root, "cpu")
    ET.SubElement(root, "cpu", mode="maximum")
    return ET.tostring(root, encoding="unicode")


def _limit(root: ET.Element, machine: DrillMachine) -> None:
    # Somebody's own words for QEMU may lead anywhere.
    for name in ("commandline", "override"):
        _remove_all(root, f"{{{_QEMU}}}{name}")
    for name in (*_TUNING, "on_poweroff", "on_crash", "on_lockfailure", "seclabel", "memoryBacking", "perf"):
        _remove_all(root, name)
    # Threads for input and output that are no longer defined must not be referred to.
    _remove_all(root, "iothreads")
    for driver in root.iterfind("./devices/*/driver[@iothread]"):
        del driver.attrib["iothread"]
    for name in ("on_poweroff", "on_crash"):
        ET.SubElement(root, name).text = "destroy"
    kib = memory_of(ET.tostring(root, encoding="unicode"), machine.memory)
    if kib < _kib(root.find("./memory")):
        for name in ("memory", "currentMemory", "maxMemory"):
            _remove_all(root, name)
        ET.SubElement(root, "memory", unit="KiB").text = str(kib)


def _kib(element: ET.Element | None) -> int:
    """libvirt writes memory in KiB; the other units are those of a definition by hand."""
    if element is None:
        return 0
    factors = {"b": 1 / 1024, "bytes": 1 / 1024, "k": 1, "kib": 1, "m": 1024, "mib": 1024, "g": 1 << 20}
    return int(int(element.text or 0) * (factors | {"gib": 1 << 20})[element.get("unit", "KiB").lower()])


def macs_of(xml: str) -> tuple[str, ...]:
    """Return the MAC addresses of a domain's interfaces, in their order."""
    return tuple(mac.get("address", "") for mac in ET.fromstring(xml).iterfind("./devices/interface/mac"))


def _set_macs(devices: ET.Element, macs: Sequence[str]) -> None:
    for interface, mac in zip(devices.findall("./interface"), macs, strict=False):
        _remove_all(interface, "mac")
        interface.insert(0, ET.Element("mac", address=mac))


def _place_disk(devices: ET.Element, disk: ET.Element, targets: Collection[str]) -> None:
    """Empty a drive, and leave out a disk that is only read: both may need what is not here."""
    target = disk.find("./target")
    name = "" if target is None else target.get("dev", "")
    if disk.get("device", "disk") in ("cdrom", "floppy"):
        for part in ("source", "backingStore", "auth", "encryption", "seclabel"):
            _remove_all(disk, part)
        disk.set("type", "file")
    elif name not in targets:
        devices.remove(disk)
    else:
        _remove_all(disk, "shareable")


def _redirect(devices: ET.Element, folder: Path) -> None:
    """Let serial ports and consoles write to files, and nothing else reach another program."""
    for channel in devices.findall("./channel"):
        target = channel.find("./target")
        if channel.get("type") in _SPICE:
            devices.remove(channel)
        elif target is not None and target.get("name") != _AGENT:
            _write_to(channel, None)
    number = 0
    for element in (*devices.findall("./serial"), *devices.findall("./console")):
        target = element.find("./target")
        if element.tag == "console" and (target is None or target.get("type", "serial") == "serial"):
            devices.remove(element)  # the other name of the first serial port, which libvirt adds again
            continue
        _write_to(element, folder / f"console{number}.log")
        number += 1
    if number == 0:
        _write_to(ET.SubElement(devices, "serial"), folder / "console0.log")


def _write_to(device: ET.Element, path: Path | None) -> None:
    for name in ("source", "protocol", "log", "alias"):
        _remove_all(device, name)
    device.attrib.pop("tty", None)
    device.set("type", "null" if path is None else "file")
    if path is not None:
        device.insert(0, ET.Element("source", path=str(path), append="on"))


def _isolate(root: ET.Element, devices: ET.Element, port: int | None) -> None:
    """Unplug all network interfaces, and plug the first one into a network with one forwarded port."""
    for interface in devices.findall("./interface"):
        if port is not None:
            devices.remove(interface)
            _forward(root, interface, port)
            port = None
            continue
        kept = {child.tag: child for child in interface if child.tag in ("mac", "model", "address", "rom")}
        for child in list(interface):
            interface.remove(child)
        interface.attrib.clear()
        interface.set("type", "user")
        interface.extend([*kept.values(), ET.Element("link", state="down")])
    if port is not None:
        _forward(root, ET.Element("interface"), port)


def _forward(root: ET.Element, interface: ET.Element, port: int) -> None:
    """Give QEMU the interface by its command line: libvirt can neither restrict such a network nor forward.

    The interface keeps its place on the bus, from which the guest may have made its name. QEMU makes devices
    given as JSON last, as libvirt gives it the bus.
    """
    model, mac = interface.find("./model"), interface.find("./mac")
    kind = "virtio" if model is None else model.get("type", "virtio")
    device = {"virtio": "virtio-net-pci", "virtio-transitional": "virtio-net-pci-transitional"}.get(
        kind, kind
    )
    is_q35 = root.find("./devices/controller[@type='pci'][@model='pcie-root']") is not None
    place = _place(interface.find("./address[@type='pci']"), "pcie.0" if is_q35 else "pci.0")
    words = {"driver": device, "netdev": NETWORK, **dict(place)}
    if mac is not None:
        words["mac"] = mac.get("address", "")
    # With port 0 the kernel chooses one that is free.
    network = f"user,id={NETWORK},restrict=on,hostfwd=tcp:127.0.0.1:0-:{port}"
    commandline = ET.SubElement(root, f"{{{_QEMU}}}commandline")
    for word in ("-netdev", network, "-device", json.dumps(words)):
        ET.SubElement(commandline, f"{{{_QEMU}}}arg", value=word)


def _place(address: ET.Element | None, root_bus: str) -> Iterator[tuple[str, str]]:
    """libvirt names its bridges by their index; the bus 0 has a name of the machine's."""
    if address is None:
        return
    bus, slot, function = (int(address.get(name, "0"), 16) for name in ("bus", "slot", "function"))
    yield "bus", f"pci.{bus}" if bus else root_bus
    yield "addr", f"{slot:#x}.{function:#x}"


def _remove_all(parent: ET.Element, name: str) -> None:
    for element in parent.findall(f"./{name}"):
        parent.remove(element)
