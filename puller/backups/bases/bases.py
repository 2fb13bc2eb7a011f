"""The base of each disk of a new point, and the reason if the disk is not incremental.

======================  ==============================================  ====================================
the repository has      and the disk's dirty bitmap                     the disk is taken as
======================  ==============================================  ====================================
a point with the disk   of that point's own checkpoint is whole         incremental: what the bitmap names
a point with the disk   is lost, broken, of another image or never was  rehash: all is read, the rest is known
none                                                                    full
======================  ==============================================  ====================================

A bitmap is trusted only together with the point with which it was created, its *owner*. If an image is
reverted to an earlier state, the bitmap in it is reverted too, so it always records how the image differs
from the owner. It says nothing about later points: a point that was taken while the domain was shut off
names the existing bitmap, and a copy of the image from before that point has that bitmap as well.

A rehash compares what it reads with its parent, chunk by chunk, and stores only the differences. It works
without the parent too: if that is damaged or gone, chunks and pages are found by their ids in the index.
So it reads like a full and stores like an incremental.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Protocol

from puller.backups.bases.facts import data_file_fault, may_differ, recorded
from puller.backups.bases.history import History
from puller.backups.bases.probe import FOREIGN
from puller.errors import DamagedData
from puller.hypervisor.domain import checkpoint as checkpoints
from puller.hypervisor.domain.disks.disk import Disk
from puller.hypervisor.domain.disks.image import untracked
from puller.hypervisor.domain.domain import Domain
from puller.repository.points import MOMENT, DiskRecord, Point, time_of
from puller.repository.reading.image import DiskImage
from puller.repository.repository import Repository

ASKED = "a full backup was requested"
FIRST = "no earlier point has this disk"
COMPARED = "a full comparison is due"


@dataclass(frozen=True, slots=True)
class Parent:
    """A point with the disk, and its record of the disk."""

    point: Point
    record: DiskRecord


@dataclass(frozen=True, slots=True)
class Base:
    """The base of one disk. ``checkpoint`` is the checkpoint whose bitmap is used, if any.

    ``reason`` says why the disk is not incremental; it is empty if it is. ``image_changed`` is whether the
    image file or the run of QEMU changed since the base, so that the bitmap needs a more thorough probe.
    """

    parent: Parent | None
    checkpoint: str | None
    reason: str
    image_changed: bool = False

    @property
    def kind(self) -> str:
        """``full``, ``rehash`` or ``incremental``."""
        if self.parent is None:
            return "full"
        return "rehash" if self.checkpoint is None else "incremental"

    def compared(self, reason: str) -> Base:
        """Return the same parent without the bitmap: all of the disk is read."""
        return replace(self, checkpoint=None, reason=reason)


@dataclass(frozen=True, slots=True)
class CheckpointMark:
    """The newest checkpoint that records writes when a point is taken, and its XML."""

    checkpoint: str | None
    xml: str | None


class Bitmaps(Protocol):
    """The dirty bitmaps of a domain's disks, by their checkpoint."""

    oldest: str
    """What the id of the oldest point whose own checkpoint may be among them begins with: its second.

    Behind all ids if there is none.
    """

    def sound(self, checkpoint: str) -> frozenset[str]:
        """Return the targets of the disks that have an intact bitmap of ``checkpoint``."""
        ...

    def fault(self, checkpoint: str) -> str:
        """Return why a disk is not among the sound ones of ``checkpoint``."""
        ...


class LiveBitmaps:
    """The bitmaps of an active domain in libvirt and QEMU. Raises HypervisorError."""

    def __init__(self, domain: Domain, repository_id: str) -> None:
        self._domain = domain
        self._known = {item.name for item in checkpoints.list_checkpoints(domain)}
        self.oldest = oldest_of(self._known, repository_id)
        self._sound: dict[str, frozenset[str]] = {}

    def sound(self, checkpoint: str) -> frozenset[str]:
        """See Bitmaps. Queries each checkpoint once."""
        if checkpoint not in self._sound:
            known = checkpoint in self._known
            self._sound[checkpoint] = frozenset(
                checkpoints.dirty_bytes(self._domain, checkpoint) if known else ()
            )
        return self._sound[checkpoint]

    def fault(self, checkpoint: str) -> str:
        """See Bitmaps."""
        if checkpoint in self._known:
            return f"its dirty bitmap of checkpoint {checkpoint} is missing or inconsistent"
        return f"libvirt has lost checkpoint {checkpoint}"


