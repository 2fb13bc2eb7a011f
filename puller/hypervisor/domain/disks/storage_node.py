"""Where a disk's image is, as a block node of QEMU, if it is not a whole file or device of the host. Pure.

A running domain has such disks open, and its QEMU exports them. While the domain is shut off, ``qemu-nbd``
opens them with these options. See https://libvirt.org/formatdomain.html#hard-drives-floppy-disks-cdroms and
``qapi/block-core.json`` of QEMU (``BlockdevOptions``).
"""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Node = dict[str, Any]

_ISCSI_PORT = "3260"
_NBD_PORT = "10809"


@dataclass(frozen=True, slots=True)
class AuthSecret:
    """libvirt's secret of this ``usage_type`` (``ceph``, ``iscsi``) by which a server lets a client in.

    ``uuid`` or ``usage`` names it. ``option`` is the node's option for it; ``is_base64`` says that QEMU wants
    its value so.
    """

    usage_type: str
    uuid: str
    usage: str
    option: str
    is_base64: bool


@dataclass(frozen=True, slots=True)
class StorageNode:
    """``options`` are those of the node, as JSON. ``file`` is the file or device of which it is a part."""

    options: str
    secret: AuthSecret | None = None
    file: Path | None = None


def parse_node(kind: str, source: ET.Element | None) -> StorageNode | None:
    """Return the node of a ``<source>`` of this type; None if it is a plain path or of an unknown kind."""
    if source is None:
        return None
    if kind == "network":
        make = _NETWORK.get(source.get("protocol", ""))
        node = None if make is None or source.find("./slices") is not None else make(source)
        return None if node is None else StorageNode(json.dumps(node), _secret(source))
    return _slice(source)


def _slice(source: ET.Element) -> StorageNode | None:
    """A part of a file or device."""
    path = source.get("file") or source.get("dev")
    parts = source.findall("./slices/slice[@type='storage']")
    if path is None or len(parts) != 1:
        return None
    offset, size = int(parts[0].get("offset", "0")), int(parts[0].get("size", "0"))
    node = {"driver": "raw", "offset": offset, "size": size, "file": {"filename": path}}
    return StorageNode(json.dumps(node), file=Path(path))


def _nbd(source: ET.Element) -> Node | None:
    host = source.find("./host")
    if source.get("tls") == "yes" or host is None:
        return None
    if host.get("transport") == "unix":
        server = {"type": "unix", "path": host.get("socket", "")}
    else:
        server = {"type": "inet", **_address(host, _NBD_PORT)}
    return {"driver": "nbd", "server": server, "export": source.get("name", "")}


def _http(source: ET.Element) -> Node | None:
    host, protocol = source.find("./host"), source.get("protocol", "")
    if host is None or source.find("./cookies") is not None or source.find("./auth") is not None:
        return None
    port = f":{host.get('port')}" if host.get("port") else ""
    query = f"?{source.get('query')}" if source.get("query") else ""
    name = source.get("name", "").removeprefix("/")
    node: Node = {"driver": protocol, "url": f"{protocol}://{_bracketed(host)}{port}/{name}{query}"}
    if protocol == "https" and source.find("./ssl[@verify='no']") is not None:
        node["sslverify"] = False
    return node


def _rbd(source: ET.Element) -> Node:
    *space, image = source.get("name", "").split("/")
    node: Node = {"driver": "rbd", "pool": space[0] if space else "rbd", "image": image}
    if len(space) > 1:
        node["namespace"] = space[1]
    for element, name in (("config", "file"), ("snapshot", "name")):
        if (found := source.find(f"./{element}")) is not None:
            node["conf" if element == "config" else element] = found.get(name, "")
    hosts = [_address(host, "6789") for host in source.findall("./host")]
    if hosts:
        node["server"] = hosts
    if (auth := source.find("./auth")) is not None:
        node |= {"user": auth.get("username", ""), "auth-client-required": ["cephx", "none"]}
    return node


def _iscsi(source: ET.Element) -> Node | None:
    host, (target, _, lun) = source.find("./host"), source.get("name", "").partition("/")
    if host is None:
        return None
    node: Node = {
        "driver": "iscsi",
        "portal": f"{_bracketed(host)}:{host.get('port', _ISCSI_PORT)}",
        "target": target,
        "lun": int(lun or 0),
        "transport": "tcp",
    }
    if (name := source.find("./initiator/iqn")) is not None:
        node["initiator-name"] = name.get("name", "")
    if (auth := source.find("./auth")) is not None:
        node["user"] = auth.get("username", "")
    return node


_NETWORK: dict[str, Callable[[ET.Element], Node | None]] = {
    "nbd": _nbd,
    "http": _http,
    "https": _http,
    "rbd": _rbd,
    "iscsi": _iscsi,
}


def _address(host: ET.Element, port: str) -> dict[str, str]:
    return {"host": host.get("name", ""), "port": host.get("port", port)}


def _bracketed(host: ET.Element) -> str:
    """Return the name of a host for a URL: an IPv6 address has brackets there."""
    name = host.get("name", "")
    return f"[{name}]" if ":" in name else name


def _secret(source: ET.Element) -> AuthSecret | None:
    found = source.find("./auth/secret")
    if found is None:
        return None
    is_rbd = source.get("protocol") == "rbd"
    option = "key-secret" if is_rbd else "password-secret"
    named = found.get("uuid", ""), found.get("usage", "")
    return AuthSecret(found.get("type", ""), *named, option, is_base64=is_rbd)
