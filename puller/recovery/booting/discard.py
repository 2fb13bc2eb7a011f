"""Removing a booted machine, in the order that leaves nothing behind that could not be found again."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from puller.cancelling import cleanup
from puller.errors import NoSuchDomain, OutputInUse, PullerError, UsageError
from puller.events import Notice, Observer
from puller.hypervisor.connection import Host
from puller.hypervisor.domain import lifecycle
from puller.hypervisor.domain.domain import Domain
from puller.recovery.booting import image_server, record
from puller.recovery.booting.held import machine_held
from puller.recovery.booting.record import Booted
from puller.recovery.targets import outputs
from puller.repository.repository import Repository

_LATE_SECONDS = 15.0
"""Seconds after which no definition that a killed puller asked for comes any more."""

_STEP = 0.2


def discard(booted: Booted, host: Host, repository: Repository | None, observer: Observer) -> None:
    """Remove the machine with all that its guest has written. Raises Locked, NotBooted, UsageError,
    OutputInUse, HypervisorError.

    Without ``repository`` its point stays kept, and ``observer`` is told.
    """
    with machine_held(booted):
        _discard(record.read(booted.name), host, repository, observer)


def _discard(booted: Booted, host: Host, repository: Repository | None, observer: Observer) -> None:
    if booted.state == "standalone":
        raise UsageError(
            f"machine {booted.name} stands alone: its disks are its own, and puller has nothing to remove",
            advice=f"If you want to delete the machine, undefine it with virsh, and delete {booted.storage}.",
        )
    if booted.state == "booting":
        _await_definition(booted, host)
    _refuse_used(booted, host)
    remove(booted, host, repository, observer)


def _await_definition(booted: Booted, host: Host) -> None:
    """libvirt's daemon still defines the domain if puller was killed while it waited for that.

    Usually it takes milliseconds. Where QEMU's user may not open /dev/kvm, libvirt 9.0 probes QEMU anew for
    each device, and needs seconds.
    """
    deadline = time.monotonic() + _LATE_SECONDS
    while find_domain(booted, host) is None and time.monotonic() < deadline:
        host.scope.check()
        host.scope.pause(_STEP)


def _refuse_used(booted: Booted, host: Host) -> None:
    """Let nobody's running domain lose its disks: somebody may have defined another one on the overlays."""
    overlays = {disk.overlay for disk in booted.disks}
    domain = find_domain(booted, host)
    for name, path in host.sources_in_use():
        if path in overlays and (domain is None or name != domain.name):
            raise OutputInUse(
                f"cannot discard {booted.name}: domain {name} uses {path}",
                advice=f"Shut {name} down first, if it is not needed.",
            )


def remove(booted: Booted, host: Host, repository: Repository | None, observer: Observer) -> None:
    """Remove all that the record names and that is there. The record goes last."""
    if (domain := find_domain(booted, host)) is not None:
        lifecycle.destroy(domain)
        lifecycle.undefine(domain)
    image_server.stop(booted)
    for path in map(Path, booted.firmware):
        _remove_firmware(path)
    release_point(booted, repository, observer)
    record.forget(booted)


def remove_after_failure(booted: Booted, host: Host, repository: Repository, observer: Observer) -> None:
    """Remove what a boot has made that failed; if that fails too, say how to remove it later."""
    try:
        remove(booted, host, repository, observer)
    except PullerError as error:
        text = (
            f"cannot remove what was made ({error.message}): run 'puller boot --discard {booted.name}' later"
        )
        observer(Notice(booted.point, text))


def find_domain(booted: Booted, host: Host) -> Domain | None:
    """Return the machine's domain; None if there is none of its UUID."""
    try:
        return host.domain(booted.uuid)
    except NoSuchDomain:
        return None


def release_point(booted: Booted, repository: Repository | None, observer: Observer) -> None:
    """End the protection of the point; if that fails, say so."""
    if not booted.keep:
        return
    why = "the repository was not opened"
    if repository is not None:
        try:
            repository.within(cleanup()).keeps.delete([booted.keep])
            return
        except PullerError as error:
            why = error.message
    text = f"point {booted.point} stays kept ({why}): run 'puller release {booted.point}'"
    observer(Notice(booted.point, text))


def _remove_firmware(path: Path) -> None:
    """libvirt removes most of it with the domain; the record names only what was made for this domain."""
    with outputs.translated(str(path)):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
