"""What a mounted file system may lack: links, folders that can be synced, inodes that stay.

CIFS, FUSE (rclone, sshfs), 9p and some NFS servers refuse one or the other, each with an error of its own.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

_REMOTE = {"cifs", "smb3", "nfs", "nfs4", "9p", "ceph", "virtiofs", "vboxsf", "fuseblk"}

_LACKING = {
    errno.EINVAL,
    errno.EACCES,
    errno.EPERM,
    errno.ENOSYS,
    errno.EOPNOTSUPP,
    errno.ENOTTY,
    errno.EBADF,
}
"""What a file system says that cannot do a thing. EIO means the same on some, and a broken disk on others."""


def is_remote(path: Path) -> bool:
    """Whether ``path``, or what of it is there, is on a network or in user space, by /proc/self/mountinfo."""
    while not path.exists() and path != path.parent:
        path = path.parent
    try:
        device = path.stat().st_dev
        mounts = Path("/proc/self/mountinfo").read_text()
    except OSError:
        return False
    number = f"{os.major(device)}:{os.minor(device)}"
    kinds = {_kind(line) for line in mounts.splitlines() if line.split()[2] == number}
    return any(kind in _REMOTE or kind == "fuse" or kind.startswith("fuse.") for kind in kinds)


def _kind(line: str) -> str:
    return line.rpartition(" - ")[2].split(" ", 1)[0]


def means_lacking(error: OSError, folder: Path) -> bool:
    """Whether ``error`` says that the file system of ``folder`` cannot do a thing, and not that it failed."""
    return error.errno in _LACKING or (error.errno in {errno.EIO, errno.ERANGE} and is_remote(folder))


def sync_folder(folder: Path) -> bool:
    """Make the entries of ``folder`` durable; False where its file system has no such thing."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if not means_lacking(error, folder):
            raise
        return False
    return True