def oldest_of(names: Iterable[str], repository_id: str) -> str:
    """Return ``Bitmaps.oldest`` for checkpoints of these names."""
    points = filter(None, (checkpoints.point_of(name, repository_id) for name in names))
    return min(points, default="~")[:MOMENT]


def choose(history: History, disks: Sequence[Disk], bitmaps: Bitmaps) -> dict[str, Base]:
    """Return the base of each disk, by target. Raises StoreError, HypervisorError."""
    return {disk.target: _choose(history, disk, bitmaps) for disk in disks}


def from_nothing(disks: Sequence[Disk], reason: str) -> dict[str, Base]:
    """Return bases for a full of all disks."""
    return {disk.target: Base(None, None, reason) for disk in disks}


def without_bitmaps(bases: Mapping[str, Base], reason: str) -> dict[str, Base]:
    """Return the same bases, none of them incremental."""
    return compared(bases, dict.fromkeys(bases, reason))


def compared(bases: Mapping[str, Base], reasons: Mapping[str, str]) -> dict[str, Base]:
    """Return the same bases, without the bitmaps of the disks in ``reasons``, by target."""
    return {
        target: base.compared(reasons[target]) if base.checkpoint and target in reasons else base
        for target, base in bases.items()
    }


def without_mismatched_bitmaps(bases: Mapping[str, Base], reasons: Mapping[str, str]) -> dict[str, Base]:
    """Return the same bases, without the bitmaps of the disks in ``reasons`` and of the same checkpoints.

    A foreign image has often been swapped with another one of its checkpoint, whose own probe may miss it.
    """
    bad = {bases[target].checkpoint: target for target, reason in reasons.items() if reason == FOREIGN}
    doubts = {
        target: f"disk {bad[base.checkpoint]} of the same checkpoint does not match its dirty bitmap"
        for target, base in bases.items()
        if base.checkpoint in bad and base.checkpoint is not None
    }
    return compared(bases, {**doubts, **reasons})


def overdue(history: History, bases: Mapping[str, Base], every: timedelta, now: datetime) -> dict[str, Base]:
    """Return the same bases, none incremental whose last whole read is ``every`` ago or earlier."""
    due = [
        target
        for target, base in bases.items()
        if base.checkpoint is not None and _last_whole(history, target) <= now - every
    ]
    return compared(bases, dict.fromkeys(due, COMPARED))


def _last_whole(history: History, target: str) -> datetime:
    for point in history:
        if (record := point.disk(target)) is not None:
            return time_of(record.whole or point.point)
    return datetime.min.replace(tzinfo=UTC)


def checkpoints_of(bases: Mapping[str, Base]) -> dict[str, str | None]:
    """Return by target the checkpoint that the disk is incremental from, or None."""
    return {target: base.checkpoint for target, base in bases.items()}


def newest_checkpoint(bases: Mapping[str, Base]) -> CheckpointMark:
    """Return the newest checkpoint of the bases, which stays if no new one can be created.

    Its own point stays the base of later runs, which read the changes since then again.
    """
    marks = {
        base.checkpoint: base.parent.point.checkpoint_xml
        for base in bases.values()
        if base.checkpoint is not None and base.parent is not None
    }
    newest = max(marks, default=None)
    return CheckpointMark(newest, None if newest is None else marks[newest])


