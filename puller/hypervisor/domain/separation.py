"""What a copy of a domain must not share with its original, so that both can run at the same time.

See https://libvirt.org/formatdomain.html#devices.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET

_CHANNELS = ("serial", "parallel", "console", "channel")

_OF_THE_HOST = frozenset({"file", "unix", "pipe", "dev", "tcp", "udp"})
"""Types of character devices that have a path or a port of the host."""

_AGENT = "org.qemu.guest_agent.0"


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
        if graphics.attrib.pop("port", None) or graphics.attrib.pop("tlsPort", None):
            graphics.set("autoport", "yes")
        graphics.attrib.pop("socket", None)
    for identity in devices.findall("./vsock/cid"):
        identity.attrib.pop("address", None)
        identity.set("auto", "yes")


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


def without_shared(devices: ET.Element | None) -> tuple[str, ...]:
    """Take out what only one domain may use: memory in a file, which QEMU does not lock, shared memory,
    devices of the host, and directories that the guest may write to. Return what they are.
    """
    if devices is None:
        return ()
    found = [(device, what) for device in list(devices) if (what := _shared(device))]
    for device, _ in found:
        devices.remove(device)
    return tuple(what for _, what in found)


def _shared(device: ET.Element) -> str | None:
    if device.tag == "memory" and (path := device.findtext("./source/path")):
        return f"{device.get('model', 'memory')} {path.strip()}"
    if device.tag == "hostdev":
        return f"host device ({device.get('type', 'unknown')})"
    if device.tag == "shmem":
        return f"shared memory {device.get('name', '')}".rstrip()
    if device.tag == "filesystem" and device.find("./readonly") is None:
        source = device.find("./source")
        return f"directory {'' if source is None else source.get('dir', '')}".rstrip()
    return None
