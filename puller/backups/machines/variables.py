"""The variables of a domain's UEFI firmware, wherever its XML says that they are."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from puller.backups.sources.unlock import opened_image
from puller.errors import HypervisorError, NbdError, UnsupportedDisk
from puller.hypervisor.domain import firmware
from puller.hypervisor.domain.disks.storage_node import parse_node
from puller.hypervisor.domain.domain import Domain
from puller.nbd.export import Export
from puller.nbd.image import ImageServer
from puller.units import chunk_count


def read_variables(domain: Domain) -> bytes | None:
    """Return the firmware variables; None if the domain has none yet. Raises HypervisorError.

    Those on the network are read as their server has them, whatever format they are in.
    """
    element = ET.fromstring(domain.xml()).find("./os/nvram[@type='network']")
    node = None if element is None else parse_node("network", element.find("source"))
    if node is None:
        return firmware.nvram(domain)
    what = f"the firmware variables of domain {domain.name}"
    try:
        image = opened_image(domain, "nvram", "of the firmware variables", node)
        with (
            ImageServer.read_only(image, "raw", scope=domain.scope, host=domain.host) as server,
            Export(server.uri, scope=domain.scope) as export,
        ):
            if export.size > firmware.LIMIT:
                raise HypervisorError(f"cannot back up {what}: they are larger than 64 MiB")
            return b"".join(map(export.chunk, range(chunk_count(export.size))))[: export.size]
    except (NbdError, UnsupportedDisk) as error:
        raise HypervisorError(f"cannot read {what}: {error.message}") from error
