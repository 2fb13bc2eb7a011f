"""Restore: the disks of one point, written to files, a device or an NBD export.

Nothing appears under its real name before it is whole, and nothing is overwritten that somebody uses.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path

from puller.cancelling import CancelScope
from puller.errors import DamagedData, NoSuchDisk, OutputRefused, UsageError
from puller.events import DiskDone, Notice, Observer, ignore
from puller.pipeline.flow import Flow
from puller.recovery import definition, outputs
from puller.recovery.attachments import read_attachment, write_file
from puller.recovery.definition import write_definition
from puller.recovery.diskcopy import Copier, damaged, open_image
from puller.recovery.outputs import Output
from puller.recovery.overwriting import Domains, claim
from puller.repository.points import DiskRecord, Point
from puller.repository.reading.damage import Damage, merge_damage
from puller.repository.repository import Repository


@dataclass(frozen=True, slots=True)
class RestoredDisk:
    """One disk that was written to ``output``. ``bytes_written`` counts what is not zero."""

    disk: str
    output: str
    bytes_written: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Restored:
    """What a restore wrote.

    ``damage`` pairs the target of a disk with what of it is lost. It is empty unless ``salvage`` was given.
    """

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
    libvirts: tuple[str, ...] = ("qemu:///system",)
    """URIs of the libvirts whose domains may use what is to be overwritten."""


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a disk goes. ``held`` is the descriptor of what exists there: a device is opened by that."""

    name: str
    held: int | None


def restore(repository: Repository, point: Point, request: Request, observer: Observer = ignore) -> Restored:
    """Write the disks of ``point``. Refuses bad outputs before touching anything.

    Raises NoSuchDisk, OutputRefused, OutputInUse, OutputFailed, StoreError, and DamagedData that names disk
    and ranges.
    """
    chosen = _choose(point, request.disks)
    plan = _plan(point, chosen, request)
    with ExitStack() as claims:
        held = _claim(claims, point, plan, request, observer, repository.scope)
        return _write(repository, point, plan, held, request, observer)


def _claim(  # noqa: PLR0913, PLR0917 - the use case's own parameters
    claims: ExitStack,
    point: Point,
    plan: Sequence[tuple[DiskRecord, str]],
    request: Request,
    observer: Observer,
    scope: CancelScope,
) -> dict[str, int]:
    """Hold all outputs that exist, by name, as descriptors. Raises OutputInUse, OutputFailed."""
    domains = Domains(request.libvirts, point.point, observer, scope)
    held = {}
    for name in [*(name for _, name in plan), *map(str, _attachment_paths(point, request))]:
        if not outputs.is_uri(name) and Path(name).exists():
            with outputs.translated(name):
                held[name] = claims.enter_context(claim(Path(name), domains))
    return held


def _attachment_paths(point: Point, request: Request) -> list[Path]:
    """Where ``domain.xml`` and the like go: beside disks in a folder."""
    folder = Path(request.output)
    names = [item.name for item in point.attachments]
    if definition.SOURCE in names:
        names.append(definition.NAME)
    return [] if _is_single(request) else [folder / name for name in names]


def _write(  # noqa: PLR0913, PLR0917 - the use case's own parameters
    repository: Repository,
    point: Point,
    plan: Sequence[tuple[DiskRecord, str]],
    held: Mapping[str, int],
    request: Request,
    observer: Observer,
) -> Restored:
    restored: list[RestoredDisk] = []
    damage: list[tuple[str, Damage]] = []
    failed: list[DamagedData] = []
    for record, name in plan:
        try:
            place = _Place(name, held.get(name))
            done, lost = _restore_disk(repository, point, record, place, request, observer)
        except DamagedData as error:
            failed.append(error)  # the other disks are still worth having
            continue
        restored.append(done)
        _tell_encryption(point, record, request, observer)
        damage += [(record.disk, item) for item in lost]
    for item in () if _is_single(request) else point.attachments:
        try:
            content = read_attachment(repository, item)
        except DamagedData as error:
            gone = Damage(0, item.size, error.message)
            if request.salvage:
                damage.append((item.name, gone))
            else:
                failed.append(damaged(point, item.name, [gone]))
            continue
        write_file(Path(request.output) / item.name, content, request.force)
        if item.name == definition.SOURCE:
            _define(point, content, restored, request, observer, repository.scope)
    if failed:
        raise _all_of(failed)
    return Restored(point.point, tuple(restored), tuple(damage))


