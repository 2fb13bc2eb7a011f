"""Restore: the disks of one point, written to files, a device or an NBD export.

The main thread walks the map in disk order; a crew fetches each window's packs, verifies every chunk
and writes it where it belongs. Nothing appears under its real name before it is whole.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from puller.agent import outputs
from puller.agent.outputs import Output
from puller.agent.stretch import STRETCH, Stretch
from puller.errors import DamagedData, NoSuchDisk, OutputRefused, UsageError
from puller.events import DiskDone, DiskPlanned, DiskProgress, Notice, Observer, ignore
from puller.pipeline.buffers import BufferPool
from puller.pipeline.flow import Flow
from puller.repository.damage import Damage, merge_damage
from puller.repository.image import DiskImage, PackJob
from puller.repository.points import Attachment, DiskRecord, Point
from puller.repository.repository import Repository
from puller.store.patience import tied

FETCHERS = 4
"""Threads that fetch, open and write. Each holds a range of at most 8 MiB."""


@dataclass(frozen=True, slots=True)
class RestoredDisk:
    """One disk that was written: where to, how many bytes that were not zero, and how long it took."""

    disk: str
    output: str
    bytes_written: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Restored:
    """The outcome of a restore. ``damage`` is empty unless the caller asked to salvage."""

    point: str
    disks: tuple[RestoredDisk, ...]
    damage: tuple[tuple[str, Damage], ...] = ()


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be restored, and how. ``salvage`` keeps a damaged disk, zeros in place of what is lost."""

    output: str
    disks: tuple[str, ...] = ()
    format: str = "raw"
    force: bool = False
    salvage: bool = False


def restore(repository: Repository, point: Point, request: Request, observer: Observer = ignore) -> Restored:
    """Write the disks of ``point``. Refuses bad outputs before touching anything.

    Raises NoSuchDisk, OutputRefused, OutputFailed, DamagedData naming disk and ranges, StoreError.
    """
    chosen = _choose(point, request.disks)
    plan = _plan(point, chosen, request)
    restored: list[RestoredDisk] = []
    damage: list[tuple[str, Damage]] = []
    failed: list[DamagedData] = []
    for record, name in plan:
        try:
            done, lost = _restore_disk(repository, point, record, name, request, observer)
        except DamagedData as error:
            failed.append(error)  # the other disks are still worth having
            continue
        restored.append(done)
        _tell_encryption(point, record, observer)
        damage += [(record.disk, item) for item in lost]
    for item in () if _is_single(request) else point.attachments:
        try:
            _write_attachment(repository, item, Path(request.output), request.force)
        except DamagedData as error:
            gone = Damage(0, item.size, error.message)
            if request.salvage:
                damage.append((item.name, gone))
            else:
                failed.append(_damaged(point, item.name, [gone]))
    if failed:
        raise _all_of(failed)
    return Restored(point.point, tuple(restored), tuple(damage))


def _tell_encryption(point: Point, record: DiskRecord, observer: Observer) -> None:
    """A point has what the guest saw, and what defines the domain expects an encrypted image."""
    if record.encryption:
        text = (
            f"disk {record.disk} was encrypted ({record.encryption}) and is restored without encryption: "
            "take <encryption> from the disk in domain.xml, or encrypt the image, before the domain uses it"
        )
        observer(Notice(point.point, text))


def _choose(point: Point, wanted: Sequence[str]) -> list[DiskRecord]:
    for target in wanted:
        if point.disk(target) is None:
            held = ", ".join(disk.disk for disk in point.disks)
            raise NoSuchDisk(f"restore point {point.point} has no disk {target}; it has {held}")
    return [record for record in point.disks if not wanted or record.disk in wanted]


def _all_of(failed: Sequence[DamagedData]) -> DamagedData:
    """One error that names everything that could not be restored."""
    return DamagedData("; ".join(error.message for error in failed), advice=failed[0].advice)


