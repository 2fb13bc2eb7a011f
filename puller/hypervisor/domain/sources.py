"""Where on this host a domain has its storage, as its XML says: disks, all images behind them, and NVRAM.

See https://libvirt.org/formatdomain.html#hard-drives-floppy-disks-cdroms. ``<backingStore>``, ``<mirror>``
(the target of a copy that is going on) and ``<dataStore>`` have a ``<source>`` each.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterator


def paths(xml: str) -> Iterator[str]:
    """Files and devices."""
    root = ET.fromstring(xml)
    for source in [*root.findall("./devices/disk//source"), *root.findall("./os/nvram/source")]:
        yield from (source.attrib[name] for name in ("file", "dev") if name in source.attrib)
    for element in [root.find("./os/nvram"), *root.findall("./devices/memory/source/path")]:
        if element is not None and (path := (element.text or "").strip()):
            yield path


def volumes(xml: str) -> Iterator[tuple[str, str]]:
    """Volumes of storage pools, as (pool, volume)."""
    for source in ET.fromstring(xml).findall("./devices/disk//source[@pool]"):
        yield source.attrib["pool"], source.get("volume", "")
