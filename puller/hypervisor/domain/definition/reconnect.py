"""Let QEMU wait for the NBD server behind an overlay, where libvirt cannot say so in the XML.

libvirt before 9.1 leaves ``<reconnect>`` out, and QEMU then answers the guest with errors as soon as the
server is gone. Its connection can be replaced while the domain runs, by QEMU's monitor. The new one has the
name of the old one, so that libvirt goes on to find what it expects, and removes it when the disk is pulled::

    overlay ─► raw ─► libvirt-3-storage (NBD)        overlay ─► raw ─► libvirt-3-storage (NBD, waits)
                                                 ─►
"""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from typing import Any

from puller.errors import HypervisorError
from puller.hypervisor.domain.definition.restoredxml import RECONNECT_SECONDS
from puller.hypervisor.domain.domain import Domain
from puller.hypervisor.faults import translate

_SPARE = "puller-{}"


def waits_by_itself(inactive_xml: str) -> bool:
    """Return whether libvirt has kept ``<reconnect>`` for all NBD servers behind images."""
    sources = ET.fromstring(inactive_xml).iterfind(".//backingStore/source[@protocol='nbd']")
    return all(source.find("reconnect") is not None for source in sources)


def wait_for_server(domain: Domain) -> None:
    """Replace each connection to an NBD server behind an image of the active domain by one that waits.

    The guest may run, but should not read meanwhile. Raises HypervisorError.
    """
    for disk in ET.fromstring(domain.xml()).iterfind("./devices/disk"):
        for store in disk.iterfind("./backingStore"):
            source = store.find("./source[@protocol='nbd']")
            if source is not None and store.get("index"):
                _replace(domain, f"libvirt-{store.get('index')}", source)


def _replace(domain: Domain, name: str, source: ET.Element) -> None:
    image, storage, spare = f"{name}-format", f"{name}-storage", _SPARE.format(name)
    export = _waiting(source)
    _ask(domain, "blockdev-add", {**export, "node-name": spare})
    _put_upon(domain, image, spare)
    _ask(domain, "blockdev-del", {"node-name": storage})
    _ask(domain, "blockdev-add", {**export, "node-name": storage})
    _put_upon(domain, image, storage)
    _ask(domain, "blockdev-del", {"node-name": spare})


def _waiting(source: ET.Element) -> dict[str, Any]:
    host = source.find("./host")
    return {
        "driver": "nbd",
        "server": {"type": "unix", "path": "" if host is None else host.get("socket", "")},
        "export": source.get("name", ""),
        "read-only": True,
        "reconnect-delay": RECONNECT_SECONDS,
    }


def _put_upon(domain: Domain, image: str, storage: str) -> None:
    options = {"node-name": image, "driver": "raw", "read-only": True, "file": storage}
    _ask(domain, "blockdev-reopen", {"options": [options]})


def _ask(domain: Domain, command: str, arguments: dict[str, Any]) -> None:
    """Raises HypervisorError also if QEMU refuses, since libvirt hands on its answer as text."""
    text = json.dumps({"execute": command, "arguments": arguments})
    with translate(f"cannot let domain {domain.name} wait for its server ({command})"):
        answer = json.loads(domain.handle.ask_qemu(text))
    if "error" in answer:
        raise HypervisorError(
            f"cannot let domain {domain.name} wait for its server: {command}: {answer['error'].get('desc')}"
        )
