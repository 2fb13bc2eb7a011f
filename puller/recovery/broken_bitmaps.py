"""Dirty bitmaps that a crash has left broken in an image, which QEMU does not resize before they are gone.

Such a bitmap tells nobody anything: QEMU lets it be removed and nothing else.
"""

from __future__ import annotations

from pathlib import Path

from puller.cancelling import CancelScope
from puller.errors import OutputRefused
from puller.hypervisor.domain.checkpoint import OWN
from puller.hypervisor.domain.disks.image import image_facts, stored_bitmaps
from puller.nbd.image import Keys, remove_bitmap

_BROKEN = "in-use"


def remove_broken(path: Path, image_format: str, keys: Keys, scope: CancelScope) -> None:
    """Remove puller's broken bitmaps from an image that nobody uses.

    Raises OutputRefused if another tool's is among them, HypervisorError, NbdError.
    """
    found = stored_bitmaps(image_facts(path, image_format, scope))
    broken = [name for name, flags in found.items() if _BROKEN in flags]
    for name in broken:
        if not name.startswith(OWN):
            raise OutputRefused(
                f"image {path} cannot be resized: its bitmap {name}, of another tool, is inconsistent",
                advice=f"Remove it with 'qemu-img bitmap --remove {path} {name}', then run the same command "
                "again.",
            )
    for name in broken:
        remove_bitmap(path, name, keys, scope)
