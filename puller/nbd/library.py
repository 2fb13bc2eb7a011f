"""The libnbd that this process uses."""

from __future__ import annotations

import nbd


def version() -> str:
    """Return libnbd's version, such as ``1.14.2``."""
    return str(nbd.NBD().get_version())


def has_long_extents() -> bool:
    """Return whether libnbd supports 64-bit extents (since 1.18): block status of 4 GiB and more at once."""
    return hasattr(nbd.NBD, "aio_block_status_64")
