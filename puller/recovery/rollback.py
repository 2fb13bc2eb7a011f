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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from puller.backups.bases.bases import Base, choose, without_mismatched_bitmaps
from puller.backups.bases.history import History
from puller.backups.bases.probe import find_mismatch
from puller.backups.sources.offline import StoredBitmaps, image_of
from puller.backups.sources.unlock import keys_of, require_keys
from puller.errors import (
    DamagedData,
    DomainRunning,
    KeyNotHeld,
    Locked,
    NbdError,
    NoSuchDisk,
    OutputFailed,
    OutputRefused,
)
from puller.events import DiskDone, Notice, Observer
from puller.hypervisor.connection import Host
from puller.hypervisor.domain.disk import Disk
from puller.hypervisor.domain.domain import Domain
from puller.hypervisor.domain.facts import with_facts
from puller.hypervisor.domain.image import with_stored_chain
from puller.hypervisor.job.events import Starts
from puller.hypervisor.locking.lock import DomainLock, lock_directory
from puller.hypervisor.storage.rollback_mark import RollbackMark, clear_mark, find_mark, put_mark
from puller.nbd.export import Export
from puller.nbd.image import ImageServer, Keys, resize
from puller.nbd.strays import end_strays
from puller.nbd.writer import Target
from puller.pipeline.flow import Flow
from puller.recovery.broken_bitmaps import remove_broken
from puller.recovery.comparison import compare_contents
from puller.recovery.difference import Changes, compare_maps
from puller.recovery.diskcopy import ChangedCopier, copy_all, damaged, open_image
from puller.recovery.targets import outputs
from puller.recovery.targets.outputs import OldImage
from puller.recovery.targets.overwriting import Domains, claim
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

    All images are open, and so locked, before the first one is written, and all marks are there until the
    last one is complete: neither a guest nor a backup meets disks of two times. Raises NoSuchDomain,
    NoSuchDisk, DomainRunning, Locked, OutputInUse, OutputRefused, OutputFailed, UnsupportedDisk, KeyNotHeld,
    DamagedData, HypervisorError, NbdError, StoreError.
    """
    if not request.dry_run:
        _require_data_key(repository)
    with _opened(repository, point, request, observer) as (disks, starts):
        if request.dry_run:
            return RolledBack(point.point, point.domain, tuple(disk.preview() for disk in disks))
        with ExitStack() as servers:
            begun = [disk.begin(servers) for disk in disks]
            for work in begun:
                work.mark()
            for work in begun:
                work.write(salvage=request.salvage)
        _refuse_started(point, starts)
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
    with _opened(repository, point, request, observer) as (disks, _):
        return tuple(disk.difference() for disk in disks)


@contextmanager
def _opened(
    repository: Repository, point: Point, request: Request, observer: Observer
) -> Iterator[tuple[list[_DiskRollback], Starts]]:
    """The disks of the point's domain, held against other pullers, and refused if a guest may use them.

    A guest can still start on block devices: where libvirt gives QEMU device nodes of its own, no lock on the
    host's nodes keeps it away. So its starts from here on are listened for.
    """
    with Host.connect(request.connect, repository.scope) as host, ExitStack() as held:
        domain = host.domain(point.uuid)
        with DomainLock(domain.uuid, domain.name, lock_directory()):
            end_strays(repository.scope)
            starts = held.enter_context(Starts(domain))
            _refuse_active(domain)
            disks = _disks(domain, point, request)
            _tell_others(domain, point, request, observer)
            _refuse_used(domain, disks, point, request, observer)
            bitmaps = StoredBitmaps(domain, disks, repository.id)
            bases = choose(History(repository, domain.uuid), disks, bitmaps)
            found = [
                _DiskRollback(repository, point, domain, disk, bases[disk.target], request, observer)
                for disk in disks
            ]
            _doubt(found, bases)
            yield found, starts


def _doubt(disks: Sequence[_DiskRollback], bases: Mapping[str, Base]) -> None:
    """Where a bitmap is another disk's, believe no bitmap of its checkpoint, as a backup does."""
    mismatches = {disk.target: disk.doubt for disk in disks if disk.doubt is not None}
    believed = without_mismatched_bitmaps(bases, mismatches)
    for disk in disks:
        if bases[disk.target].checkpoint is not None and believed[disk.target].checkpoint is None:
            disk.doubt = believed[disk.target].reason


def _refuse_started(point: Point, starts: Starts) -> None:
    if starts.any():
        raise DomainRunning(
            f"domain {point.domain} was started while its disks were rolled back: they are partly of the "
            "point and partly its guest's",
            advice="Shut the domain off, then run the same command again.",
        )


def _refuse_active(domain: Domain) -> None:
    if domain.is_active():
        raise DomainRunning(
            f"domain {domain.name} is running: its disks can be neither compared nor rolled back"
        )
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
    for disk in known:
        _refuse_missing(point, disk.target, image_of(domain, disk))
    return tuple(with_stored_chain(disk, domain.scope) for disk in known)


