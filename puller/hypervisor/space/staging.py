"""The staging: where QEMU writes the images of a push job, and puller reads them.

libvirt makes the files, gives them to QEMU's user and labels them, as it does with scratch files
(``puller.hypervisor.space.scratch``), so the folder must be one that QEMU's user can walk to.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

from puller.errors import HypervisorError, StagingFull
from puller.host.allocation import allocate
from puller.hypervisor.space.scratch import free_bytes
from puller.units import CHUNK, MIB, format_bytes

SUFFIX = ".staging"


def staging_path(directory: Path, checkpoint: str, uuid: str, target: str) -> Path:
    """The image of one disk in the push job that makes ``checkpoint``; named like scratch files are."""
    return directory / f"{checkpoint}-{uuid}-{target}{SUFFIX}"


def kept_path(directory: Path, name: str, point_id: str, target: str) -> Path:
    """Where the image of one disk stays if the user wants to keep it: no run takes it for a leftover."""
    return directory.absolute() / f"{name}-{point_id}-{target}.qcow2"


def keep(image: Path, path: Path) -> None:
    """Give an image that libvirt is done with the name ``path``, and back what was reserved in vain.

    Raises HypervisorError.
    """
    try:
        os.truncate(image, image.stat().st_size)
        image.rename(path)
    except OSError as error:
        raise HypervisorError(f"{image} cannot be kept as {path}: {error.strerror}") from error


def copied_bytes(dirty: int, size: int, cluster: int | None) -> int:
    """The most that QEMU copies of a disk of ``size`` bytes with ``dirty`` ones in its bitmap.

    It copies whole clusters of the new image, which are as large as those of the disk's image, ``cluster``
    bytes if that is known (seen with libvirt 9.0 and QEMU 7.2), but 64 KiB at least.
    """
    return min(size, dirty * max(1, (cluster or CHUNK) // CHUNK))


def required_bytes(copied: int) -> int:
    """Bytes that the image of one disk may take, of which ``copied`` are to be copied as far as is known.

    More is a twentieth for what the guest writes until the job begins and for the tables of qcow2, and
    16 MiB, since the bitmap of a young checkpoint grows fast. Nothing that is written later adds to it.
    """
    return copied + copied // 20 + 16 * MIB


def reserve(image: Path, length: int) -> None:
    """Set ``length`` bytes of the file system aside for ``image``, which QEMU is writing.

    Before a guest's write reaches a block that is not copied yet, QEMU copies it into the image. If that
    fails, the *guest's write* fails (``No space left on device``, seen with QEMU 7.2). So a folder that is
    filled up by others meanwhile must not be able to make it fail. File systems that cannot do this
    (``EOPNOTSUPP``) have only been looked at before. Raises :class:`StagingFull`.
    """
    try:
        descriptor = os.open(image, os.O_WRONLY)
    except OSError:  # not ours to write, or gone because the job has failed already
        return
    try:
        allocate(descriptor, 0, length)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise StagingFull(
                f"staging directory {image.parent} does not have the {format_bytes(length)} "
                f"that {image.name} may take"
            ) from error
    finally:
        os.close(descriptor)


def check_free(directory: Path, needed: int) -> None:
    """Raise :class:`StagingFull` if fewer than ``needed`` bytes are free in ``directory``.

    Raises :class:`UsageError` if there is no such folder.
    """
    free = free_bytes(directory, "staging")
    if free < needed:
        raise StagingFull(
            f"staging directory {directory} has {format_bytes(free)} free, {format_bytes(needed)} are needed"
        )
