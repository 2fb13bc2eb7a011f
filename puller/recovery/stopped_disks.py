"""The disks of a domain that is shut off, which nobody may use while they are rolled back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from puller.backups.sources.offline import image_of
from puller.backups.sources.unlock import keys_of, require_keys_for
from puller.errors import DomainRunning, Locked, NoSuchDisk, OutputRefused, UnsupportedDisk
from puller.events import Notice, Observer
from puller.host.access import LOCAL
from puller.hypervisor.domain.disks.disk import Disk
from puller.hypervisor.domain.disks.image import describe, with_chain, with_layout
from puller.hypervisor.domain.domain import Domain
from puller.hypervisor.domain.facts import with_file_facts
from puller.hypervisor.job.events import Starts
from puller.hypervisor.locking.lock import DomainLock, lock_directory
from puller.nbd.image import Keys
from puller.nbd.strays import end_strays
from puller.recovery.targets.overwriting import Domains, claim
from puller.repository.points import Point


@dataclass(frozen=True, slots=True)
class StoppedDisk:
    """One disk: ``path`` is its image, ``images`` what ``qemu-img`` says about it and those behind it, and
    ``keys`` open them.
    """

    disk: Disk
    path: Path
    images: Sequence[dict[str, Any]]
    keys: Keys
    file: FileNumbers

    def refuse_replaced(self) -> None:
        """Raise Locked if another file has the image's name by now: a restore with --force put it there."""
        if _file_at(self.path) != self.file:
            raise Locked(
                f"image {self.path} was replaced while puller looked at it",
                advice="Find out which program replaced it, then run the same command again.",
            )


FileNumbers = tuple[int, int, int] | None
"""Numbers of a file or device; None if there is none."""


def _file_at(path: Path) -> FileNumbers:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_rdev


@dataclass(frozen=True, slots=True)
class StoppedDisks:
    """The disks of one domain. ``starts`` are those of the domain since it was seen to be shut off."""

    domain: Domain
    disks: tuple[StoppedDisk, ...]
    starts: Starts

    def refuse_started(self) -> None:
        """Raise DomainRunning if the domain was started.

        A guest can start on block devices: where libvirt gives QEMU device nodes of its own, no lock on the
        host's nodes keeps it away.
        """
        if self.starts.any():
            raise DomainRunning(
                f"domain {self.domain.name} was started while its disks were rolled back: they are partly of "
                "the point and partly its guest's",
                advice="Shut the domain off, then run the same command again.",
            )


@contextmanager
def held(
    domain: Domain, point: Point, targets: Sequence[str], connect: str, observer: Observer
) -> Iterator[StoppedDisks]:
    """The disks of the ``targets``, or of all in ``point``, held against other pullers.

    Raises NoSuchDisk, DomainRunning, Locked, OutputInUse, OutputRefused, UnsupportedDisk, HypervisorError.
    """
    with DomainLock(domain.uuid, domain.name, lock_directory()), Starts(domain) as starts:
        end_strays(LOCAL, domain.scope)
        _refuse_active(domain)
        chosen = _choose(domain, point, targets)
        if not targets:
            _tell_others(domain, point, observer)
        domains = Domains((connect,), point.point, observer, domain.scope)
        _refuse_used([image_of(domain, disk) for disk in chosen], domains)
        disks = tuple(_look(domain, disk) for disk in chosen)
        _refuse_used([found.disk.data_file for found in disks if found.disk.data_file], domains)
        yield StoppedDisks(domain, disks, starts)


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


def _choose(domain: Domain, point: Point, targets: Sequence[str]) -> tuple[Disk, ...]:
    wanted = targets or tuple(record.disk for record in point.disks)
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
    chosen = tuple(present[target] for target in dict.fromkeys(wanted))
    for disk in chosen:
        _refuse_elsewhere(domain, point, disk)
        _refuse_missing(point, disk.target, image_of(domain, disk))
    return chosen


def _look(domain: Domain, disk: Disk) -> StoppedDisk:
    """Ask for everything about the image at once: each answer of ``qemu-img`` takes milliseconds."""
    path, keys = image_of(domain, disk), keys_of(domain, disk)
    file = _file_at(path)
    images = describe(path, disk.format, domain.scope)
    require_keys_for(domain, disk, keys, images)
    known = with_layout(disk, images[0]) if disk.format == "qcow2" else disk
    (known,) = with_file_facts(domain, [known])  # once its data file is known
    return StoppedDisk(with_chain(known, images), path, images, keys, file)


def _tell_others(domain: Domain, point: Point, observer: Observer) -> None:
    """Name the guest's other disks, which will not be of the time of those that are rolled back."""
    for disk in domain.disks():
        if disk.holds_changes and point.disk(disk.target) is None:
            text = f"disk {disk.target} stays as it is: the point does not have it"
            observer(Notice(point.point, text))


def _refuse_elsewhere(domain: Domain, point: Point, disk: Disk) -> None:
    if disk.path is None:
        raise UnsupportedDisk(
            f"cannot roll back disk {disk.target} of domain {domain.name}: it is {disk.type}, neither a "
            "file nor a block device of this host",
            advice="Roll the other disks back with --disk, and restore this one: 'puller restore "
            f"{point.point} --disk {disk.target}=TARGET'.",
        )


def _refuse_missing(point: Point, target: str, path: Path) -> None:
    if not path.exists():
        raise OutputRefused(
            f"image {path} of disk {target} does not exist",
            advice=f"Restore it: 'puller restore {point.point} --disk {target} --output {path}'.",
        )


def _refuse_used(files: Sequence[Path], domains: Domains) -> None:
    """Raise OutputInUse if a guest, a mount or a program uses one of the files."""
    for path in files:
        with claim(path, domains):
            pass  # qemu-nbd takes QEMU's lock on it when it opens it
