"""fallocate(2), which Python does not offer.

``os.posix_fallocate`` writes to every block if the file system does not support allocation.
"""

from __future__ import annotations

import ctypes
import errno
import os

_KEEP_SIZE = 1
"""Flag of linux/falloc.h: the size of the file does not change."""

_UNKNOWN = frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.ENODEV})

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


def allocate(descriptor: int, offset: int, length: int) -> None:
    """Allocate space for the range of a file, if its file system can. Raises OSError if it is full."""
    if _libc.fallocate(descriptor, _KEEP_SIZE, offset, length):
        number = ctypes.get_errno()
        if number not in _UNKNOWN:
            raise OSError(number, os.strerror(number))
