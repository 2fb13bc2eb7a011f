"""Disks that are frozen at a point in time, which a backup reads.

This is the interface between the transaction in ``puller.backups.backup`` and its source. A pull job is one
source; QEMU's pushed images, and the images of a domain that is shut off, are others.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Self

from puller.errors import PullerError


@dataclass(frozen=True, slots=True)
class DiskExport:
    """Where to read one disk as it was at the moment of the freeze.

    Attributes:
        target: The disk's target, such as ``vda``.
        uri: An NBD URI (https://github.com/NetworkBlockDevice/nbd/blob/master/doc/uri.md).
        changed: The metadata context whose flag 1 marks the changes since the disk's base, such as
            ``qemu:dirty-bitmap:backup-vda``. None if there is no base and all of the disk is read.
        partial: Whether ``uri`` holds only the changes since the base, and nothing else of the disk.
    """

    target: str
    uri: str
    changed: str | None
    partial: bool = False


class FrozenDisks:
    """Disks that are frozen while the context lasts.

    Entering freezes the disks and creates the new checkpoint in the same instant; ``settle`` waits until they
    can be read, and sets ``exports``, one for each disk. Close every NBD connection before leaving. If
    entering fails, nothing is left behind. Once it has succeeded, the caller owns the new checkpoint: keep
    it, or delete it after the context has ended.

    This base class stands for no disks: it needs no job and freezes nothing.
    """

    exports: tuple[DiskExport, ...] = ()

    @property
    def consistency(self) -> str:
        """State of the disks.

        ``crash``: as after a power cut; ``filesystem``: as after an unmount; ``offline``: as the guest left
        them when it ended; ``none``: there are no disks.
        """
        return "none"

    def prepared(self) -> AbstractContextManager[object]:
        """Return a context to enter before these disks and before the guest is quiesced, and to leave after.

        It prepares whatever takes long. Raises PullerError.
        """
        return nullcontext()

    def settle(self) -> None:
        """Wait until the disks can be read. Raises PullerError if they never can."""

    def confirm(self) -> None:
        """Raise PullerError if the data may be of another moment. Called after all data was read."""

    def guarded(self, alarm: Callable[[PullerError], None]) -> AbstractContextManager[object]:
        """Return a context in which any thread may call ``alarm`` once continuing would harm the guest.

        Enter it after these disks, and leave it before them.
        """
        return nullcontext()

    def scratch_used(self) -> int | None:
        """Return the bytes of scratch that the guest's writes have used so far; None without scratch.

        Raises PullerError if the job has ended.
        """
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: Any) -> None:
        """Release the disks."""