def _define(  # noqa: PLR0913, PLR0917 - the use case's own parameters
    point: Point,
    xml: bytes,
    restored: Sequence[RestoredDisk],
    request: Request,
    observer: Observer,
    scope: CancelScope,
) -> None:
    write_definition(
        point,
        xml,
        {done.disk: Path(done.output).absolute() for done in restored},
        image_format=request.format,
        folder=Path(request.output).absolute(),
        force=request.force,
        libvirts=request.libvirts,
        scope=scope,
        observer=observer,
    )


def _tell_encryption(point: Point, record: DiskRecord, request: Request, observer: Observer) -> None:
    """A point has what the guest saw, and what defines the domain expects an encrypted image."""
    if not record.encryption:
        return
    text = f"disk {record.disk} was encrypted ({record.encryption}) and is restored without encryption"
    if _has_definition(point, request):
        advice = f"define the domain by {definition.NAME}; domain.xml still has <encryption>"
    else:
        advice = (
            "remove <encryption> from the disk in the domain's XML, or encrypt the image, "
            "before the domain uses it"
        )
    observer(Notice(point.point, f"{text}: {advice}"))


def _has_definition(point: Point, request: Request) -> bool:
    """Whether ``restored.xml`` is written beside the disks."""
    return Path(request.output, definition.NAME) in _attachment_paths(point, request)


def _choose(point: Point, wanted: Sequence[str]) -> list[DiskRecord]:
    for target in wanted:
        if point.disk(target) is None:
            held = ", ".join(disk.disk for disk in point.disks) or "none"
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
            f"cannot restore to {request.output}: unknown kind of URI",
            advice="Give a directory, a file, a block device, or an nbd:// or nbd+unix:// URI.",
        )
    outputs.refuse_impossible(request.output)
    if request.format not in outputs.FORMATS:
        raise UsageError(
            f"invalid format '{request.format}'", advice=f"Use one of: {', '.join(outputs.FORMATS)}."
        )
    if _is_single(request):
        if not chosen:
            raise UsageError(
                f"{request.output} can take one disk, and point {point.point} has none",
                advice="Give a directory: the point holds the domain's configuration.",
            )
        if len(chosen) != 1:
            raise UsageError(
                f"{request.output} can take one disk, the point has {len(chosen)}",
                advice="Choose one with --disk, or give a directory.",
            )
        plan = [(chosen[0], request.output)]
    else:
        folder = Path(request.output)
        plan = [(record, str(folder / f"{record.disk}.{request.format}")) for record in chosen]
        for path in _attachment_paths(point, request):
            with outputs.translated(str(path)):
                _refuse(str(path), request.force)
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
        raise OutputRefused(f"{path} exists and is not a regular file")
    if os.path.lexists(path) and not force:
        raise OutputRefused(f"{path} exists")
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if not (folder.is_dir() and os.access(folder, os.W_OK)):
        raise OutputRefused(f"cannot write to directory {folder}")


def _open_output(
    place: _Place, size: int, request: Request, scope: CancelScope
) -> AbstractContextManager[Output]:
    if outputs.is_uri(place.name):
        return outputs.export(place.name, size, scope)
    path = Path(place.name)
    if place.held is not None and outputs.is_device(path):
        return outputs.device(path, place.held, size)
    outputs.make_folder(path.parent)
    publish = outputs.replace if request.force else outputs.add
    if request.format == "qcow2":
        return outputs.qcow2(path, size, publish, scope)
    return outputs.raw(path, size, publish)


def _restore_disk(  # noqa: PLR0913, PLR0917 - the use case's own parameters
    repository: Repository,
    point: Point,
    record: DiskRecord,
    place: _Place,
    request: Request,
    observer: Observer,
) -> tuple[RestoredDisk, list[Damage]]:
    began = time.monotonic()
    flow = Flow(repository.scope)
    image = open_image(repository, point, record)
    with outputs.translated(place.name), _open_output(place, image.size, request, flow.scope) as output:
        copier = Copier(point.point, record.disk, image, output, observer, flow)
        copier.copy()
        damage = merge_damage(copier.damage)
        if damage and not request.salvage:
            raise damaged(point, record.disk, damage)
    observer(DiskDone(point.point, record.disk))
    return RestoredDisk(record.disk, place.name, copier.written, time.monotonic() - began), damage
