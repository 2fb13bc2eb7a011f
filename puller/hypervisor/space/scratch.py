"""The scratch: where QEMU keeps what the guest overwrites while a pull job is open.

Before the guest's write reaches a block for the first time in a job, QEMU copies the old block to the
scratch image of that disk. If that copy fails, the *guest's write* fails (``on-cbw-error`` is
``break-guest-write``): a full scratch breaks the guest, not the backup. So there is a check before.

Where it lies: libvirt creates the scratch files itself, gives them to QEMU's user, and labels each one for
SELinux and AppArmor, so the folder need not be listed in any policy. It only has to be one that QEMU's
user can walk to, on a file system with room. The folder of the domain's own first image is that on any
host, so it is the default. ``/tmp`` and ``/var/tmp`` are often small or in memory.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from puller.errors import ScratchFull, UsageError
from puller.hypervisor.domain.checkpoint import OWN, owner_prefix
from puller.hypervisor.domain.disk import Disk
from puller.units import MIB, format_bytes

SUFFIX = ".scratch"


def default_directory(disks: Sequence[Disk], state_directory: Path) -> Path:
    """The folder of the first disk that is a file; libvirt's own where none is."""
    for disk in disks:
        if disk.type == "file" and disk.path is not None:
            return disk.path.parent
    return state_directory


def scratch_path(directory: Path, checkpoint: str, uuid: str, target: str) -> Path:
    """The scratch file of one disk in the job that makes ``checkpoint``.

    The checkpoint's name makes it unique and ours; the domain's UUID says whose it is, so that a sweep
    under the domain's lock cannot meet a file that another domain's job is about to use.
    """
    return directory / f"{checkpoint}-{uuid}-{target}{SUFFIX}"


def required_bytes(sizes: Iterable[int]) -> int:
    """Free bytes to ask for before a job on disks of these sizes: a twentieth of them, 256 MiB at least.

    The worst case, a guest that rewrites all of its disks meanwhile, would take as much as the disks
    are large. Asking for that would refuse most hosts; a guest that changes 5 % during one backup is
    already a busy one. Who knows better gives another folder. The least gives the watch over the room
    (``puller.hypervisor.space.scratchwatch``) half a second with a guest that writes 500 MiB/s.
    """
    return max(256 * MIB, sum(sizes) // 20)


def check_free(directory: Path, needed: int) -> None:
    """Raise :class:`ScratchFull` if fewer than ``needed`` bytes are free in ``directory``.

    Raises :class:`UsageError` if there is no such folder.
    """
    free = free_bytes(directory, "scratch")
    if free < needed:
        raise ScratchFull(
            f"scratch directory {directory} has {format_bytes(free)} free, {format_bytes(needed)} are needed"
        )


def free_bytes(directory: Path, purpose: str) -> int:
    """Bytes that an ordinary user may still write in ``directory``, the ``purpose`` folder of the message.

    Counted is for an ordinary user, since QEMU is one. Raises :class:`UsageError` if there is no such folder.
    """
    try:
        status = os.statvfs(directory)
    except OSError as error:
        raise UsageError(f"{purpose} directory {directory} cannot be used: {error.strerror}") from error
    return status.f_bavail * status.f_frsize


def leftovers(directory: Path, uuid: str, in_use: Collection[Path]) -> tuple[Path, ...]:
    """Scratch files of the domain ``uuid`` of any repository in ``directory`` but those ``in_use``."""
    found = directory.glob(f"{OWN}*-{uuid}-*{SUFFIX}")
    return tuple(sorted(path for path in found if path not in in_use))


def sweep(
    directory: Path, repository_id: str, uuid: str, in_use: Collection[Path], suffix: str = SUFFIX
) -> tuple[Path, ...]:
    """Delete our files of the domain ``uuid`` in ``directory`` but those ``in_use``; returns them.

    ``suffix`` says of which sort.

    Call it with the domain's lock held.
    """
    found = directory.glob(f"{owner_prefix(repository_id)}*-{uuid}-*{suffix}")
    stale = tuple(sorted(path for path in found if path not in in_use))
    for path in stale:
        discard(path)
    return stale


def discard(path: Path) -> None:
    """Delete a file that libvirt or QEMU should have deleted.

    One that may not be deleted from here stays: that is no reason to fail a backup that is done.
    """
    try:
        path.unlink()
    except (FileNotFoundError, PermissionError):
        return
