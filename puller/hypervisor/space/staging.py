"""The staging: the directory in which QEMU writes the images of a push job, and puller reads them.

libvirt creates the files, gives them to QEMU's user and labels them, as it does with scratch files
(``puller.hypervisor.space.scratch``), so QEMU's user must be able to reach the directory.
"""

from __future__ import annotations

import errno
from pathlib import Path

from puller.errors import HypervisorError, StagingFull
from puller.host.access import LOCAL, HostAccess
from puller.hypervisor.space.scratch import free_bytes
from puller.units import CHUNK, MIB, format_bytes

SUFFIX = ".staging"


def staging_path(directory: Path, checkpoint: str, uuid: str, target: str) -> Path:
    """Return the image of one disk in the push job that creates ``checkpoint``, named like scratch files."""
    return directory / f"{checkpoint}-{uuid}-{target}{SUFFIX}"


def kept_path(directory: Path, name: str, point_id: str, target: str) -> Path:
    """Return the path for an image that the user keeps; no run takes it for a leftover."""
    return directory.absolute() / f"{name}-{point_id}-{target}.qcow2"


def keep(image: Path, path: Path, host: HostAccess = LOCAL) -> None:
    """Rename an image that libvirt has finished to ``path``, and release the unused reservation.

    Raises HypervisorError.
    """
    try:
        host.keep(image, path)
    except OSError as error:
        raise HypervisorError(f"cannot rename {image} to {path}: {error.strerror}") from error


def copied_bytes(dirty: int, size: int, cluster: int | None) -> int:
    """Return the most bytes that QEMU copies of a disk of ``size`` bytes with ``dirty`` bytes in its bitmap.

    It copies whole clusters of the new image, which are as large as those of the disk's image (``cluster``
    bytes if known; seen with libvirt 9.0 and QEMU 7.2), but at least 64 KiB.
    """
    return min(size, dirty * max(1, (cluster or CHUNK) // CHUNK))


def required_bytes(copied: int) -> int:
    """Return the bytes that the image of one disk may need, if ``copied`` bytes are to be copied.

    The margin covers the tables of qcow2 and the guest's writes until the job begins, as the bitmap of a
    young checkpoint grows fast. Later writes need no space.
    """
    return copied + copied // 20 + 16 * MIB


def reserve(image: Path, length: int, host: HostAccess = LOCAL) -> None:
    """Reserve ``length`` bytes of the file system for ``image``, which QEMU is writing.

    Before a guest's write reaches a block that is not copied yet, QEMU copies it into the image. If that
    fails, the *guest's write* fails (``No space left on device``, seen with QEMU 7.2). The reservation keeps
    other programs from causing that by filling the file system. On file systems without reservation
    (``EOPNOTSUPP``) only the check before the job protects the guest. Raises :class:`StagingFull`.
    """
    try:
        host.allocate(image, length)
    except OSError as error:  # else puller may not write it, or it is gone because the job has failed
        if error.errno == errno.ENOSPC:
            raise StagingFull(
                f"staging directory {image.parent} has too little space: {image.name} may need "
                f"{format_bytes(length)}"
            ) from error


def check_free(directory: Path, needed: int, host: HostAccess = LOCAL) -> None:
    """Raise :class:`StagingFull` if fewer than ``needed`` bytes are free in ``directory``.

    Raises :class:`UsageError` if the directory cannot be used.
    """
    free = free_bytes(directory, "staging", host)
    if free < needed:
        raise StagingFull(
            f"staging directory {directory} has {format_bytes(free)} free, "
            f"but {format_bytes(needed)} are needed"
        )
