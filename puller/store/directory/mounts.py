"""Features that a mounted file system may lack: links, sync of directories, stable inodes.

CIFS, FUSE (rclone, sshfs), 9p and some NFS servers lack some of these, each with its own errors.
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
"""Errors for a missing feature. EIO means the same on some file systems, and a broken disk on others."""


def is_remote(path: Path) -> bool:
    """Return whether ``path`` is on a network or user-space file system, by /proc/self/mountinfo."""
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
    """Return whether ``error`` means that the file system of ``folder`` lacks a feature."""
    return error.errno in _LACKING or (error.errno in {errno.EIO, errno.ERANGE} and is_remote(folder))


def sync_folder(folder: Path) -> bool:
    """Make the entries of ``folder`` durable; return False if its file system cannot."""
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
