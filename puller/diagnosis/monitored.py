"""A QEMU without libvirt: what would break its backups, or make them cost more. See docs/qmp.md."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from puller.backups.bases.bases import choose
from puller.backups.bases.history import History
from puller.backups.sources.fleece import QemuBitmaps
from puller.diagnosis.finding import Answer, Finding, ask, attempt, fail, ok, warn
from puller.diagnosis.host import libnbd
from puller.diagnosis.repository import LastPoint
from puller.hypervisor.domain.checkpoint import owner_prefix
from puller.hypervisor.domain.disks.disk import Disk
from puller.hypervisor.domain.disks.image import untracked
from puller.hypervisor.locking.lock import holder
from puller.hypervisor.space import scratch
from puller.qmp import remains
from puller.qmp.agent import SocketAgent
from puller.qmp.machine import QemuHost, QemuMachine
from puller.repository.repository import Repository
from puller.units import format_bytes


@dataclass(frozen=True, slots=True)
class Choices:
    """Choices of a backup: the names of the domain, targets of disks, and the scratch directory."""

    domains: tuple[str, ...]
    disks: tuple[str, ...]
    exclude_disks: tuple[str, ...]
    scratch_dir: str | None


def examine(uri: str, repository: Repository | None, choices: Choices) -> Iterator[Finding]:
    """Check the connection, and the machine at its other end."""
    connecting = attempt("connection", uri, partial(QemuHost.connect, uri), lambda _: "QEMU answers")
    yield connecting.check
    if connecting.outcome is None:
        return
    with connecting.outcome as host:
        yield ask("libnbd", uri, libnbd)
        looking = attempt("domain", uri, partial(_machine, host, choices), lambda found: found.uuid)
        yield looking.check
        if looking.outcome is not None:
            yield from _examine(looking.outcome, repository, choices)


def _machine(host: QemuHost, choices: Choices) -> QemuMachine:
    """Return the machine, which must be one of the named ones. Raises NoSuchDomain."""
    machine = host.machine()
    if choices.domains and not {machine.name, machine.uuid} & set(choices.domains):
        return host.named(choices.domains[0])
    return machine


def _examine(machine: QemuMachine, repository: Repository | None, choices: Choices) -> Iterator[Finding]:
    name = machine.name
    yield ask("qemu", name, partial(_version, machine))
    yield ask("guest-agent", name, partial(_agent, machine))
    if repository is not None:
        yield ask("open-job", name, partial(_open_job, machine, repository))
        newest = LastPoint(repository, machine.uuid)
        yield ask("last-point", name, newest.answer)
    selecting = attempt(
        "disks",
        name,
        partial(machine.select_disks, choices.disks, choices.exclude_disks),
        lambda found: f"disks to back up: {', '.join(disk.target for disk in found) or 'none'}",
    )
    yield selecting.check
    if selecting.outcome:
        yield from _disks(machine, repository, selecting.outcome)
        yield ask("scratch-space", name, partial(_space, machine, selecting.outcome, choices))


def _disks(machine: QemuMachine, repository: Repository | None, disks: tuple[Disk, ...]) -> Iterator[Finding]:
    for disk in disks:
        subject = f"{machine.name}/{disk.target}"
        yield ask("disk-format", subject, partial(_format, disk))
        if repository is not None and untracked(disk) is None:
            yield ask("disk-base", subject, partial(_base, machine, repository, disk))


def _version(machine: QemuMachine) -> Answer:
    machine.require_version()
    return ok(f"QEMU {'.'.join(map(str, machine.version()))}")


def _agent(machine: QemuMachine) -> Answer:
    agent = SocketAgent(machine)
    if not agent.has_channel():
        return ok("the URI names no guest agent: points are crash-consistent")
    if not machine.is_running():
        return ok("not checked: the guest is paused")
    if agent.is_connected():
        return ok("the guest agent answers")
    return warn("the guest agent does not answer", "Start qemu-guest-agent in the guest, or correct ?agent=.")


def _open_job(machine: QemuMachine, repository: Repository) -> Answer:
    found = remains.find(machine, owner_prefix(repository.id))
    process = holder(machine)
    if process is not None:
        return ok(f"process {process} is backing up the domain")
    if found.foreign:
        return fail(
            f"QEMU's NBD server has exports of another program, such as {found.foreign[0]}",
            "Wait for that program, or stop the server with QMP's nbd-server-stop.",
        )
    if found.is_open:
        return warn(
            "a dead run has left its backup job open, which slows the guest",
            "Run a backup of the domain: it ends the job.",
        )
    return ok("no backup job is open")


def _format(disk: Disk) -> Answer:
    why = untracked(disk)
    if why is None:
        return ok(f"{disk.format}: backups can be incremental")
    return warn(f"each backup reads all data of the disk: {why}", "Convert the image to qcow2 if you can.")


def _base(machine: QemuMachine, repository: Repository, disk: Disk) -> Answer:
    history = History(repository, machine.uuid)
    base = choose(history, [disk], QemuBitmaps(machine, repository.id))[disk.target]
    if base.kind == "rehash":
        return warn(
            f"the next backup reads all data of the disk: {base.reason}", "Run a backup of the domain."
        )
    return ok(f"the next backup is {'a full' if base.kind == 'full' else 'incremental'}")


def _space(machine: QemuMachine, disks: tuple[Disk, ...], choices: Choices) -> Answer:
    monitor = machine.monitor.address.path
    folder = scratch.default_directory(disks, Path("/var/tmp") if monitor is None else monitor.parent)
    if choices.scratch_dir is not None:
        folder = Path(choices.scratch_dir)
    sizes = {drive.disk.target: drive.size for drive in machine.drives()}
    needed = scratch.required_bytes(sizes[disk.target] for disk in disks)
    free = scratch.free_bytes(folder, "scratch")
    text = f"{folder} has {format_bytes(free)} free, but {format_bytes(needed)} are needed"
    if free < needed:
        return fail(text, "Free space, or set another directory with --scratch-dir.")
    return ok(f"{folder} has {format_bytes(free)} free")
