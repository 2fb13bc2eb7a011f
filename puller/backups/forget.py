"""Forget: remove from a domain the checkpoints and dirty bitmaps that this repository's backups created.

While the domain runs, only libvirt can do it. While it is shut off, libvirt can delete only its records, so
the bitmaps are removed from the images first: a run that fails between the two leaves records that the next
run finds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from puller.backups.bases.history import History
from puller.backups.machines.connecting import connect
from puller.backups.machines.machine import Machine, Tell
from puller.backups.sources.unlock import keys_of
from puller.errors import HypervisorError, Locked, NbdError, UnsupportedDisk
from puller.events import Notice, Observer
from puller.hypervisor.connection import Host
from puller.hypervisor.domain import checkpoint as checkpoints
from puller.hypervisor.domain.checkpoint import Checkpoint, owner_prefix
from puller.hypervisor.domain.disks.disk import Disk
from puller.hypervisor.domain.disks.image import describe, stored_bitmaps, untracked, with_image_facts
from puller.hypervisor.domain.domain import Domain
from puller.hypervisor.job import openjob
from puller.hypervisor.job.strays import find_stored, remove_stray
from puller.hypervisor.locking import runlock
from puller.hypervisor.locking.lock import domain_held
from puller.hypervisor.shared import writers
from puller.hypervisor.storage import imagelock
from puller.hypervisor.uri import is_monitor
from puller.nbd.image import Keys, remove_bitmap
from puller.repository.repository import Repository

_LOOK_BACK = 8
"""Newest points whose bitmaps puller looks for in QEMU although libvirt has no record of them."""


@dataclass(frozen=True, slots=True)
class RemovedBitmap:
    """The dirty bitmap ``bitmap`` was removed from the disk with the target ``disk``."""

    disk: str
    bitmap: str


@dataclass(frozen=True, slots=True)
class Forgotten:
    """The names of ``checkpoints``, and the ``bitmaps``, that were removed from ``domain``."""

    domain: str
    checkpoints: tuple[str, ...]
    bitmaps: tuple[RemovedBitmap, ...]


@dataclass(frozen=True, slots=True)
class _Image:
    """The image at ``path`` of the ``disk``, which holds our ``bitmaps``."""

    disk: Disk
    path: Path
    bitmaps: tuple[str, ...]


def forget(repository: Repository, name: str, uri: str, observer: Observer) -> Forgotten:
    """See ``puller.forget``."""

    def notice(text: str) -> None:
        observer(Notice(name, text))

    scope = repository.scope.working(notice)
    repository = repository.within(scope)
    if is_monitor(uri):
        with connect(uri, scope) as manager:
            return _forget_bitmaps(manager.machine(name), repository, notice)
    with Host.reach(uri, scope) as host:
        domain = host.domain(name)
        with domain_held(domain):
            _refuse_living(domain, repository.id)
            if openjob.end_stale(domain, repository.id):
                notice("ended a backup job that an earlier run had left open")
            recorded = _recorded(domain, repository.id)
            if domain.is_active():
                removed = tuple(_remove_from_running(domain, repository, recorded))
            else:
                _refuse_saved(domain)
                images = _marked_images(domain, repository.id, observer)
                _require_free(host, domain, images)
                removed = tuple(_remove_from_images(domain, images))
                for checkpoint in recorded:
                    checkpoints.forget_record(domain, checkpoint.name)
            return Forgotten(domain.name, tuple(item.name for item in recorded), removed)


def _forget_bitmaps(machine: Machine, repository: Repository, notice: Tell) -> Forgotten:
    """Remove the bitmaps of a QEMU without libvirt, where they are all that there is of a checkpoint."""
    with domain_held(machine):
        if machine.end_stale(repository.id):
            notice("ended a backup job that an earlier run had left open")
        found = [item for item in machine.checkpoints() if item.name.startswith(owner_prefix(repository.id))]
        for checkpoint in found:
            machine.delete_checkpoint(checkpoint.name)
        removed = (RemovedBitmap(target, item.name) for item in found for target in sorted(item.disks))
        return Forgotten(machine.name, tuple(item.name for item in found), tuple(removed))


def _refuse_living(domain: Domain, repository_id: str) -> None:
    """Raise Locked if a run of another user or container is alive, whose lock is in another directory."""
    for folder in {disk.path.parent for disk in domain.disks() if disk.path is not None}:
        runlock.require_dead(domain, repository_id, folder)


def _refuse_saved(domain: Domain) -> None:
    """A saved state may refer to dirty bitmaps that the images would then lack."""
    if domain.is_saved():
        raise HypervisorError(
            f"cannot remove the dirty bitmaps of domain {domain.name}: its saved state may refer to them",
            advice=f"Start the domain, or discard the state with 'virsh managedsave-remove {domain.name}', "
            "then run the command again.",
        )


def _recorded(domain: Domain, repository_id: str) -> list[Checkpoint]:
    found = checkpoints.list_checkpoints(domain)
    return [item for item in found if item.name.startswith(owner_prefix(repository_id))]


def _remove_from_running(
    domain: Domain, repository: Repository, recorded: list[Checkpoint]
) -> Iterator[RemovedBitmap]:
    # Before anything is deleted: the images still list a deleted bitmap until QEMU closes them.
    stored = find_stored(domain, repository.id)
    for checkpoint in recorded:
        name = checkpoint.name
        present = {*checkpoints.dirty_bytes(domain, name), *stored.get(name, ())} & checkpoint.disks
        checkpoints.delete(domain, name)
        yield from (RemovedBitmap(target, name) for target in sorted(present))
    for name, targets in _without_record(domain, repository, stored).items():
        yield from (RemovedBitmap(target, name) for target in remove_stray(domain, name, sorted(targets)))


def _without_record(
    domain: Domain, repository: Repository, stored: dict[str, list[str]]
) -> dict[str, set[str]]:
    """Return the disks by the name of a bitmap that they may have although libvirt has no record of it.

    Bitmaps that QEMU created since its start are not in the images yet; only the points know their names.
    """
    candidates = [
        with_image_facts(disk, domain.scope, domain.host) for disk in domain.disks() if disk.is_candidate
    ]
    tracked = {disk.target for disk in candidates if untracked(disk) is None}
    found = {name: set(targets) for name, targets in stored.items()}
    for point in islice(History(repository, domain.uuid), _LOOK_BACK):
        if point.checkpoint is not None and point.checkpoint.startswith(owner_prefix(repository.id)):
            found.setdefault(point.checkpoint, set()).update({disk.disk for disk in point.disks} & tracked)
    return found


def _marked_images(domain: Domain, repository_id: str, observer: Observer) -> list[_Image]:
    """Return the images of a shut-off domain that hold bitmaps of ours.

    Raises UnsupportedDisk or HypervisorError if an image that may hold some cannot be read.
    """
    found = []
    for disk in domain.disks():
        if not disk.holds_changes or untracked(with_image_facts(disk, domain.scope, domain.host)) is not None:
            continue
        path = _path(domain, disk)
        own, *behind = (
            _names(image, repository_id) for image in describe(path, disk.format, domain.scope, domain.host)
        )
        if own:
            found.append(_Image(disk, path, own))
        for name in sorted({name for names in behind for name in names}):
            observer(Notice(domain.name, f"bitmap {name} stays in a backing file of disk {disk.target}"))
    return found


def _names(image: dict[str, object], repository_id: str) -> tuple[str, ...]:
    prefix = owner_prefix(repository_id)
    return tuple(sorted(name for name in stored_bitmaps(image) if name.startswith(prefix)))


def _path(domain: Domain, disk: Disk) -> Path:
    if disk.path is None:
        raise UnsupportedDisk(
            f"cannot look for bitmaps on disk {disk.target} of domain {domain.name}: "
            f"its image ({disk.type}) is not a file or device of this host",
            advice="Start the domain, then run the same command again.",
        )
    return disk.path


def _require_free(host: Host, domain: Domain, images: list[_Image]) -> None:
    """Raise Locked if one of ``images`` is in use, before any of them is changed."""
    for target, other in writers(host, domain, [image.disk for image in images]).items():
        raise Locked(
            f"the running domain {other} uses disk {target} of domain {domain.name}",
            advice=f"Shut off {other}, then run the same command again.",
        )
    for image in images:
        try:
            held = imagelock.is_open(image.path, image.disk.format, domain.host)
        except OSError as error:
            raise HypervisorError(
                f"cannot open image {image.path} of domain {domain.name}: {error.strerror}",
                advice="Check that the disk's storage is present and that puller may write to it.",
            ) from error
        if held:
            raise _in_use(domain, image.path)


def _remove_from_images(domain: Domain, images: list[_Image]) -> Iterator[RemovedBitmap]:
    for image, keys in [(image, _keys(domain, image.disk)) for image in images]:
        for name in image.bitmaps:
            if (
                domain.is_active()
            ):  # with libvirt, QEMU's locks on block devices are separate from those of other programs
                raise _in_use(domain, image.path)
            try:
                remove_bitmap(image.path, name, keys, domain.scope, domain.host)
            except NbdError as error:
                if "lock" not in error.message:
                    raise
                raise _in_use(domain, image.path) from error
            yield RemovedBitmap(image.disk.target, name)


def _keys(domain: Domain, disk: Disk) -> Keys:
    """Keys of the image: QEMU's tools do not change an encrypted image without its passphrase."""
    try:
        return keys_of(domain, disk)
    except UnsupportedDisk as error:
        raise UnsupportedDisk(
            error.message, advice="Start the domain, then run the same command again."
        ) from error


def _in_use(domain: Domain, path: Path) -> Locked:
    return Locked(
        f"image {path} of domain {domain.name} is in use by another process",
        advice="Wait until it is free; if the domain was started, run the same command again.",
    )
