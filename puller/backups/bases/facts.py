"""Whether a disk's image is the one of which a point was taken, by the facts in the point.

A qcow2 image may have its data in an external file. Its bitmaps are in the image, and know nothing of a
data file that another program replaces or writes to. While the domain is shut off, times tell::

    guest writes ──► data file       QEMU ends ──► bitmaps to the image       shut off: nobody writes
                     modified                      modified, later            if the data file is newer,
                                                                              another program wrote to it
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from decimal import Decimal
from itertools import pairwise

import msgspec

from puller.hypervisor.domain.disks.disk import ImageFacts
from puller.repository.points import ImageRecord

REPLACED = "its data file was replaced"
WRITTEN = "its data file was written to while the domain was shut off"


def recorded(facts: ImageFacts) -> ImageRecord:
    """Return the facts in the form in which a point stores them."""
    return msgspec.convert(asdict(facts), ImageRecord)


def may_differ(now: ImageFacts, then: ImageRecord) -> bool:
    """Return whether the image may have changed without QEMU: another file, a shorter one, another run.

    An image grows as its guest writes; QEMU never makes it shorter. While QEMU has an image open, its lock
    keeps other QEMU programs from writing to it, but not ``cp``.
    """
    return (now.inode, now.born, now.qemu) != (then.inode, then.born, then.qemu) or now.size < then.size


def data_file_fault(states: Sequence[ImageRecord]) -> str | None:
    """Return why no bitmap in the image records what became of its data file, or None.

    ``states`` are those of the image at each point since the bitmap was created and now, newest first. The
    node of a device is made anew when the host starts, so only the files are told apart by it.
    """
    if any(map(_was_written, states)) or any(_changed_while_off(*pair) for pair in pairwise(states)):
        return WRITTEN
    return REPLACED if _was_replaced(states[0], states[-1]) else None


def _was_written(state: ImageRecord) -> bool:
    """Whether the data file is newer than the image, of a domain that is shut off."""
    return (
        state.data is not None and not state.qemu and _time(state.data.modified) > _time(state.modified) > 0
    )


def _changed_while_off(now: ImageRecord, then: ImageRecord) -> bool:
    """Whether the data file, and not the image, has another time of modification, such as an older one."""
    if now.data is None or then.data is None or now.qemu or then.qemu:
        return False
    return now.modified == then.modified and now.data.modified != then.data.modified


def _was_replaced(now: ImageRecord, then: ImageRecord) -> bool:
    if now.data is None or then.data is None or not (now.data.size and then.data.size):
        return False  # a device has no size here
    return (now.data.inode, now.data.born) != (then.data.inode, then.data.born)


def _time(seconds: str) -> Decimal:
    return Decimal(seconds or 0)
