"""A QEMU without libvirt, as a backup needs it: see ``puller.backups.machines.machine``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Self

from puller.backups.bases.history import History
from puller.backups.machines.machine import AttachmentReader, AttachmentRequest, SourceRequest, Tell
from puller.backups.sources.fleece import Fleece
from puller.backups.sources.source import Pull, Source
from puller.cancelling import CancelScope
from puller.errors import UsageError
from puller.events import Observer
from puller.host.access import LOCAL, HostAccess
from puller.hypervisor.domain.checkpoint import THIRD_PARTIES, Checkpoint, owner_prefix, point_of
from puller.hypervisor.domain.disks.disk import Disk
from puller.hypervisor.locking import runlock
from puller.hypervisor.space import scratch
from puller.qmp import checkpoints, remains
from puller.qmp.agent import SocketAgent
from puller.qmp.description import describe, outside_files
from puller.qmp.machine import QemuHost, QemuMachine
from puller.qmp.names import socket_pattern
from puller.repository.repository import Repository


class MonitoredHost:
    """See MachineHost: the one machine of a QEMU."""

    def __init__(self, host: QemuHost) -> None:
        self._host = host
        self.uri = host.uri
        self.scope = host.scope
        self.access: HostAccess = LOCAL
        self.label = f"QEMU at {host.monitor.address}"

    @classmethod
    def connect(cls, uri: str, scope: CancelScope | None) -> Self:
        """Connect to the monitor at ``uri``."""
        return cls(QemuHost.connect(uri, scope))

    def machine(self, name: str) -> MonitoredMachine:
        """See MachineHost. Raises HypervisorError if this QEMU is too old."""
        found = self._host.named(name)
        found.require_version()
        return MonitoredMachine(found)

    def uuids(self) -> dict[str, str]:
        """See MachineHost."""
        machine = self._host.machine()
        return {machine.name: machine.uuid}

    def sources_in_use(self) -> Iterator[tuple[str, str]]:
        """See MachineHost."""
        machine = self._host.machine()
        return ((machine.name, path) for path in machine.open_files())

    def is_alive(self) -> bool:
        """See MachineHost."""
        return self._host.is_alive()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._host.monitor.close()


class MonitoredMachine:
    """See Machine. It always runs: without its QEMU, there is nobody to ask."""

    def __init__(self, machine: QemuMachine) -> None:
        self._machine = machine
        self.name = machine.name
        self.uuid = machine.uuid
        self.host = machine.host
        self.way_to_end = "run a backup of the domain"

    @property
    def scope(self) -> CancelScope:
        """See Machine."""
        return self._machine.scope

    def is_active(self) -> bool:
        """See Machine."""
        return True

    def start_id(self) -> str | None:
        """See Machine."""
        return self._machine.run_id()

    def disks(self) -> tuple[Disk, ...]:
        """See Machine."""
        return tuple(drive.disk for drive in self._machine.drives())

    def select_disks(
        self, include: Sequence[str], exclude: Sequence[str], exclude_if_present: Sequence[str]
    ) -> tuple[Disk, ...]:
        """See Machine. Other writers are unknown here; QEMU's own locks keep them off."""
        return self._machine.select_disks(include, exclude, exclude_if_present)

    def named_files(self) -> Iterator[str]:
        """See Machine."""
        return outside_files(self._machine.command_line() or ())

    def pulled(self, owner: str, disks: Sequence[Disk], scratch_dir: str | None) -> Fleece:
        """See Machine."""
        return Fleece(self._machine, disks, owner, self._folder(disks, scratch_dir))

    def source(
        self, repository: Repository, disks: Sequence[Disk], request: SourceRequest, observer: Observer
    ) -> Source:
        """See Machine. Raises UsageError for a push, and for TCP."""
        if request.mode != Pull.mode:
            raise UsageError(
                f"cannot push the disks of domain {self.name}: only libvirt pushes",
                advice="Leave out --mode push: puller pulls from a QEMU without libvirt.",
            )
        if request.tcp is not None:
            raise UsageError(
                f"cannot read domain {self.name} over TCP: it runs on this host",
                advice="Leave out --nbd-tls and --insecure-nbd: puller reads a Unix socket.",
            )
        if not disks:
            return Source(disks, self._folder(disks, request.scratch_dir))
        return self.pulled(repository.id, disks, request.scratch_dir)

    def _folder(self, disks: Sequence[Disk], scratch_dir: str | None) -> Path:
        if scratch_dir is not None:
            return Path(scratch_dir)
        monitor = self._machine.monitor.address.path
        return scratch.default_directory(disks, Path("/var/tmp") if monitor is None else monitor.parent)

    def agent(self) -> SocketAgent:
        """See Machine."""
        return SocketAgent(self._machine)

    def attachments(self, wanted: AttachmentRequest) -> Iterator[AttachmentReader]:
        """See Machine."""
        machine = self._machine
        yield AttachmentReader("qemu.json", lambda: describe(machine, sealed=wanted.sealed), required=True)

    def attached_drives(self) -> frozenset[str]:
        """See Machine."""
        return frozenset()

    def lacking(self, *, sealed: bool) -> Iterator[str]:
        """See Machine."""
        if not sealed and self._machine.command_line() is not None:
            yield "qemu.json has no command line, which may hold passwords: the repository is not encrypted"
        if self._machine.has_tpm():
            yield "the point does not hold the state of the TPM"

    def end_stale(self, repository_id: str) -> bool:
        """See Machine."""
        ended = False
        for owner in dict.fromkeys((repository_id, THIRD_PARTIES)):
            found = remains.find(self._machine, owner_prefix(owner))
            for folder in {path.parent for path in found.nodes.values()}:
                runlock.require_dead(self, owner, folder)
            ended |= remains.remove(self._machine, owner_prefix(owner), self._sockets(owner))
            if owner == THIRD_PARTIES:  # checkpoints of dead freezes, whose command did not end
                for path in found.nodes.values():
                    self.delete_checkpoint(scratch.checkpoint_of(path, self.uuid))
        return ended

    def _sockets(self, owner: str) -> tuple[Path, ...]:
        monitor = self._machine.monitor.address.path
        return () if monitor is None else self._sockets_in(monitor.parent, owner)

    def _sockets_in(self, folder: Path, owner: str) -> tuple[Path, ...]:
        return tuple(folder.glob(socket_pattern(owner_prefix(owner), self.uuid)))

    def open_scratch(self, repository_id: str) -> frozenset[Path] | None:
        """See Machine."""
        found = remains.find(self._machine, owner_prefix(repository_id))
        return frozenset(path.parent for path in found.nodes.values()) if found.is_open else None

    def sweep(self, folder: Path, repository_id: str) -> tuple[str, ...]:
        """See Machine. Call it after ``end_stale``: then QEMU uses none of the files."""
        runlock.require_dead(self, repository_id, folder)
        # Behind TCP, the socket is in the scratch directory.
        remains.remove(self._machine, owner_prefix(repository_id), self._sockets_in(folder, repository_id))
        swept = [
            path
            for suffix in (scratch.SUFFIX, runlock.SUFFIX)
            for path in scratch.sweep(folder, repository_id, self.uuid, (), suffix)
        ]
        return tuple(f"deleted scratch file {path} of an earlier run" for path in swept)

    def sweep_secrets(self, repository_ids: Iterable[str]) -> tuple[str, ...]:
        """See Machine: there are none."""
        return ()

    def checkpoints(self) -> tuple[Checkpoint, ...]:
        """See Machine."""
        return checkpoints.list_checkpoints(self._machine)

    def tracked(self, checkpoint: str) -> frozenset[str]:
        """See Machine."""
        found = ((drive, drive.bitmap(checkpoint)) for drive in self._machine.drives())
        return frozenset(drive.disk.target for drive, bitmap in found if bitmap is not None and bitmap.usable)

    def delete_checkpoint(self, name: str) -> None:
        """See Machine."""
        checkpoints.delete(self._machine, name)

    def repair_checkpoints(self, repository_id: str, history: History, tell: Tell) -> None:
        """See Machine. The bitmaps are all that there is, so no record can be lost."""
        for checkpoint in self.checkpoints():
            name = checkpoint.name
            if point_of(name, repository_id) is not None and not history.holds(name):
                self.delete_checkpoint(name)
                tell(f"deleted dirty bitmap {name}: it has no restore point")