def _tell_others(domain: Domain, point: Point, request: Request, observer: Observer) -> None:
    """Name the guest's other disks, which will not be of the time of those that are rolled back."""
    for disk in domain.disks() if not request.disks else ():
        if disk.holds_changes and point.disk(disk.target) is None:
            text = f"disk {disk.target} stays as it is: the point does not have it"
            observer(Notice(point.point, text))


def _refuse_missing(point: Point, target: str, path: Path) -> None:
    if not path.exists():
        raise OutputRefused(
            f"image {path} of disk {target} does not exist",
            advice=f"Restore it: 'puller restore {point.point} --disk {target} --output {path}'.",
        )


def _refuse_used(
    domain: Domain, disks: Sequence[Disk], point: Point, request: Request, observer: Observer
) -> None:
    """Raise OutputInUse if a guest, a mount or a program uses one of the images."""
    domains = Domains((request.connect,), point.point, observer, domain.scope)
    for disk in disks:
        path = image_of(domain, disk)
        with claim(path, domains):
            pass  # qemu-nbd takes QEMU's lock on it when it opens it


class _DiskRollback:
    """One disk on its way back to ``point``."""

    def __init__(  # noqa: PLR0913, PLR0917 - what a rollback of a disk is made of
        self,
        repository: Repository,
        point: Point,
        domain: Domain,
        disk: Disk,
        base: Base,
        request: Request,
        observer: Observer,
    ) -> None:
        self._repository = repository
        self._compare = request.compare
        self._is_distrusted = False
        self.scope = repository.scope
        self.point = point
        self.target = disk.target
        self._disk = disk
        self.path = image_of(domain, disk)
        self._base = base
        self.observer = observer
        self._keys: Keys = keys_of(domain, disk)
        require_keys(domain, disk, self._keys)
        self._mark = find_mark(self.path)
        self.image = open_image(repository, point, _record_of(point, disk.target))
        self._is_device = self.path.is_block_device() and disk.format == "raw"
        self.doubt: str | None = None
        self._size = 0
        self._look()
        self._refuse_small_device()

    def difference(self) -> Difference:
        """What differs now; nothing is written."""
        with self._in_use_told(), self._serve(writable=False) as server:
            changes, compared = self.changes(server.uri)
        return Difference(self.target, changes, compared)

    def preview(self) -> RolledBackDisk:
        """What ``Work.complete`` would tell, without a byte written."""
        began = time.monotonic()
        found = self.difference()
        return self.result(found.changes, 0, found.compared, began)

    def begin(self, servers: ExitStack) -> _Work:
        """Serve the image for writing until ``servers`` close, and find what differs."""
        began = time.monotonic()
        with self._in_use_told():
            if self._size != self.image.size and not self._is_device:
                self._resize()
            server = servers.enter_context(self._serve(writable=True))
        return _Work(self, server.uri, *self.changes(server.uri), began)

    def _resize(self) -> None:
        """Give the image the point's size. If QEMU refuses that and has written nothing, no mark stays."""
        remove_broken(self.path, self._disk.format, self._keys, self.scope)
        before = self.path.stat().st_mtime_ns
        self.put_mark()
        try:
            resize(self.path, self._disk.format, self.image.size, self._keys, self.scope)
        except NbdError:
            if self._mark is None and self.path.stat().st_mtime_ns == before:
                clear_mark(self.path)
            raise

    def put_mark(self) -> None:
        """Say beside the image that it is partly old and partly new."""
        put_mark(self.path, RollbackMark(self.point.point, self.target, self._trusted()))

    def _serve(self, *, writable: bool) -> ImageServer:
        serve = ImageServer.recorded if writable else ImageServer.read_only
        return serve(
            self.path, self._disk.format, bitmap=self._base.checkpoint, keys=self._keys, scope=self.scope
        )

    def _trusted(self) -> int:
        """Where the bitmap has seen every change: up to the least size of the disk since its base."""
        if self._is_distrusted:
            return 0
        base = 0 if self._base.parent is None else self._base.parent.record.size
        earlier = base if self._mark is None else self._mark.trusted
        return min(base, self._size, earlier)

    def changes(self, uri: str) -> tuple[Changes, int]:
        """Where the disk at ``uri`` may differ from the point, and the bytes that were read to know it."""
        if self._compare:
            return self._by_contents(uri)
        if not self._has_bitmap() or self._base.parent is None:
            self._tell(self._base.reason or "an earlier rollback was not completed")
        elif self.doubt is not None:
            self._tell(self.doubt)
        else:
            try:
                return self._by_bitmap(uri, self._base.parent.record), 0
            except DamagedData as error:
                self._tell(f"the map of point {self._base.parent.point.point} is damaged: {error.message}")
        return self._by_contents(uri)

    def _has_bitmap(self) -> bool:
        """Whether a bitmap tells what the disk has changed since its base, if it belongs to the disk."""
        return self._base.checkpoint is not None and self._trusted() > 0

    def _by_contents(self, uri: str) -> tuple[Changes, int]:
        """What the disk itself shows, and what the maps name besides.

        The next backup may use the bitmap, which may not know everywhere that the disk differs from its base.
        So the chunks in which base and point differ are written, even where the disk has them already.
        """
        self._is_distrusted = True
        with Export(uri, scope=self.scope) as export:
            changes, compared = compare_contents(export, self.image, self._repository.keys.id_key)
        if self._base.checkpoint is not None and self._base.parent is not None:
            with suppress(DamagedData):  # no backup builds upon it then
                old = open_image(self._repository, self.point, self._base.parent.record)
                changes.add_all(compare_maps(self._repository.maps, old.root, self.image.root))
        return changes, compared

    def _by_bitmap(self, uri: str, base: DiskRecord) -> Changes:
        """What the bitmap and the maps name."""
        old = open_image(self._repository, self.point, base)
        changes = compare_maps(self._repository.maps, old.root, self.image.root)
        with Export(uri, f"qemu:dirty-bitmap:{self._base.checkpoint}", self.scope) as export:
            for extent in export.dirty():
                changes.add_chunks(extent.offset // CHUNK, -(-extent.end // CHUNK))
        self._add_untrusted(changes)
        return changes

    def _add_untrusted(self, changes: Changes) -> None:
        trusted = min(self._trusted(), self.image.size)
        whole = self._trusted() == self.image.size == self._size
        if not whole:
            changes.add_chunks(trusted // CHUNK, -(-self.image.size // CHUNK))

    def _tell(self, why: str) -> None:
        text = f"disk {self.target} is read and compared with point {self.point.point}: {why}"
        self.observer(Notice(self.point.point, text))

    def result(self, changes: Changes, written: int, compared: int, began: float) -> RolledBackDisk:
        """What is told of the disk."""
        seconds = time.monotonic() - began
        return RolledBackDisk(self.target, str(self.path), changes.bytes, written, compared, seconds)

    def _look(self) -> None:
        """Learn the size that QEMU sees, which of an encrypted image is that of what is inside, and why its
        bitmap is not to be believed.
        """
        bitmap = self._base.checkpoint
        context = None if bitmap is None else f"qemu:dirty-bitmap:{bitmap}"
        with (
            self._in_use_told(),
            self._serve(writable=False) as server,
            Export(server.uri, context, self.scope) as export,
        ):
            self._size = export.size
            if not self._compare and self._has_bitmap() and self._base.parent is not None:
                self.doubt = find_mismatch(
                    self._repository, export, self._base.parent.record, image_changed=self._base.image_changed
                )

    def _refuse_small_device(self) -> None:
        if self._is_device and self._size < self.image.size:
            raise OutputRefused(
                f"{self.path} has {format_bytes(self._size)}, disk {self.target} needs "
                f"{format_bytes(self.image.size)}",
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
                f"image {self.path} is in use by another process",
                advice="Wait until it is free, then run the same command again.",
            ) from error


class _Work:
    """One disk that is open for writing: ``changes`` differ, ``compared`` bytes were read to know it."""

    def __init__(self, owner: _DiskRollback, uri: str, changes: Changes, compared: int, began: float) -> None:
        self._owner = owner
        self._uri = uri
        self._changes = changes
        self._compared = compared
        self._began = began
        self._written = 0
        self.disk = owner.target
        self.damage: list[Damage] = []

    def mark(self) -> None:
        """Put the mark, if there is anything to write."""
        if self._changes.pages:
            self._owner.put_mark()

    def write(self, *, salvage: bool) -> None:
        """Write what differs. What of it is lost stays as it is, or with ``salvage`` becomes zeros."""
        owner, flow = self._owner, Flow(self._owner.scope)
        with _completed_later(), outputs.translated(str(owner.path)), Target(self._uri, flow.scope) as target:
            copier = ChangedCopier(
                owner.point.point,
                owner.target,
                owner.image,
                OldImage(target),
                str(owner.path),
                owner.observer,
                self._changes,
                salvage=salvage,
            )
            copy_all([copier], flow)
            target.flush()
        self._written, self.damage = copier.written, merge_damage(copier.damage)

    def complete(self) -> RolledBackDisk:
        """Take the mark away: the image is durable and closed."""
        clear_mark(self._owner.path)
        self._owner.observer(DiskDone(self._owner.point.point, self.disk))
        return self._owner.result(self._changes, self._written, self._compared, self._began)


@contextmanager
def _completed_later() -> Iterator[None]:
    """Advise to run the same command again, which completes the image: its mark stays."""
    try:
        yield
    except OutputFailed as error:
        raise OutputFailed(
            error.message, advice="Make room or mend its storage, then run the same command again."
        ) from error


def _all_damaged(point: Point, begun: Sequence[_Work]) -> DamagedData:
    """One error that names what of all disks is lost."""
    found = [damaged(point, work.disk, work.damage) for work in begun if work.damage]
    return DamagedData(
        "; ".join(error.message for error in found),
        advice="All else is rolled back. Roll back to another point, or pass --salvage to get zeros there.",
    )


def _record_of(point: Point, target: str) -> DiskRecord:
    record = point.disk(target)
    if record is None:
        raise NoSuchDisk(f"restore point {point.point} has no disk {target}")
    return record
