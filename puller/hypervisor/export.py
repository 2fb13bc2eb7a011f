"""The NBD exports of a pull job, as its XML names them.

See https://libvirt.org/formatbackup.html, and for the URI
https://github.com/NetworkBlockDevice/nbd/blob/master/doc/uri.md.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote


@dataclass(frozen=True, slots=True)
class DiskExport:
    """Where to read one disk of a job.

    ``name`` is the export's. ``bitmap`` is the dirty bitmap that it shows, or None where all of the disk is
    to be read.
    """

    target: str
    name: str
    bitmap: str | None
    uri: str

    @property
    def dirty_context(self) -> str | None:
        """The metadata context that tells what is dirty, or None where there is no bitmap."""
        return None if self.bitmap is None else f"qemu:dirty-bitmap:{self.bitmap}"


def export_uri(socket: Path, name: str) -> str:
    """The URI of the export ``name`` behind the Unix socket ``socket``."""
    return f"nbd+unix:///{quote(name, safe='')}?socket={quote(str(socket), safe='/')}"


def parse_exports(xml: str, socket: Path) -> tuple[DiskExport, ...]:
    """The exports in the XML of an open pull job that listens on ``socket``."""
    disks = ET.fromstring(xml).findall("./disks/disk[@backup='yes']")
    return tuple(_parse(disk, socket) for disk in disks)


def _parse(disk: ET.Element, socket: Path) -> DiskExport:
    target = disk.attrib["name"]
    name = disk.get("exportname", target)  # libvirt names the export after the disk if not told otherwise
    return DiskExport(target, name, disk.get("exportbitmap"), export_uri(socket, name))
