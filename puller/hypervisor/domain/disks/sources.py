"""Storage of a domain on this host, from its XML: disks, all images behind them, and NVRAM.

See https://libvirt.org/formatdomain.html#hard-drives-floppy-disks-cdroms. ``<backingStore>``, ``<mirror>``
(the target of a running copy job) and ``<dataStore>`` have a ``<source>`` each.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterator


def paths(xml: str) -> Iterator[str]:
    """Yield files and devices."""
    root = ET.fromstring(xml)
    for source in [*root.findall("./devices/disk//source"), *root.findall("./os/nvram/source")]:
        yield from (source.attrib[name] for name in ("file", "dev") if name in source.attrib)
    for element in [root.find("./os/nvram"), *root.findall("./devices/memory/source/path")]:
        if element is not None and (path := (element.text or "").strip()):
            yield path


def volumes(xml: str) -> Iterator[tuple[str, str]]:
    """Yield volumes of storage pools, as (pool, volume)."""
    for source in ET.fromstring(xml).findall("./devices/disk//source[@pool]"):
        yield source.attrib["pool"], source.get("volume", "")
