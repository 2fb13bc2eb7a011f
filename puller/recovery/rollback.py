"""Rollback: the disks of a domain that is shut off, put back to a point by writing only what differs.

::

    base point ── dirty bitmap ──► the disk now        what the bitmap names may differ from the base
    base point ──── two maps ────► the wanted point    so may what the maps name
                                                       all else is the same in all three, and stays

Without a usable bitmap the disk is read and compared with the ids of the point's chunks. Either way the disk
is written through ``qemu-nbd``, so its dirty bitmaps record the rollback, and the next backup is incremental.

A rollback that is interrupted has written some of what differs. All that it wrote lies in what the bitmap
names, or in what the maps name, so running it again finds the same and more, and completes it; if QEMU did
not close the image in order, its bitmaps are not usable and the disk is compared. The mark beside the image
(``puller.hypervisor.storage.rollback_mark``) keeps a backup from storing what is half rolled back.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from puller.backups.bases.bases import COMPARED, Base, choose, doubted
from puller.backups.bases.history import History
from puller.backups.bases.probe import mistrust
from puller.backups.sources.offline import StoredBitmaps, image_of
from puller.backups.sources.unlock import keys_of, require_keys
from puller.errors import DamagedData, DomainRunning, Locked, NbdError, NoSuchDisk, OutputRefused
from puller.events import DiskDone, Notice, Observer
from puller.hypervisor.connection import Host
from puller.hypervisor.domain.disk import Disk
from puller.hypervisor.domain.domain import Domain
from puller.hypervisor.domain.facts import with_facts
from puller.hypervisor.domain.image import describe, with_stored_chain
from puller.hypervisor.locking.lock import DomainLock, lock_directory
from puller.hypervisor.storage.rollback_mark import RollbackMark, clear_mark, find_mark, put_mark
from puller.nbd.export import Export
from puller.nbd.image import ImageServer, Keys, resize
from puller.nbd.strays import end_strays
from puller.nbd.writer import Target
from puller.recovery.comparison import compare_contents
from puller.recovery.difference import Changes, compare_maps
from puller.recovery.diskcopy import ChangedCopier, copy_all, damaged, open_image
from puller.recovery.outputs import OldImage
from puller.recovery.overwriting import Domains, claim
from puller.repository.points import DiskRecord, Point
from puller.repository.reading.damage import Damage, merge_damage
from puller.repository.repository import Repository
from puller.units import CHUNK, format_bytes


@dataclass(frozen=True, slots=True)
class RolledBackDisk:
    """One disk: ``output`` is its image. ``changed_bytes`` may have differed from the point, in whole chunks;
    ``bytes_written`` of it were not zero; ``bytes_compared`` were read of the image to find it.
    """

    disk: str
    output: str
    changed_bytes: int
    bytes_written: int
    bytes_compared: int
    seconds: float


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

    Raises NoSuchDomain, NoSuchDisk, DomainRunning, Locked, OutputInUse, OutputRefused, UnsupportedDisk,
    DamagedData, HypervisorError, NbdError, StoreError.
    """
    with _opened(repository, point, request, observer) as disks:
        done, damage = [], []
        for disk in disks:
            result, lost = disk.roll_back(request)
            done.append(result)
            damage += [(result.disk, item) for item in lost]
        return RolledBack(point.point, point.domain, tuple(done), tuple(damage))


def differences(
    repository: Repository, point: Point, request: Request, observer: Observer
) -> tuple[Difference, ...]:
    """What a rollback to ``point`` would write, by disk. Raises as ``rollback``."""
    with _opened(repository, point, request, observer) as disks:
        return tuple(disk.difference() for disk in disks)


@contextmanager
def _opened(
    repository: Repository, point: Point, request: Request, observer: Observer
) -> Iterator[list[_DiskRollback]]:
    """The disks of the point's domain, held against other pullers, and refused if a guest may use them."""
    with Host.connect(request.connect) as host:
        domain = host.domain(point.uuid)
        with DomainLock(domain.uuid, domain.name, lock_directory()):
            end_strays()
            _refuse_active(domain)
            disks = _disks(domain, point, request)
            _refuse_used(domain, disks, point, request, observer)
            bases = _bases(repository, domain, disks, compare=request.compare)
            yield [
                _DiskRollback(repository, point, domain, disk, bases[disk.target], observer) for disk in disks
            ]


