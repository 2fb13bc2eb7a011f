"""The networks that a machine needs before it starts."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from contextlib import suppress

from puller.errors import HypervisorError
from puller.hypervisor.connection import Host


def require_active(xml: str, host: Host) -> None:
    """Raise HypervisorError if the domain of ``xml`` is on a network of libvirt's that is not active."""
    sources = ET.fromstring(xml).iterfind("./devices/interface[@type='network']/source")
    used, asleep = {source.get("network", "") for source in sources}, frozenset[str]()
    if used:
        with suppress(HypervisorError):  # a libvirt without networks
            asleep = host.inactive_networks()
    for name in sorted(used & asleep):
        raise HypervisorError(
            f"libvirt's network {name} is not active",
            advice=f"Start it with 'virsh net-start {name}', then run the same command again.",
        )