def _is_single(request: Request) -> bool:
    """Whether the output is the disk itself rather than a folder to put disks into."""
    path = Path(request.output)
    if outputs.is_uri(request.output) or outputs.is_device(path):
        return True
    return len(request.disks) == 1 and not path.is_dir() and not request.output.endswith("/")


def _plan(point: Point, chosen: Sequence[DiskRecord], request: Request) -> list[tuple[DiskRecord, str]]:
    """Pair each disk with its output; refuse what cannot be done."""
    if "://" in request.output and not outputs.is_uri(request.output):
        raise UsageError(
            f"{request.output} is no output that puller knows",
            advice="Give a folder, a file, a block device, or an nbd:// or nbd+unix:// URI.",
        )
    outputs.refuse_impossible(request.output)
    if request.format not in outputs.FORMATS:
        raise UsageError(f"'{request.format}' is not a format; there are {', '.join(outputs.FORMATS)}")
    if _is_single(request):
        if len(chosen) != 1:
            raise UsageError(
                f"{request.output} can take one disk, the point has {len(chosen)}",
                advice="Choose one with --disk, or give a folder.",
            )
        plan = [(chosen[0], request.output)]
    else:
        folder = Path(request.output)
        plan = [(record, str(folder / f"{record.disk}.{request.format}")) for record in chosen]
        for item in point.attachments:
            with outputs.translated(str(folder / item.name)):
                _refuse(str(folder / item.name), request.force)
    for _, name in plan:
        with outputs.translated(name):
            _refuse(name, request.force)
    return plan


def _refuse(name: str, force: bool) -> None:
    path = Path(name)
    if outputs.is_uri(name):
        return
    if outputs.is_device(path):
        if not force:
            raise OutputRefused(
                f"{path} is a block device", advice="Pass --force to overwrite what is on it."
            )
        return
    if path.is_dir() or (path.exists() and not path.is_file()):
        raise OutputRefused(f"{path} is there and is no file")
    if os.path.lexists(path) and not force:
        raise OutputRefused(f"{path} exists")
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if not (folder.is_dir() and os.access(folder, os.W_OK)):
        raise OutputRefused(f"{folder} is no folder that can be written to")


def _open_output(name: str, size: int, request: Request) -> AbstractContextManager[Output]:
    if outputs.is_uri(name):
        return outputs.export(name, size)
    path = Path(name)
    if outputs.is_device(path):
        return outputs.device(path, size)
    path.parent.mkdir(parents=True, exist_ok=True)
    publish = outputs.replace if request.force else outputs.add
    return (
        outputs.qcow2(path, size, publish) if request.format == "qcow2" else outputs.raw(path, size, publish)
    )


def _restore_disk(  # noqa: PLR0913, PLR0917 - the use case's own parameters
    repository: Repository,
    point: Point,
    record: DiskRecord,
    name: str,
    request: Request,
    observer: Observer,
) -> tuple[RestoredDisk, list[Damage]]:
    began = time.monotonic()
    image = open_image(repository, point, record)
    with outputs.translated(name), _open_output(name, image.size, request) as output:
        copier = _Copier(point.point, record.disk, image, output, observer)
        copier.copy()
        damage = merge_damage(copier.damage)
        if damage and not request.salvage:
            raise _damaged(point, record.disk, damage)
    observer(DiskDone(point.point, record.disk))
    return RestoredDisk(record.disk, name, copier.written, time.monotonic() - began), damage


def open_image(repository: Repository, point: Point, record: DiskRecord) -> DiskImage:
    """The stored disk of ``record``. Raises DamagedData naming the point and the disk."""
    try:
        image = DiskImage(repository.maps, repository.packs, record.root.address)
        if image.size != record.size:
            raise DamagedData(f"the map describes {image.size} bytes, the point {record.size}")
        return image
    except DamagedData as error:
        whole = Damage(0, record.size, error.message)
        raise _damaged(point, record.disk, [whole]) from error


