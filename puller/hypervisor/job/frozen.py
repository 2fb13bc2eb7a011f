"""A frozen point in time of some disks: what a backup reads, whoever froze it.

The transaction of ``puller.backups.backup`` knows no more of its source than this page. A pull job is one
such source; QEMU's pushed images, or the images of a domain that is shut off, are others.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Self

from puller.errors import PullerError


@dataclass(frozen=True, slots=True)
class DiskExport:
    """Where to read one disk as it was at the frozen moment.

    Attributes:
        target: The disk's target, such as ``vda``.
        uri: An NBD URI (https://github.com/NetworkBlockDevice/nbd/blob/master/doc/uri.md).
        changed: The metadata context whose flag 1 marks what changed since the disk's base, such as
            ``qemu:dirty-bitmap:backup-vda``. None if there is no base and all of the disk is read.
        partial: Whether ``uri`` shows only what changed since the base, and nothing else of the disk.
    """

    target: str
    uri: str
    changed: str | None
    partial: bool = False


class FrozenDisks:
    """Disks that stand still from entering the context until leaving it.

    Entering freezes the disks and takes the new checkpoint in the same instant; ``settle`` waits until they
    can be read, and ``exports``, one for each disk, are there from then on. Close every NBD connection before
    leaving. If entering fails, nothing is left behind; once it has succeeded, the new checkpoint is its
    caller's: to keep, or to delete after the context has ended.

    This class itself is no disks at all: it needs no job, and no guest stands still.
    """

    exports: tuple[DiskExport, ...] = ()

    @property
    def consistency(self) -> str:
        """What the disks are like: ``crash``, as after a power cut, ``filesystem``, as after an unmount,
        ``offline``, as the guest left them when it ended, or ``none`` if there are none.
        """
        return "none"

    def prepared(self) -> AbstractContextManager[object]:
        """A context to be entered before these disks, and before the guest is quiesced, and left after them.

        It makes what takes its time. Raises PullerError.
        """
        return nullcontext()

    def settle(self) -> None:
        """Return once the disks can be read. Raises PullerError if they never can."""

    def confirm(self) -> None:
        """Raise PullerError if what was read may be of another moment. Called once all has been read."""

    def guarded(self, alarm: Callable[[PullerError], None]) -> AbstractContextManager[object]:
        """A context in which ``alarm`` is called, from any thread, once the guest would be hurt by going on.

        Enter it after these disks, leave it before them.
        """
        return nullcontext()

    def scratch_used(self) -> int | None:
        """Bytes of scratch that the guest's writes have taken so far; None where there is no scratch.

        Raises PullerError if the job is no more.
        """
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: Any) -> None:
        """Let go of the disks."""
