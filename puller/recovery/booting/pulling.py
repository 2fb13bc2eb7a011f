"""Instant recovery: the data follows behind the running guest, until the machine needs no server any more.

QEMU pulls by itself. puller begins a job for one disk after the other, watches it, and begins it again where
it ended too early; if puller is killed, the next one goes on to watch. What was pulled stays pulled.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

import msgspec

from puller.cancelling import WORK, CancelScope
from puller.errors import (
    DomainNotRunning,
    HypervisorError,
    JobRunning,
    Locked,
    NoSuchDomain,
    NotBooted,
    OutputFailed,
    PullIncomplete,
)
from puller.events import DiskDone, DiskPlanned, DiskProgress, Notice, Observer
from puller.hypervisor.connection import Host
from puller.hypervisor.domain.domain import Domain
from puller.hypervisor.job.blockpull import begin_pull, end_pull, images_behind, pull_progress, set_pull_rate
from puller.recovery.booting import image_server, record
from puller.recovery.booting.defined import forget_server, hold_server
from puller.recovery.booting.discard import find_domain, release_point
from puller.recovery.booting.held import machine_held
from puller.recovery.booting.record import Booted, BootedDisk
from puller.recovery.booting.wholeness import names_behind, require_whole
from puller.recovery.targets import outputs
from puller.repository.repository import Repository
from puller.units import GIB, format_bytes

T = TypeVar("T")

_INTERVAL = 1.0
"""Seconds between two looks at a job: frequent ones have crashed libvirt's daemon before 10.8."""

_REFUSALS = 60
"""How often libvirt may refuse a job since it has not come to the end of the one before."""

_SHARE = 20
"""A pull leaves this part of the file system free to the guest, or a GiB of a large one."""

_TRIES = 3
"""How often the job of a disk may end too early before puller gives up."""


def pull(booted: Booted, repository: Repository, rate: int | None, observer: Observer) -> Booted:
    """Pull all disks, at most ``rate`` bytes per second, and return the record of what stands alone then.

    Raises PullIncomplete if data is lost, HypervisorError if libvirt's daemon stays away. The guest runs on
    in any case, and QEMU goes on with the disk that it is pulling if puller ends. Raises NotBooted if
    somebody has discarded the machine meanwhile.
    """
    try:
        return _pull(booted, repository, rate, observer)
    except (DomainNotRunning, NoSuchDomain, OutputFailed) as error:
        if not _is_discarded(booted, repository.scope):
            raise
        raise NotBooted(
            f"machine {booted.name} was discarded while its data was pulled",
            advice="Boot the point again if you need the machine.",
        ) from error


def _is_discarded(booted: Booted, scope: CancelScope) -> bool:
    """Whoever discards the machine holds it until the record is gone, too."""
    while True:
        with suppress(Locked), machine_held(booted):
            return not (booted.folder / record.NAME).exists()
        scope.check()
        scope.pause(_INTERVAL)


def _pull(booted: Booted, repository: Repository, rate: int | None, observer: Observer) -> Booted:
    booted = msgspec.structs.replace(booted, state="pulling")
    record.write(booted)
    puller = _Pulling(booted, repository.scope, rate, observer)
    for disk in booted.disks:
        puller.pull(disk)
    booted = puller.booted
    puller.ask(lambda host: require_alone(booted, _domain(booted, host), host))
    image_server.stop(booted)
    (booted.folder / image_server.LOG).unlink(missing_ok=True)
    release_point(booted, repository, observer)
    booted = msgspec.structs.replace(booted, state="standalone", keep="")
    record.write(booted)
    return booted


