"""The NBD exports of a pull job, as its XML names them.

See https://libvirt.org/formatbackup.html, and for the URI
https://github.com/NetworkBlockDevice/nbd/blob/master/doc/uri.md.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

from puller.hypervisor.job.frozen import DiskExport


def export_uri(socket: Path, name: str) -> str:
    """Return the URI of the export ``name`` behind the Unix socket ``socket``."""
    return f"nbd+unix:///{quote(name, safe='')}?socket={quote(str(socket), safe='/')}"


def parse_exports(xml: str, uri: Callable[[str], str]) -> tuple[DiskExport, ...]:
    """Return the exports in the XML of an open pull job; ``uri`` returns the URI of an export by its name."""
    disks = ET.fromstring(xml).findall("./disks/disk[@backup='yes']")
    return tuple(_parse(disk, uri) for disk in disks)


def _parse(disk: ET.Element, uri: Callable[[str], str]) -> DiskExport:
    target, bitmap = disk.attrib["name"], disk.get("exportbitmap")
    name = disk.get("exportname", target)  # libvirt names the export after the disk by default
    # The context's name is QEMU's: docs/interop/nbd.txt.
    changed = None if bitmap is None else f"qemu:dirty-bitmap:{bitmap}"
    return DiskExport(target, uri(name), changed)