def _refuse_active(domain: Domain) -> None:
    if domain.is_active():
        raise DomainRunning(f"domain {domain.name} is running: its disks cannot be rolled back")
    if domain.is_saved():
        raise DomainRunning(
            f"domain {domain.name} has a saved state, which belongs to its disks as they are now",
            advice=f"Start the domain and shut it off, or discard the state with 'virsh managedsave-remove "
            f"{domain.name}', then run the same command again.",
        )


def _disks(domain: Domain, point: Point, request: Request) -> tuple[Disk, ...]:
    """The domain's disks that are to be rolled back, with what is behind them."""
    wanted = request.disks or tuple(record.disk for record in point.disks)
    present = {disk.target: disk for disk in domain.disks()}
    for target in wanted:
        if point.disk(target) is None:
            held = ", ".join(record.disk for record in point.disks) or "none"
            raise NoSuchDisk(f"restore point {point.point} has no disk {target}; it has {held}")
        if target not in present:
            raise NoSuchDisk(
                f"domain {domain.name} has no disk {target}",
                advice="Name the disks to roll back with --disk, or restore this one with --output.",
            )
    known = with_facts(domain, tuple(present[target] for target in dict.fromkeys(wanted)))
    return tuple(map(with_stored_chain, known))


def _refuse_used(
    domain: Domain, disks: Sequence[Disk], point: Point, request: Request, observer: Observer
) -> None:
    """Raise OutputInUse if a guest, a mount or a program uses one of the images."""
    domains = Domains((request.connect,), point.point, observer)
    for disk in disks:
        path = image_of(domain, disk)
        if not path.exists():
            raise OutputRefused(
                f"image {path} of disk {disk.target} does not exist",
                advice=f"Restore it: 'puller restore {point.point} --disk {disk.target} --output {path}'.",
            )
        with claim(path, domains):
            pass  # qemu-nbd takes QEMU's lock on it when it opens it


def _bases(
    repository: Repository, domain: Domain, disks: Sequence[Disk], *, compare: bool
) -> dict[str, Base]:
    history = History(repository, domain.uuid)
    bases = choose(history, disks, StoredBitmaps(domain, disks, repository.id))
    return doubted(bases, COMPARED) if compare else bases


