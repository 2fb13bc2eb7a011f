"""What an image file on this host tells by its first bytes.

The header of qcow2 is described in QEMU's ``docs/interop/qcow2.txt``: bytes 0-3 are ``QFI\\xfb``,
bytes 4-7 the version and bytes 20-23 the cluster size as a power of two, both big-endian numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from puller.errors import UnsupportedDisk
from puller.hypervisor.disk import Disk

_MAGIC = b"QFI\xfb"


def qcow2_version(path: Path) -> int | None:
    """Version of the qcow2 image at ``path``; None if it is none or cannot be read from here."""
    header = _header(path)
    return int.from_bytes(header[4:8], "big") if header[:4] == _MAGIC else None


def _header(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(24)
    except OSError:
        return b""


def cluster_size(path: Path) -> int | None:
    """Bytes of a cluster of the qcow2 image at ``path``; None if it is none or cannot be read from here."""
    header = _header(path)
    return 1 << int.from_bytes(header[20:24], "big") if header[:4] == _MAGIC else None


def refuse_old_images(domain: str, disks: Sequence[Disk]) -> None:
    """Raise :class:`UnsupportedDisk` for a disk whose image is qcow2 version 2 (compat 0.10).

    QEMU stores no dirty bitmap in such an image. Without this check libvirt's begin fails only after it
    has made scratch files: "Cannot store dirty bitmaps in qcow2 v2 files".
    """
    for disk in disks:
        if disk.path is not None and qcow2_version(disk.path) == 2:
            raise UnsupportedDisk(
                f"disk {disk.target} of domain {domain} is qcow2 version 2: it cannot have a checkpoint",
                advice=f"Stop the domain and run 'qemu-img amend -o compat=1.1 {disk.path}', "
                f"or leave the disk out with --exclude-disk {disk.target}.",
            )
