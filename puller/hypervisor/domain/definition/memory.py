"""The memory of a domain in its definition. See https://libvirt.org/formatdomain.html#memory-allocation."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from puller.errors import UsageError
from puller.units import KIB


def with_memory(xml: str, size: int) -> str:
    """Return the definition with ``size`` bytes of memory, rounded down to KiB.

    Raises UsageError if its memory has a shape.
    """
    root = ET.fromstring(xml)
    if root.find("./cpu/numa/cell") is not None or root.find("./devices/memory") is not None:
        raise UsageError(
            f"cannot set the memory of domain {root.findtext('./name')}: it has NUMA cells or memory modules",
            advice="Leave --memory out.",
        )
    for name in ("memory", "currentMemory"):
        element = root.find(f"./{name}")
        if element is None:
            continue
        element.set("unit", "KiB")
        element.text = str(size // KIB)
    if (most := root.find("./maxMemory")) is not None:
        root.remove(most)
    return ET.tostring(root, encoding="unicode") + "\n"
