"""A domain: its state, support by libvirt, jobs, snapshots, checkpoints and guest agent."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from puller.backups.bases.history import History
from puller.diagnosis.finding import Answer, Finding, ask, fail, ok, warn
from puller.hypervisor.connection import Host
from puller.hypervisor.domain import checkpoint as checkpoints
from puller.hypervisor.domain.disks.disk import Disk
from puller.hypervisor.domain.domain import Domain
from puller.hypervisor.guest.agentstate import AgentState, agent_state
from puller.hypervisor.job import openjob
from puller.hypervisor.locking.lock import holder
from puller.repository.repository import Repository

_AGENT = {
    AgentState.NOT_CONNECTED: warn(
        "the domain has a channel for the guest agent, but no agent is connected",
        "Install and start qemu-guest-agent in the guest.",
    ),
    AgentState.SILENT: warn(
        "the guest agent is connected but does not answer", "Restart qemu-guest-agent in the guest."
    ),
    AgentState.NO_CHANNEL: ok("the domain has no channel for a guest agent: points are crash-consistent"),
    AgentState.ANSWERS: ok("the guest agent answers"),
}


@dataclass(frozen=True, slots=True)
class ExaminedDomain:
    """A domain to examine; ``repository`` is None if none could be opened.

    ``disks`` and ``left_out`` are the targets that a backup should take and leave out.
    """

    host: Host
    domain: Domain
    repository: Repository | None
    disks: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    def taken(self) -> list[Disk]:
        """Return the existing disks that a backup takes, including those on which it fails."""
        wanted = [
            disk
            for disk in self.domain.disks()
            if (disk.target in self.disks if self.disks else disk.is_candidate)
        ]
        return [disk for disk in wanted if disk.target not in self.left_out]

    def omitted(self) -> list[Disk]:
        """Return the disks with data that a backup leaves out by default."""
        disks = () if self.disks else self.domain.disks()
        return [
            disk
            for disk in disks
            if disk.holds_changes and not disk.is_candidate and disk.target not in self.left_out
        ]


def examine(examined: ExaminedDomain) -> Iterator[Finding]:
    """Check the domain as a whole. It may be shut off."""
    name = examined.domain.name
    yield ask("state", name, partial(_state, examined))
    yield ask("backup-support", name, partial(_support, examined))
    yield ask("persistence", name, partial(_persistence, examined))
    yield ask("snapshots", name, partial(_snapshots, examined))
    yield ask("checkpoints", name, partial(_checkpoints, examined))
    if examined.domain.is_active():
        yield ask("open-job", name, partial(_open_job, examined))
        yield ask("guest-agent", name, partial(_guest_agent, examined))


def _state(examined: ExaminedDomain) -> Answer:
    if examined.domain.is_active():
        return ok("active")
    return ok("shut off: a backup reads its images")


def _support(examined: ExaminedDomain) -> Answer:
    if examined.host.supports_backup(examined.domain):
        return ok("libvirt supports incremental backups of it")
    return fail(
        "libvirt does not support incremental backups with this emulator",
        "Upgrade libvirt and QEMU (libvirt 9.0 with QEMU 7.2 is enough), then restart the domain.",
    )


def _persistence(examined: ExaminedDomain) -> Answer:
    if examined.domain.is_persistent():
        return ok("persistent")
    return warn(
        "transient: libvirt loses its checkpoints when it stops, and the next backup may read all data",
        "Make it persistent with 'virsh define'.",
    )


def _snapshots(examined: ExaminedDomain) -> Answer:
    found = examined.domain.snapshots()
    if not found:
        return ok("no snapshots")
    return warn(
        f"the domain has snapshots ({_some(found)}): after one is created, reverted or merged, a backup "
        "reads all data",
        "Delete snapshots that are no longer needed with 'virsh snapshot-delete'.",
    )


def _checkpoints(examined: ExaminedDomain) -> Answer:
    names = [item.name for item in checkpoints.list_checkpoints(examined.domain)]
    foreign = [name for name in names if not name.startswith(checkpoints.OWN)]
    orphans = _orphans(examined, names)
    if orphans:
        return warn(
            f"checkpoints of this repository have no restore point: {_some(orphans)}",
            "Run a backup of the domain: it deletes them.",
        )
    if foreign:
        return warn(
            f"checkpoints of another tool: {_some(foreign)}",
            "Delete them with 'virsh checkpoint-delete' if that tool is no longer used: "
            "each slows the guest's writes a little.",
        )
    return ok(f"checkpoints: {len(names)}")


def _orphans(examined: ExaminedDomain, names: list[str]) -> list[str]:
    """Return checkpoints whose point is gone, or that a run could neither commit nor delete."""
    repository, uuid = examined.repository, examined.domain.uuid
    if repository is None or holder(examined.domain) is not None:
        return []
    history = History(repository, uuid)
    ours = [name for name in names if checkpoints.point_of(name, repository.id) is not None]
    return [name for name in ours if not history.holds(name)]


def _open_job(examined: ExaminedDomain) -> Answer:
    job = openjob.open_job(examined.domain)
    if job is None:
        return ok("no backup job is open")
    process = holder(examined.domain)
    if process is not None:
        return ok(f"process {process} is backing up the domain")
    if examined.repository is not None and openjob.is_ours(job, examined.repository.id):
        return warn(
            "a dead run has left its backup job open, which slows the guest",
            "Run a backup of the domain: it ends the job.",
        )
    return fail(
        "a backup job is open that puller did not begin for this repository",
        "Wait for the other backup, or end it with 'virsh domjobabort' if it is stale.",
    )


def _guest_agent(examined: ExaminedDomain) -> Answer:
    if not examined.domain.is_running():
        return ok("not checked: the guest is paused")
    return _AGENT[agent_state(examined.domain)]


def _some(names: list[str] | tuple[str, ...]) -> str:
    """Return the first names, and the number of the others."""
    more = len(names) - 3
    return ", ".join(names[:3]) + (f" and {more} more" if more > 0 else "")
