"""The scratch: images in which QEMU keeps data that the guest overwrites while a pull job is open.

Before the guest's write reaches a block for the first time in a job, QEMU copies the old block to the
scratch image of that disk. If that copy fails, the *guest's write* fails (``on-cbw-error`` is
``break-guest-write``): a full scratch breaks the guest, not the backup. So free space is checked first.

libvirt creates the scratch files itself, gives them to QEMU's user, and labels each one for SELinux and
AppArmor, so no policy has to list the directory. QEMU's user must be able to reach it, and its file system
needs free space. The directory of the domain's first image has both on any host, so it is the default.
``/tmp`` and ``/var/tmp`` are often small or in memory.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from puller.errors import ScratchFull, UsageError
from puller.host.access import LOCAL, HostAccess
from puller.hypervisor.domain.checkpoint import OWN, owner_prefix
from puller.hypervisor.domain.disks.disk import Disk
from puller.units import MIB, format_bytes

SUFFIX = ".scratch"


def default_directory(disks: Sequence[Disk], state_directory: Path) -> Path:
    """Return the directory of the first disk that is a file; libvirt's own if none is."""
    for disk in disks:
        if disk.type == "file" and disk.path is not None:
            return disk.path.parent
    return state_directory


def scratch_path(directory: Path, checkpoint: str, uuid: str, target: str) -> Path:
    """Return the scratch file of one disk in the job that creates ``checkpoint``.

    The checkpoint's name makes it unique and ours. The domain's UUID names its owner, so that a sweep under
    the domain's lock never deletes a file that another domain's job is about to use.
    """
    return directory / f"{checkpoint}-{uuid}-{target}{SUFFIX}"


def checkpoint_of(path: Path, uuid: str) -> str:
    """Return the checkpoint of the job to which the scratch file at ``path`` belongs."""
    return path.name.partition(f"-{uuid}-")[0]


def required_bytes(sizes: Iterable[int]) -> int:
    """Return the free bytes to require before a job on disks of these sizes.

    The worst case, a guest that rewrites all of its disks meanwhile, would need the size of the disks.
    Requiring that would refuse most hosts, and few guests change a twentieth during one backup. The minimum
    gives the watch (``puller.hypervisor.space.scratchwatch``) time to react to a guest that writes fast.
    """
    return max(256 * MIB, sum(sizes) // 20)


def check_free(directory: Path, needed: int, host: HostAccess = LOCAL) -> None:
    """Raise :class:`ScratchFull` if fewer than ``needed`` bytes are free in ``directory``.

    Raises :class:`UsageError` if the directory cannot be used.
    """
    free = free_bytes(directory, "scratch", host)
    if free < needed:
        raise ScratchFull(
            f"scratch directory {directory} has {format_bytes(free)} free, "
            f"but {format_bytes(needed)} are needed"
        )


def free_bytes(directory: Path, purpose: str, host: HostAccess = LOCAL) -> int:
    """Return the bytes that an ordinary user, such as QEMU's, may still write in ``directory``.

    ``purpose`` names it in the message. Raises :class:`UsageError` if the directory cannot be used.
    """
    try:
        return host.free_bytes(directory)
    except OSError as error:
        raise UsageError(f"cannot use the {purpose} directory {directory}: {error.strerror}") from error


def leftovers(
    directory: Path, uuid: str, in_use: Collection[Path], host: HostAccess = LOCAL
) -> tuple[Path, ...]:
    """Return the scratch files in ``directory`` of the domain ``uuid``, of any repository, not ``in_use``."""
    found = host.matching(directory, f"{OWN}*-{uuid}-*{SUFFIX}")
    return tuple(path for path in found if path not in in_use)


def sweep(  # noqa: PLR0913, PLR0917 - whose files, and which
    directory: Path,
    repository_id: str,
    uuid: str,
    in_use: Collection[Path],
    suffix: str = SUFFIX,
    host: HostAccess = LOCAL,
) -> tuple[Path, ...]:
    """Delete our files of the domain ``uuid`` in ``directory`` that are not ``in_use``; return the deleted.

    ``suffix`` selects their kind. Call it with the domain's lock held.
    """
    found = host.matching(directory, f"{owner_prefix(repository_id)}*-{uuid}-*{suffix}")
    return tuple(path for path in found if path not in in_use and discard(path, host))


def discard(path: Path, host: HostAccess = LOCAL) -> bool:
    """Delete a file that libvirt or QEMU should have deleted; return whether puller did.

    A file that puller may not delete stays: the backup is complete and does not fail for it.
    """
    try:
        host.remove(path)
    except (FileNotFoundError, PermissionError):
        return False
    return True
