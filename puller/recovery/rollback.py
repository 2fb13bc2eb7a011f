"""Rollback: the disks of a domain that is shut off, put back to a point by writing only what differs.

::

    base point ── dirty bitmap ──► the disk now        what the bitmap names may differ from the base
    base point ──── two maps ────► the wanted point    so may what the maps name
                                                       all else is the same in all three, and stays

Without a usable bitmap the disk is read and compared with the ids of the point's chunks
(``puller.recovery.change_search``). Either way the disk is written through ``qemu-nbd``, so its dirty bitmaps
record the rollback, and the next backup is incremental.

A rollback that is interrupted has written some of what differs. All that it wrote lies in what the bitmap
names, or in what the maps name, so running it again finds the same and more, and completes it; if QEMU did
not close the image in order, its bitmaps are not usable and the disk is compared. The mark beside the image
(``puller.hypervisor.storage.rollback_mark``) keeps a backup from storing what is half rolled back.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from puller.backups.bases.bases import Base, choose, without_mismatched_bitmaps
from puller.backups.bases.history import History
from puller.backups.sources.offline import StoredBitmaps
from puller.errors import DamagedData, KeyNotHeld
from puller.events import Observer
from puller.hypervisor.connection import Host
from puller.hypervisor.domain.disks.image import stored_bitmaps
from puller.recovery.disk_rollback import DiskRollback, DiskWork, RolledBackDisk
from puller.recovery.diskcopy import damaged
from puller.recovery.stopped_disks import StoppedDisks, held
from puller.repository.points import Point
from puller.repository.reading.damage import Damage
from puller.repository.reading.difference import Changes
from puller.repository.repository import Repository


@dataclass(frozen=True, slots=True)
class RolledBack:
    """The outcome of a rollback. ``damage`` is empty unless the caller asked to salvage."""

    point: str
    domain: str
    disks: tuple[RolledBackDisk, ...]
    damage: tuple[tuple[str, Damage], ...] = ()


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be rolled back, and how. ``disks`` are targets, all of the point if empty; ``compare`` reads
    each disk instead of trusting its bitmap; ``dry_run`` finds what differs and writes nothing.
    """

    connect: str
    disks: tuple[str, ...] = ()
    compare: bool = False
    dry_run: bool = False
    salvage: bool = False


@dataclass(frozen=True, slots=True)
class Difference:
    """What one disk differs in from a point now. ``compared`` bytes of it were read to know it."""

    disk: str
    changes: Changes
    compared: int


def rollback(repository: Repository, point: Point, request: Request, observer: Observer) -> RolledBack:
    """Put the domain's disks back to ``point``. Everything is looked at before anything is written.

    All images are open, and so locked, before the first one is written, and all marks are there until the
    last one is complete: neither a guest nor a backup meets disks of two times. Raises NoSuchDomain,
    NoSuchDisk, DomainRunning, Locked, OutputInUse, OutputRefused, OutputFailed, UnsupportedDisk, KeyNotHeld,
    DamagedData, HypervisorError, NbdError, StoreError.
    """
    if not request.dry_run:
        _require_data_key(repository)
    with _opened(repository, point, request, observer) as opened:
        if request.dry_run:
            done = tuple(work.result() for work in _looked(opened))
            return RolledBack(point.point, point.domain, done)
        with ExitStack() as servers:
            begun = [disk.begin(servers) for disk in opened.disks]
            opened.search(begun)
            for work in begun:
                work.mark()
            for work in begun:
                work.write(salvage=request.salvage)
        opened.held.refuse_started()
        damage = [(work.disk, item) for work in begun for item in work.damage]
        if damage and not request.salvage:
            raise _all_damaged(point, begun)
        done = tuple(work.complete() for work in begun)
        return RolledBack(point.point, point.domain, done, tuple(damage))


def refuse(repository: Repository, point: Point, request: Request, observer: Observer) -> None:
    """Raise what ``rollback`` would raise before it touches anything."""
    _require_data_key(repository)
    with _opened(repository, point, request, observer):
        pass


def _require_data_key(repository: Repository) -> None:
    if not repository.keys.can_read_data:
        raise KeyNotHeld("this key may make backups but not read stored guest data")


def differences(
    repository: Repository, point: Point, request: Request, observer: Observer
) -> tuple[Difference, ...]:
    """What a rollback to ``point`` would write, by disk. Raises as ``rollback``."""
    with _opened(repository, point, request, observer) as opened:
        return tuple(Difference(work.disk, work.changes, work.compared) for work in _looked(opened))


@dataclass(frozen=True, slots=True)
class _Opened:
    """The disks, with the bases of which the bitmaps of the domain tell the changes."""

    held: StoppedDisks
    bases: Mapping[str, Base]
    disks: Sequence[DiskRollback]

    def search(self, works: Sequence[DiskWork]) -> None:
        """Find what differs. Where a bitmap is another disk's, no bitmap of its checkpoint is believed, as in
        a backup.
        """
        for work in works:
            work.probe()
        doubts = {work.disk: work.doubt for work in works if work.doubt is not None}
        believed = without_mismatched_bitmaps(self.bases, doubts)
        for work in works:
            is_doubted = believed[work.disk].checkpoint != self.bases[work.disk].checkpoint
            work.search(believed[work.disk].reason if is_doubted else None)


def _looked(opened: _Opened) -> list[DiskWork]:
    """All disks, searched, with nothing written."""
    with ExitStack() as servers:
        works = [disk.look(servers) for disk in opened.disks]
        opened.search(works)
        return works


@contextmanager
def _opened(repository: Repository, point: Point, request: Request, observer: Observer) -> Iterator[_Opened]:
    """The disks of the point's domain, held against other pullers, and refused if a guest may use them."""
    with (
        Host.connect(request.connect, repository.scope) as host,
        held(host.domain(point.uuid), point, request.disks, request.connect, observer) as stopped,
    ):
        flags = {found.disk.target: stored_bitmaps(found.images[0]) for found in stopped.disks}
        bases = choose(
            History(repository, point.uuid),
            [found.disk for found in stopped.disks],
            StoredBitmaps(flags, repository.id),
        )
        disks = [
            DiskRollback(
                repository, point, found, bases[found.disk.target], observer, compare=request.compare
            )
            for found in stopped.disks
        ]
        yield _Opened(stopped, bases, disks)


def _all_damaged(point: Point, begun: Sequence[DiskWork]) -> DamagedData:
    """One error that names what of all disks is lost."""
    found = [damaged(point, work.disk, work.damage) for work in begun if work.damage]
    return DamagedData(
        "; ".join(error.message for error in found),
        advice="All else is rolled back. Roll back to another point, or pass --salvage to get zeros there.",
    )