def _choose(history: History, disk: Disk, bitmaps: Bitmaps) -> Base:
    last: Parent | None = None
    states = [recorded(disk.facts)]
    for point in history:
        record = point.disk(disk.target)
        if record is None:
            continue
        parent = Parent(point, record)
        last = last or parent
        states.append(record.image)
        if fits(parent, disk, bitmaps):
            base = Base(parent, point.checkpoint, "", may_differ(disk.facts, record.image))
            fault = data_file_fault(states)
            return base if fault is None else base.compared(fault)
        if point.point < bitmaps.oldest or untracked(disk) is not None:
            break
    return (
        Base(None, None, FIRST) if last is None else Base(last, None, _reason(history, last, disk, bitmaps))
    )


def fits(parent: Parent, disk: Disk, bitmaps: Bitmaps) -> bool:
    """Whether a bitmap records the changes since ``parent``, because it was created with that point."""
    checkpoint = parent.point.checkpoint
    if checkpoint is None or checkpoints.owner_of(checkpoint) != parent.point.point:
        return False
    return (
        _is_same(disk, parent.record) and untracked(disk) is None and disk.target in bitmaps.sound(checkpoint)
    )


def _is_same(disk: Disk, record: DiskRecord) -> bool:
    """Whether the disk has the same image, on the same backing images, with the same data file.

    All disks of a checkpoint have bitmaps of one name, so another disk's bitmap would seem to fit. And no
    bitmap records a change of the backing images (``qemu-img rebase -u``) or of the data file
    (``qemu-img amend``).
    """
    same = (disk.format, disk.source, disk.backing) == (record.format, record.source, record.backing)
    return same and _has_same_data_file(disk, record)


def _has_same_data_file(disk: Disk, record: DiskRecord) -> bool:
    """Whether it has; an image that puller cannot read names none, nor did it for a point taken so."""
    then = None if record.image.data is None else record.image.data.path
    return not disk.compat or then == _data_file(disk)


def _data_file(disk: Disk) -> str | None:
    return None if disk.data_file is None else str(disk.data_file)


def _reason(history: History, last: Parent, disk: Disk, bitmaps: Bitmaps) -> str:
    """Why the disk cannot be incremental, according to its newest point."""
    if (why := untracked(disk)) is not None:
        return why
    record = last.record
    if not _is_same(disk, record):
        return _difference(disk, record)
    checkpoint = last.point.checkpoint
    if checkpoint is None:
        return "the last point has no checkpoint"
    if not history.holds(checkpoint) or disk.target in bitmaps.sound(checkpoint):
        owner = checkpoints.owner_of(checkpoint)
        return f"point {owner}, since which its dirty bitmap records, is gone, damaged or of another image"
    return bitmaps.fault(checkpoint)


def _difference(disk: Disk, record: DiskRecord) -> str:
    if (disk.format, disk.source) != (record.format, record.source):
        return f"its image is now {disk.format} {disk.source} and was {record.format} {record.source}"
    if not _has_same_data_file(disk, record):
        was = "none" if record.image.data is None else record.image.data.path
        return f"its data file is now {_data_file(disk) or 'none'} and was {was}"
    now, then = (", ".join(chain) or "nothing" for chain in (disk.backing, record.backing))
    return f"its backing images are now {now} and were {then}"


def without_damage(repository: Repository, bases: Mapping[str, Base]) -> dict[str, Base]:
    """Return the same bases, none incremental whose map needs a pack known to be damaged.

    Reading all of the disk stores again what it still has. Call it before a job is open: if any damage is
    known, the whole map is read. ``repository`` has learned the damage. Raises StoreError.
    """
    damaged = repository.packs.damaged
    affected = [
        target
        for target, base in bases.items()
        if damaged and base.checkpoint is not None and _needs(repository, base, damaged)
    ]
    return compared(bases, dict.fromkeys(affected, "stored data of its last point is damaged"))


def _needs(repository: Repository, base: Base, damaged: Collection[bytes]) -> bool:
    """Return whether the map of ``base`` needs one of these packs, or cannot be read."""
    if base.parent is None:
        return False
    try:
        root = base.parent.record.root.address
        return DiskImage(repository.maps, repository.packs, root).needs(damaged)
    except DamagedData:
        return True