def _damaged(point: Point, disk: str, damage: Sequence[Damage]) -> DamagedData:
    shown = "; ".join(
        f"bytes {item.offset} to {item.offset + item.length - 1}: {item.reason}" for item in damage[:3]
    )
    more = f"; and {len(damage) - 3} more ranges" if len(damage) > 3 else ""
    return DamagedData(
        f"disk {disk} of point {point.point} is damaged: {shown}{more}",
        advice="Restore another point, or pass --salvage to get the rest, with zeros for what is lost.",
    )


class _Copier:
    """Copies one disk from its image to its output."""

    def __init__(self, subject: str, disk: str, image: DiskImage, output: Output, observer: Observer) -> None:
        self._subject = subject
        self._disk = disk
        self._image = image
        self._output = output
        self._buffers: BufferPool
        self._observer = observer
        self._lock = threading.Lock()
        self._done = 0
        self.written = 0
        self.damage: list[Damage] = []

    def copy(self) -> None:
        """Copy everything. Damage is collected, any other error is raised."""
        self._observer(DiskPlanned(self._subject, self._disk, self._image.size, self._image.size))
        with Flow() as flow, tied(flow.on_failure):
            self._buffers = flow.pool(FETCHERS, STRETCH)
            crew = flow.crew("restore", FETCHERS, FETCHERS, self._copy_job)
            for window in self._image.windows():
                self._lose(window.damage)
                for offset, length in window.gaps():
                    self._output.zero(offset, length)
                    self._progress(length, 0)
                for offset, length in window.filled():
                    self._output.expect(offset, length)
                for job in window.jobs:
                    crew.put(job)
            crew.finish()

    def _copy_job(self, job: PackJob) -> None:
        buffer = self._buffers.acquire()
        stretch = Stretch(buffer, self._output)
        done = 0
        for item in self._image.read(job):
            if isinstance(item, Damage):
                self._lose([item])
                self._output.zero(item.offset, item.length)
                self._progress(item.length, 0)
            else:
                stretch.add(*item)
                done += len(item[1])
        stretch.flush()
        self._progress(done, done)
        buffer.release()

    def _lose(self, damage: Sequence[Damage]) -> None:
        if not damage:
            return
        with self._lock:
            first = not self.damage
            self.damage += damage
        if first:
            self._observer(Notice(self._subject, f"disk {self._disk}: {damage[0].reason}"))

    def _progress(self, done: int, written: int) -> None:
        with self._lock:
            self._done += done
            self.written += written
            event = DiskProgress(self._subject, self._disk, self._done, self.written)
        self._observer(event)


def _write_attachment(repository: Repository, item: Attachment, folder: Path, force: bool) -> None:
    """Write ``domain.xml`` and the like beside the disks."""
    content = read_attachment(repository, item)
    path, publish = folder / item.name, outputs.replace if force else outputs.add
    with outputs.translated(str(path)):
        folder.mkdir(parents=True, exist_ok=True)
        with outputs.raw(path, len(content), publish) as output:
            output.write(0, content)


def read_attachment(repository: Repository, item: Attachment) -> bytes:
    """The bytes of an attachment. Raises DamagedData."""
    image = DiskImage(repository.maps, repository.packs, item.root.address)
    if image.size != item.size:
        raise DamagedData(f"attachment {item.name}: its map describes {image.size} bytes, not {item.size}")
    content = bytearray(image.size)
    for window in image.windows():
        if window.damage:
            raise DamagedData(f"attachment {item.name} is damaged: {window.damage[0].reason}")
        for job in window.jobs:
            for piece in image.read(job):
                if isinstance(piece, Damage):
                    raise DamagedData(f"attachment {item.name} is damaged: {piece.reason}")
                content[piece[0] : piece[0] + len(piece[1])] = piece[1]
    return bytes(content)