class _DiskRollback:
    """One disk on its way back to ``point``."""

    def __init__(  # noqa: PLR0913, PLR0917 - what a rollback of a disk is made of
        self,
        repository: Repository,
        point: Point,
        domain: Domain,
        disk: Disk,
        base: Base,
        observer: Observer,
    ) -> None:
        self._repository = repository
        self._point = point
        self._record = _record_of(point, disk.target)
        self._disk = disk
        self._path = image_of(domain, disk)
        self._base = base
        self._observer = observer
        self._keys: Keys = keys_of(domain, disk)
        require_keys(domain, disk, self._keys)
        self._mark = find_mark(self._path)
        self._image = open_image(repository, point, self._record)
        self._size = int(describe(self._path, disk.format)[0]["virtual-size"])
        self._refuse_small_device()

    def difference(self) -> Difference:
        """What differs now; nothing is written."""
        server = ImageServer.read_only(
            self._path, self._disk.format, bitmap=self._base.checkpoint, keys=self._keys
        )
        with self._in_use_told(), server:
            changes, compared = self._changes(server.uri)
        return Difference(self._disk.target, changes, compared)

    def roll_back(self, request: Request) -> tuple[RolledBackDisk, list[Damage]]:
        """Write what differs. Raises DamagedData where the point's data is damaged and not salvaged."""
        began = time.monotonic()
        if request.dry_run:
            found = self.difference()
            return self._result(found.changes, 0, found.compared, began), []
        put_mark(self._path, RollbackMark(self._point.point, self._disk.target, self._trusted()))
        if self._size != self._image.size and not self._path.is_block_device():
            resize(self._path, self._disk.format, self._image.size, self._keys)
        with (
            self._in_use_told(),
            ImageServer.recorded(
                self._path, self._disk.format, bitmap=self._base.checkpoint, keys=self._keys
            ) as server,
        ):
            changes, compared = self._changes(server.uri)
            written, damage = self._write(server.uri, changes, salvage=request.salvage)
        if damage and not request.salvage:
            raise damaged(self._point, self._disk.target, damage)
        clear_mark(self._path)
        self._observer(DiskDone(self._point.point, self._disk.target))
        return self._result(changes, written, compared, began), damage

    def _trusted(self) -> int:
        """Where the bitmap has seen every change: up to the least size of the disk since its base."""
        base = 0 if self._base.parent is None else self._base.parent.record.size
        earlier = base if self._mark is None else self._mark.trusted
        return min(base, self._size, earlier)

    def _changes(self, uri: str) -> tuple[Changes, int]:
        if self._base.checkpoint is not None and self._base.parent is not None:
            try:
                if (found := self._by_bitmap(uri, self._base.parent.record)) is not None:
                    return found, 0
            except DamagedData as error:
                self._tell(f"the map of point {self._base.parent.point.point} is damaged: {error.message}")
        elif self._base.reason != COMPARED:
            self._tell(self._base.reason or "no earlier point has this disk")
        with Export(uri) as export:
            return compare_contents(export, self._image, self._repository.keys.id_key)

    def _by_bitmap(self, uri: str, base: DiskRecord) -> Changes | None:
        """What the bitmap and the maps name; None if the bitmap cannot belong to the image."""
        with Export(uri, f"qemu:dirty-bitmap:{self._base.checkpoint}") as export:
            why = mistrust(self._repository, export, base, strange=self._base.strange)
            if why is not None:
                self._tell(why)
                return None
            old = open_image(self._repository, self._point, base)
            changes = compare_maps(self._repository.maps, old.root, self._image.root)
            for extent in export.dirty():
                changes.add_chunks(extent.offset // CHUNK, -(-extent.end // CHUNK))
        self._add_untrusted(changes)
        return changes

    def _add_untrusted(self, changes: Changes) -> None:
        trusted = min(self._trusted(), self._image.size)
        whole = self._trusted() == self._image.size == self._size
        if not whole:
            changes.add_chunks(trusted // CHUNK, -(-self._image.size // CHUNK))

    def _tell(self, why: str) -> None:
        text = f"disk {self._disk.target} is read and compared with point {self._point.point}: {why}"
        self._observer(Notice(self._point.point, text))

    def _write(self, uri: str, changes: Changes, *, salvage: bool) -> tuple[int, list[Damage]]:
        with Target(uri) as target:
            output = OldImage(target)
            copier = ChangedCopier(
                self._point.point,
                self._disk.target,
                self._image,
                output,
                self._observer,
                changes,
                salvage=salvage,
            )
            copy_all([copier])
            target.flush()
        return copier.written, merge_damage(copier.damage)

    def _result(self, changes: Changes, written: int, compared: int, began: float) -> RolledBackDisk:
        seconds = time.monotonic() - began
        return RolledBackDisk(self._disk.target, str(self._path), changes.bytes, written, compared, seconds)

    def _refuse_small_device(self) -> None:
        if self._path.is_block_device() and self._disk.format == "raw" and self._size < self._image.size:
            raise OutputRefused(
                f"{self._path} has {format_bytes(self._size)}, disk {self._disk.target} needs "
                f"{format_bytes(self._image.size)}",
                advice="Enlarge the device, then run the same command again.",
            )

    @contextmanager
    def _in_use_told(self) -> Iterator[None]:
        try:
            yield
        except NbdError as error:
            if "lock" not in error.message:
                raise
            raise Locked(
                f"image {self._path} is in use by another process",
                advice="Wait until it is free, then run the same command again.",
            ) from error


def _record_of(point: Point, target: str) -> DiskRecord:
    record = point.disk(target)
    if record is None:
        raise NoSuchDisk(f"restore point {point.point} has no disk {target}")
    return record