class _Pulling:
    """Pulls disks of one machine, over new connections to libvirt where one is lost."""

    def __init__(self, booted: Booted, scope: CancelScope, rate: int | None, observer: Observer) -> None:
        self.booted = booted
        self._scope = scope
        self._rate = rate
        self._observer = observer
        self._host: Host | None = None

    def pull(self, disk: BootedDisk) -> None:
        """Return when the disk needs nothing behind its image any more."""
        self._observer(DiskPlanned(self.booted.name, disk.disk, disk.size, disk.size))
        self.ask(lambda host: self._slow_down(host, disk))
        if self.ask(lambda host: self._is_behind(host, disk)):
            self.ask(lambda host: self._prepare(host, disk))
        begun = refused = 0
        while self.ask(lambda host: self._is_behind(host, disk)):
            self._require_room(disk)
            if not self.ask(lambda host: self._look(host, disk)):
                # libvirt's XML follows QEMU's jobs late on a busy host; the image's own header does not. But
                # an earlier QEMU may have removed the name from the header, and was then killed.
                late = begun > 0 and names_behind(disk) is None
                if refused == _REFUSALS or (begun == _TRIES and not late):
                    raise self._incomplete(disk)
                if not late and self.ask(lambda host: self._begin(host, disk)):
                    begun += 1
                else:
                    refused += 1
            self._scope.check()
            self._scope.pause(_INTERVAL)
        if not disk.whole:
            self.ask(lambda host: require_whole(self.booted, disk, _running(self.booted, host)))
            self.booted = self.booted.with_whole(disk.disk)
            record.write(self.booted)
        self._observer(DiskProgress(self.booted.name, disk.disk, disk.size, disk.size, 0))
        self._observer(DiskDone(self.booted.name, disk.disk))

    def _prepare(self, host: Host, disk: BootedDisk) -> None:
        """A snapshot in the image would lose what it reads from behind; one over it would be pulled into."""
        domain = _running(self.booted, host)
        if snapshots := domain.snapshots():
            raise PullIncomplete(
                f"cannot pull disk {disk.disk} of {domain.name}: the machine has snapshots "
                f"({', '.join(snapshots)}), which need the point",
                advice="Delete them with 'virsh snapshot-delete', then run "
                f"'puller boot --resume {domain.name} --keep'.",
            )
        hold_server(self.booted, disk, domain, host)

    def _is_behind(self, host: Host, disk: BootedDisk) -> bool:
        return images_behind(_running(self.booted, host).xml()).get(disk.disk, False)

    def _require_room(self, disk: BootedDisk) -> None:
        """Leave room to the guest: it is paused at its next write where there is none."""
        with outputs.translated(self.booted.storage):
            usage = shutil.disk_usage(self.booted.folder)
        reserve = min(GIB, usage.total // _SHARE)
        if usage.free >= reserve:
            return
        self.ask(lambda host: end_pull(_running(self.booted, host), disk.disk))
        raise PullIncomplete(
            f"cannot pull all of disk {disk.disk} of {self.booted.name}: "
            f"less than {format_bytes(reserve)} is free in {self.booted.storage}",
            advice=f"Make room there, then run 'puller boot --resume {self.booted.name}'. "
            "The machine runs on with the server.",
        )

    def _slow_down(self, host: Host, disk: BootedDisk) -> None:
        """Give the job that an earlier puller has begun the rate that is wanted now."""
        domain = _running(self.booted, host)
        if pull_progress(domain, disk.disk) is not None:
            set_pull_rate(domain, disk.disk, self._rate)

    def _begin(self, host: Host, disk: BootedDisk) -> bool:
        """Begin a job; False if libvirt still has the one before."""
        try:
            begin_pull(_domain(self.booted, host), disk.disk, self._rate)
        except JobRunning:
            return False
        return True

    def _look(self, host: Host, disk: BootedDisk) -> bool:
        """Report the progress of the disk's job; False if there is none."""
        progress = pull_progress(_running(self.booted, host), disk.disk)
        if progress is None:
            return False
        self._observer(DiskProgress(self.booted.name, disk.disk, progress.done, progress.done, 0))
        return True

    def _incomplete(self, disk: BootedDisk) -> PullIncomplete:
        name = self.booted.name
        log = image_server.supervised(self.booted).log_name
        return PullIncomplete(
            f"cannot pull all of disk {disk.disk} of {name}: QEMU's job ended {_TRIES} times before its end",
            advice=f"See the server's log ({log}) for damaged data. The machine runs on with the server.",
        )

    def ask(self, question: Callable[[Host], T]) -> T:
        """Ask libvirt, again and over a new connection while its daemon is away. Raises HypervisorError."""
        deadline: float | None = None
        while True:
            try:
                return question(self._connected())
            except (DomainNotRunning, NoSuchDomain):
                raise
            except HypervisorError as error:
                if self._host is not None and self._host.is_alive():
                    raise
                self._host = None
                if deadline is None:
                    deadline = time.monotonic() + WORK.seconds
                    text = f"libvirt does not answer; trying again for {WORK.seconds:.0f} s: {error.message}"
                    self._observer(Notice(self.booted.name, text))
                if time.monotonic() > deadline:
                    raise
                self._scope.check()
                self._scope.pause(_INTERVAL)

    def _connected(self) -> Host:
        if self._host is None:
            self._host = Host.connect(self.booted.connect, self._scope)
        return self._host


def _domain(booted: Booted, host: Host) -> Domain:
    if (domain := find_domain(booted, host)) is None:
        raise NoSuchDomain(
            f"libvirt at {booted.connect} has no domain {booted.name} ({booted.uuid}) any more",
            advice=f"Run 'puller boot --discard {booted.name}' if you do not need {booted.storage} either.",
        )
    return domain


def _running(booted: Booted, host: Host) -> Domain:
    domain = _domain(booted, host)
    if not domain.is_active():
        raise DomainNotRunning(
            f"domain {booted.name} was shut off before all of its data was pulled",
            advice=f"Run 'puller boot --resume {booted.name}'.",
        )
    return domain


def require_alone(booted: Booted, domain: Domain, host: Host) -> None:
    """Make sure that neither an image nor the definition names the server any more. Raises PullIncomplete."""
    for disk in booted.disks:
        if (behind := names_behind(disk)) is not None:
            raise PullIncomplete(f"{disk.overlay} still names {behind} behind it")
    forget_server(booted, domain, host)
