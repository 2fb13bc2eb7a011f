"""fallocate(2), which Python does not offer.

``os.posix_fallocate`` writes to every block if the file system does not support allocation.
"""

from __future__ import annotations

import ctypes
import errno
import os

_KEEP_SIZE = 1
"""Flag of linux/falloc.h: the size of the file does not change."""

_PUNCH_HOLE = 2
"""Flag of linux/falloc.h: the range reads as zeros and takes no room. Of a block device that can unmap, too
(Linux 4.9: ``blkdev_fallocate``)."""

_UNKNOWN = frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.ENODEV})

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


def allocate(descriptor: int, offset: int, length: int) -> None:
    """Allocate space for the range of a file, if its file system can. Raises OSError if it is full."""
    if _libc.fallocate(descriptor, _KEEP_SIZE, offset, length):
        number = ctypes.get_errno()
        if number not in _UNKNOWN:
            raise OSError(number, os.strerror(number))


def punch(descriptor: int, offset: int, length: int) -> bool:
    """Make the range a hole that reads as zeros; False where the file system or device has none.

    Raises OSError.
    """
    if not _libc.fallocate(descriptor, _KEEP_SIZE | _PUNCH_HOLE, offset, length):
        return True
    number = ctypes.get_errno()
    if number in _UNKNOWN or number == errno.EINVAL:
        return False
    raise OSError(number, os.strerror(number))
