"""What a copy of a domain must not share with its original, so that both can run at the same time.

See https://libvirt.org/formatdomain.html#devices.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Callable

_CHANNELS = ("serial", "parallel", "console", "channel")

_OF_THE_HOST = frozenset({"file", "unix", "pipe", "dev", "tcp", "udp"})
"""Types of character devices that have a path or a port of the host."""

_AGENT = "org.qemu.guest_agent.0"

_QEMU = "http://libvirt.org/schemas/domain/qemu/1.0"


def separate_channels(devices: ET.Element | None) -> None:
    """Let libvirt choose the ports, sockets and context ids again, and write no log of the original's.

    A character device at a path or port becomes a terminal; the guest agent's gets a socket of its own.
    """
    if devices is None:
        return
    for kind in _CHANNELS:
        for device in devices.findall(f"./{kind}"):
            _separate(device)
    for graphics in devices.findall("./graphics"):
        _separate_display(graphics)
    for identity in devices.findall("./vsock/cid"):
        identity.attrib.pop("address", None)
        identity.set("auto", "yes")


def _separate_display(graphics: ET.Element) -> None:
    """QEMU takes over a socket that another QEMU listens at."""
    if [name for name in ("port", "tlsPort") if graphics.attrib.pop(name, None) is not None]:
        graphics.set("autoport", "yes")
    if "websocket" in graphics.attrib:
        graphics.set("websocket", "-1")
    for element in (graphics, *graphics.findall("./listen")):
        element.attrib.pop("socket", None)


def separate_interfaces(devices: ET.Element | None) -> None:
    """Let libvirt choose the host's ends of network interfaces again, and publish no port of the host."""
    for interface in [] if devices is None else devices.findall("./interface"):
        for name in ("target", "portForward"):
            for element in interface.findall(f"./{name}"):
                interface.remove(element)
        for parameters in interface.findall("./virtualport/parameters"):
            for name in ("interfaceid", "instanceid"):
                parameters.attrib.pop(name, None)


def _separate(device: ET.Element) -> None:
    for log in device.findall("./log"):
        device.remove(log)
    if device.get("type") not in _OF_THE_HOST:
        return
    for name in ("source", "protocol"):
        for element in device.findall(f"./{name}"):
            device.remove(element)
    target = device.find("./target")
    if target is None or target.get("name") != _AGENT:
        device.set("type", "pty")


def without_own_arguments(root: ET.Element) -> tuple[str, ...]:
    """Take out the arguments that somebody has given to QEMU past libvirt, and return what they are.

    They may name disks, ports and networks of the original, and no link of libvirt's takes their cable out.
    """
    found = [
        element for name in ("commandline", "override") for element in root.findall(f"./{{{_QEMU}}}{name}")
    ]
    for element in found:
        root.remove(element)
    return tuple(f"qemu:{element.tag.rpartition('}')[2]}" for element in found)


def make_media_optional(devices: ET.Element | None) -> None:
    """Let the domain start without a CD-ROM or floppy disk whose file is not on this host."""
    for disk in [] if devices is None else devices.findall("./disk[@type='file']"):
        source = disk.find("./source")
        if source is not None and disk.get("device") in ("cdrom", "floppy"):
            source.set("startupPolicy", "optional")


def without_shared(devices: ET.Element | None) -> tuple[str, ...]:
    """Take out what only one domain may use: memory in a file, which QEMU does not lock, shared memory,
    devices of the host, writable media, and directories that the guest may write to. Return what they are.
    """
    if devices is None:
        return ()
    found = [(device, what) for device in list(devices) if (what := _shared(device))]
    for device, _ in found:
        devices.remove(device)
    return tuple(what for _, what in found)


def _shared(device: ET.Element) -> str | None:
    look = _LOOKS.get(device.tag)
    return None if look is None else look(device)


def _memory(device: ET.Element) -> str | None:
    path = device.findtext("./source/path")
    return f"{device.get('model', 'memory')} {path.strip()}" if path else None


def _directory(device: ET.Element) -> str | None:
    if device.find("./readonly") is not None:
        return None
    source = device.find("./source")
    return f"directory {'' if source is None else source.get('dir', '')}".rstrip()


def _medium(device: ET.Element) -> str | None:
    """A floppy disk is written to without being one of the disks that a point has."""
    source = device.find("./source")
    if device.get("device") != "floppy" or source is None or device.find("./readonly") is not None:
        return None
    return f"floppy disk {source.get('file') or source.get('dev', '')}".rstrip()


def _interface(device: ET.Element) -> str | None:
    kind = device.get("type", "")
    return f"network interface of the host ({kind})" if kind in {"hostdev", "vhostuser", "vdpa"} else None


def _tpm(device: ET.Element) -> str | None:
    backend = device.find("./backend")
    kind = "emulator" if backend is None else backend.get("type", "emulator")
    return None if kind == "emulator" else f"TPM ({kind})"


def _input(device: ET.Element) -> str | None:
    kind = device.get("type", "")
    return f"input device of the host ({kind})" if kind in {"passthrough", "evdev"} else None


_LOOKS: dict[str, Callable[[ET.Element], str | None]] = {
    "memory": _memory,
    "hostdev": lambda device: f"host device ({device.get('type', 'unknown')})",
    "shmem": lambda device: f"shared memory {device.get('name', '')}".rstrip(),
    "filesystem": _directory,
    "disk": _medium,
    "interface": _interface,
    "tpm": _tpm,
    "input": _input,
    "lease": lambda device: f"lease {device.findtext('./key', '')}".rstrip(),
}
"""By the tag of a device, what says what only one domain may use of it, if it is that."""
