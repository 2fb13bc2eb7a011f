"""The libnbd that this process uses."""

from __future__ import annotations

import nbd


def version() -> str:
    """Its version, such as ``1.14.2``."""
    return str(nbd.NBD().get_version())


def has_long_extents() -> bool:
    """Whether it can ask for the status of 4 GiB and more at once: 64-bit extents, since libnbd 1.18."""
    return hasattr(nbd.NBD, "block_status_64")
