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

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from puller.backups.bases.bases import choose
from puller.backups.bases.history import History
from puller.backups.sources.offline import StoredBitmaps
from puller.errors import DamagedData, KeyNotHeld
from puller.events import Observer
from puller.hypervisor.connection import Host
from puller.hypervisor.domain.image import stored_bitmaps
from puller.recovery.difference import Changes
from puller.recovery.disk_rollback import DiskRollback, DiskWork, RolledBackDisk
from puller.recovery.diskcopy import damaged
from puller.recovery.stopped_disks import held
from puller.repository.points import Point
from puller.repository.reading.damage import Damage
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
    with _opened(repository, point, request, observer) as disks:
        if request.dry_run:
            return RolledBack(point.point, point.domain, tuple(disk.preview() for disk in disks))
        with ExitStack() as servers:
            begun = [disk.begin(servers) for disk in disks]
            for work in begun:
                work.mark()
            for work in begun:
                work.write(salvage=request.salvage)
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
    with _opened(repository, point, request, observer) as disks:
        return tuple(Difference(disk.target, *disk.difference()) for disk in disks)


@contextmanager
def _opened(
    repository: Repository, point: Point, request: Request, observer: Observer
) -> Iterator[list[DiskRollback]]:
    """The disks of the point's domain, held against other pullers, and refused if a guest may use them."""
    with (
        Host.connect(request.connect, repository.scope) as host,
        held(host.domain(point.uuid), point, request.disks, request.connect, observer) as disks,
    ):
        bitmaps = StoredBitmaps(
            {found.disk.target: stored_bitmaps(found.images[0]) for found in disks}, repository.id
        )
        bases = choose(History(repository, point.uuid), [found.disk for found in disks], bitmaps)
        yield [
            DiskRollback(
                repository, point, found, bases[found.disk.target], observer, compare=request.compare
            )
            for found in disks
        ]


def _all_damaged(point: Point, begun: Sequence[DiskWork]) -> DamagedData:
    """One error that names what of all disks is lost."""
    found = [damaged(point, work.disk, work.damage) for work in begun if work.damage]
    return DamagedData(
        "; ".join(error.message for error in found),
        advice="All else is rolled back. Roll back to another point, or pass --salvage to get zeros there.",
    )
