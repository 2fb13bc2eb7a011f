"""Scratch and socket: free space, and access of QEMU's user to the directories."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from puller.backups.sources.ways import is_root
from puller.diagnosis.domain import ExaminedDomain
from puller.diagnosis.finding import Answer, Finding, Status, ask, fail, ok, warn
from puller.host.access import HostAccess
from puller.host.runtime import SOCKET_PATH
from puller.hypervisor.confinement import Confinement, barred, confinement, may_write
from puller.hypervisor.domain.checkpoint import checkpoint_name
from puller.hypervisor.domain.disks.disk import Disk
from puller.hypervisor.job import openjob
from puller.hypervisor.job.job import socket_path
from puller.hypervisor.space import scratch, staging
from puller.units import format_bytes


@dataclass(frozen=True, slots=True)
class Folders:
    """``scratch`` is the directory for the scratch of ``disks``, or for the staging in the ``mode`` push."""

    scratch: Path
    disks: tuple[Disk, ...]
    mode: str = "pull"

    @property
    def option(self) -> str:
        """The option that sets another directory."""
        return "--staging-dir" if self.mode == "push" else "--scratch-dir"


def examine(examined: ExaminedDomain, folders: Folders) -> Iterator[Finding]:
    """Check the directory of the scratch and, for a running domain, that of the socket."""
    name, host = examined.domain.name, examined.domain.host
    if not host.has_files:
        text = f"not checked: puller has no way to the files of host {host.name}"
        yield Finding("scratch-space", name, Status.WARN, text, "Check there that the scratch has space.")
        return
    held = confinement(examined.domain.xml(), examined.host.capabilities())
    yield ask("scratch-access", name, partial(_access, folders, held, host))
    yield ask("scratch-label", name, partial(label, folders, held))
    yield ask("scratch-space", name, partial(_space, examined, folders))
    yield ask("scratch-leftovers", name, partial(_leftovers, examined, folders))
    if examined.domain.is_active():
        yield ask("socket", name, partial(_socket, examined, held))


def _access(folders: Folders, held: Confinement, host: HostAccess) -> Answer:
    folder = folders.scratch
    if held.user is None:
        return ok("libvirt does not report the user that QEMU runs as")
    try:
        closed = barred(folder, held.user, host)
    except PermissionError:
        return warn(f"cannot find out whether {held.user} can reach {folder}", "Run doctor as root.")
    if closed is None:
        return ok(f"{held.user} can reach {folder}")
    return fail(
        f"QEMU runs as {held.user}, who may not enter {closed} on the path to {folder}",
        f"Run 'setfacl -m u:{held.user}:x {closed}', or set another directory with {folders.option}.",
    )


def label(folders: Folders, held: Confinement) -> Answer:
    """Name the security models that confine QEMU. Only the kernel knows their policies."""
    if not held.models:
        return ok("QEMU is not confined")
    models = " and ".join(sorted(held.models))
    return ok(f"{models} confines QEMU; only a backup can show whether QEMU may use {folders.scratch}")


def _space(examined: ExaminedDomain, folders: Folders) -> Answer:
    # libvirt knows no size of a network disk of a domain that is shut off.
    told = [disk for disk in folders.disks if disk.path is not None or examined.domain.is_active()]
    sizes = [examined.domain.disk_size(disk.target) for disk in told]
    if folders.mode == "push" and examined.domain.is_active():
        return _staging_space(folders.scratch, sum(map(staging.required_bytes, sizes)), examined.domain.host)
    needed = scratch.required_bytes(sizes)
    free = scratch.free_bytes(folders.scratch, "scratch", examined.domain.host)
    text = f"{folders.scratch} has {format_bytes(free)} free, but {format_bytes(needed)} are needed"
    if free < needed:
        return fail(text, "Free space, or set another directory with --scratch-dir.")
    return ok(text)


def _staging_space(folder: Path, needed: int, host: HostAccess) -> Answer:
    """A push knows at its start how much it has to copy, and is refused then if there is too little space."""
    free = scratch.free_bytes(folder, "staging", host)
    text = f"{folder} has {format_bytes(free)} free; a push of full disks needs {format_bytes(needed)}"
    if free < needed:
        return warn(
            text, "Free space, or set another directory with --staging-dir, if the disks are that full."
        )
    return ok(text)


def _leftovers(examined: ExaminedDomain, folders: Folders) -> Answer:
    job = openjob.open_job(examined.domain) if examined.domain.is_active() else None
    in_use = frozenset[Path]() if job is None else job.scratch
    places = {folders.scratch, *(disk.path.parent for disk in folders.disks if disk.path)}
    found = [
        path
        for place in sorted(places)
        for path in scratch.leftovers(place, examined.domain.uuid, in_use, examined.domain.host)
    ]
    if not found:
        return ok("no scratch files of earlier runs")
    return warn(
        f"{len(found)} scratch files of earlier runs, such as {found[0]}",
        "Run a backup of the domain into the same repository: it deletes them.",
    )


def _socket(examined: ExaminedDomain, held: Confinement) -> Answer:
    if not is_root(examined.domain):
        return warn(
            f"the user of ssh on host {examined.domain.host.name} is not root, so puller cannot reach it",
            "Connect as root, or back up with --nbd-tls DIR.",
        )
    folder = examined.domain.runtime_directory()
    if len(bytes(socket_path(examined.domain, checkpoint_name("0" * 32, "0" * 8)))) > SOCKET_PATH:
        return fail(
            f"cannot create a socket in {folder}: the path is too long", "Give the domain a shorter name."
        )
    if held.user is None:
        return ok(f"{folder}; libvirt does not report the user that QEMU runs as")
    try:
        host = examined.domain.host
        open_to_it = barred(folder, held.user, host) is None and may_write(folder, held.user, host)
    except PermissionError:
        return warn(f"cannot find out whether {held.user} may write to {folder}", "Run doctor as root.")
    if open_to_it:
        return ok(f"{held.user} may create the socket in {folder}")
    return fail(
        f"QEMU runs as {held.user}, who may not create a socket in {folder}",
        f"Run 'chown {held.user} {folder}': libvirt sets this owner when it starts a domain.",
    )
