"""The staging: where QEMU writes the images of a push job, and puller reads them.

libvirt makes the files, gives them to QEMU's user and labels them, as it does with scratch files
(``puller.hypervisor.scratch``), so the folder must be one that QEMU's user can walk to.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from puller.errors import HypervisorError, StagingFull
from puller.hypervisor.image import cluster_size
from puller.hypervisor.scratch import free_bytes
from puller.units import CHUNK, MIB, format_bytes

SUFFIX = ".staging"


def staging_path(directory: Path, checkpoint: str, uuid: str, target: str) -> Path:
    """The image of one disk in the push job that makes ``checkpoint``; named like scratch files are."""
    return directory / f"{checkpoint}-{uuid}-{target}{SUFFIX}"


def kept_path(directory: Path, name: str, point_id: str, target: str) -> Path:
    """Where the image of one disk stays if the user wants to keep it: no run takes it for a leftover."""
    return directory.absolute() / f"{name}-{point_id}-{target}.qcow2"


def keep(image: Path, path: Path) -> None:
    """Give an image that libvirt is done with the name ``path``. Raises HypervisorError."""
    try:
        image.rename(path)
    except OSError as error:
        raise HypervisorError(f"{image} cannot be kept as {path}: {error.strerror}") from error


def copied_bytes(dirty: int, size: int, path: Path | None) -> int:
    """The most that QEMU copies of a disk of ``size`` bytes with ``dirty`` ones in its bitmap.

    It copies whole clusters of the new image, which get the size of those of the disk's image at ``path``
    (seen with libvirt 9.0 and QEMU 7.2), 64 KiB at least.
    """
    cluster = None if path is None else cluster_size(path)
    return min(size, dirty * max(1, (cluster or CHUNK) // CHUNK))


def required_bytes(copied: Iterable[int]) -> int:
    """Free bytes to ask for before a push job that copies so much of each disk.

    Besides: a twentieth for what the guest writes until the job begins and for tables of qcow2, and
    64 MiB, since a bitmap of a young checkpoint grows fast. Nothing that is written later adds to it.
    """
    total = sum(copied)
    return total + total // 20 + 64 * MIB


def check_free(directory: Path, needed: int) -> None:
    """Raise :class:`StagingFull` if fewer than ``needed`` bytes are free in ``directory``.

    Raises :class:`UsageError` if there is no such folder.
    """
    free = free_bytes(directory, "staging")
    if free < needed:
        raise StagingFull(
            f"staging folder {directory} has {format_bytes(free)} free, {format_bytes(needed)} are needed"
        )
