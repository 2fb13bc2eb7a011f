"""The locks by which QEMU's programs protect their images from each other.

They are open file description locks (fcntl_locking(2)) on single bytes of the image: byte 100 + n says that
the holder needs the permission n, byte 200 + n that nobody else may have it. See ``block/file-posix.c`` and
``include/block/block-common.h`` of QEMU. If libvirt gives each QEMU its own device nodes, locks on devices
are separate; locks on files are always shared.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import subprocess
from contextlib import suppress
from pathlib import Path

from puller.host.access import LOCAL, HostAccess

_SECONDS = 60.0
"""Seconds for ``qemu-img`` of another host."""

_LOCK = struct.Struct("@hhqqi4x")  # struct flock: type, whence, start, length, process
_NEEDED, _REFUSED = 100, 200
_PERMISSIONS = 4
_CONSISTENT_READ, _WRITE = 0, 1


def is_held(descriptor: int) -> bool:
    """Return whether a program of QEMU, other than this process, has the image open."""
    return any(_is_locked(descriptor, first) for first in (_NEEDED, _REFUSED))


def is_open(path: Path, image_format: str, host: HostAccess) -> bool:
    """Return whether a program of QEMU has the image at ``path`` of ``host`` open. Raises OSError."""
    if host is not LOCAL:  # where qemu-img respects the lock of a writer
        try:
            done = host.run(["qemu-img", "info", "-f", image_format, "--", str(path)], _SECONDS)
        except subprocess.TimeoutExpired as error:
            raise OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT)) from error
        return done.returncode != 0 and b"lock" in done.stderr
    with path.open("rb") as file:
        return is_held(file.fileno())


def take(descriptor: int) -> bool:
    """Lock the image for writing: no QEMU starts on it until the descriptor is closed. False if one has it.

    Like QEMU, this takes its own locks before it looks for those of others. The descriptor must be readable.
    On a file system without locks (ENOLCK, EINVAL) it always succeeds.
    """
    with suppress(OSError):
        for byte in (_NEEDED + _WRITE, _REFUSED + _CONSISTENT_READ, _REFUSED + _WRITE):
            fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _LOCK.pack(fcntl.F_RDLCK, os.SEEK_SET, byte, 1, 0))
    return not is_held(descriptor)


def _is_locked(descriptor: int, first: int) -> bool:
    question = _LOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, first, _PERMISSIONS, 0)
    with suppress(OSError):
        kind, *_ = _LOCK.unpack(fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, question))
        return bool(kind != fcntl.F_UNLCK)
    return False
