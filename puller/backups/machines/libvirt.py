"""A domain of libvirt, as a backup needs it: see ``puller.backups.machines.machine``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Self

from puller.backups.bases.history import History
from puller.backups.machines import records
from puller.backups.machines.machine import AttachmentReader, AttachmentRequest, SourceRequest, Tell
from puller.backups.machines.variables import read_variables
from puller.backups.sources.offline import Offline
from puller.backups.sources.push import Push
from puller.backups.sources.source import Pull, PulledSource, Source
from puller.backups.sources.ways import is_root, way_to
from puller.cancelling import CancelScope
from puller.errors import UsageError
from puller.events import Notice, Observer
from puller.hypervisor import secret
from puller.hypervisor.connection import Host
from puller.hypervisor.domain import attachable, firmware
from puller.hypervisor.domain import checkpoint as checkpoints
from puller.hypervisor.domain.checkpoint import Checkpoint
from puller.hypervisor.domain.disks.disk import Disk
from puller.hypervisor.domain.disks.image import with_stored_chain
from puller.hypervisor.domain.domain import Domain
from puller.hypervisor.domain.facts import with_facts
from puller.hypervisor.domain.hostfiles import HostFile, attached_files, named_files
from puller.hypervisor.guest.guestagent import DomainAgent
from puller.hypervisor.job import openjob
from puller.hypervisor.shared import refuse_shared
from puller.hypervisor.space.scratch import default_directory
from puller.repository.repository import Repository


class LibvirtHost:
    """See MachineHost."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self.uri = host.uri
        self.scope = host.scope
        self.access = host.access
        self.label = f"libvirt at {host.uri}"

    def machine(self, name: str) -> LibvirtMachine:
        """See MachineHost."""
        return LibvirtMachine(self._host, self._host.domain(name))

    def uuids(self) -> dict[str, str]:
        """See MachineHost."""
        return self._host.uuids()

    def sources_in_use(self) -> Iterator[tuple[str, str]]:
        """See MachineHost."""
        return self._host.sources_in_use()

    def is_alive(self) -> bool:
        """See MachineHost."""
        return self._host.is_alive()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._host.close()


class LibvirtMachine:
    """See Machine."""

    def __init__(self, host: Host, domain: Domain) -> None:
        self._host = host
        self._domain = domain
        self.name = domain.name
        self.uuid = domain.uuid
        self.host = domain.host
        self.way_to_end = f"run 'virsh domjobabort {domain.name}'"

    @property
    def scope(self) -> CancelScope:
        """See Machine."""
        return self._domain.scope

    def is_active(self) -> bool:
        """See Machine."""
        return self._domain.is_active()

    def start_id(self) -> str | None:
        """See Machine."""
        return None if self._domain.has_ended() else self._domain.start_id()

    def disks(self) -> tuple[Disk, ...]:
        """See Machine."""
        return self._domain.disks()

    def select_disks(
        self, include: Sequence[str], exclude: Sequence[str], exclude_if_present: Sequence[str]
    ) -> tuple[Disk, ...]:
        """See Machine. Raises UsageError for a shut-off domain whose images puller cannot reach."""
        domain = self._domain
        disks = with_facts(domain, domain.select_disks(include, exclude, exclude_if_present))
        if not domain.is_active():
            if disks:
                self._require_files()
            disks = tuple(with_stored_chain(disk, domain.scope, domain.host) for disk in disks)
        refuse_shared(self._host, domain, disks)
        return disks

    def named_files(self) -> Iterable[str]:
        """See Machine."""
        held = {file.label for file in self._files()}
        return [text for text in named_files(self._domain.xml()) if text not in held]

    def _files(self) -> tuple[HostFile, ...]:
        return attached_files(self._domain.inactive_xml())

    def pulled(self, owner: str, disks: Sequence[Disk], scratch_dir: str | None) -> PulledSource:
        """See Machine. Raises UsageError where puller cannot reach QEMU's socket."""
        domain = self._domain
        if not domain.is_active():
            return Offline(domain, disks, owner, self._folder(disks, scratch_dir))
        if not domain.host.has_files or not is_root(domain):
            raise UsageError(
                f"cannot freeze domain {domain.name} on host {domain.host.name}: only root can reach QEMU's "
                "socket there, through ssh",
                advice="Connect with qemu+ssh://root@HOST/system, or run puller on that host.",
            )
        return Pull(domain, disks, owner, self._folder(disks, scratch_dir))

    def _require_files(self) -> None:
        if not self._domain.host.has_files:
            raise UsageError(
                f"cannot read images of domain {self._domain.name}: puller has no way to the files of host "
                f"{self._domain.host.name}",
                advice="Pull the domain while it runs, connect with qemu+ssh://, or run puller on its host.",
            )

    def source(
        self, repository: Repository, disks: Sequence[Disk], request: SourceRequest, observer: Observer
    ) -> Source:
        """See Machine. Raises UsageError where images would have to be read that puller cannot reach."""
        domain = self._domain
        scratch = self._folder(disks, request.scratch_dir)
        if not disks:
            return Source(disks, scratch)
        if request.mode != Pull.mode or not domain.is_active():
            self._require_files()
        if not domain.is_active():
            text = (
                "the domain is shut off: puller reads its images, and it cannot be started until that is done"
            )
            observer(Notice(domain.name, text))
            return Offline(domain, disks, repository.id, scratch)
        if request.mode == Pull.mode:
            way, notice = way_to(domain, request.tcp)
            if notice is not None:
                observer(Notice(domain.name, notice))
            return Pull(domain, disks, repository.id, scratch, way)
        if not is_root(domain):
            raise UsageError(
                f"cannot read pushed images of domain {domain.name}: the user of ssh on host "
                f"{domain.host.name} is not root",
                advice="Connect as root, or pull the disks over TLS with --nbd-tls DIR.",
            )
        staging = scratch if request.staging_dir is None else Path(request.staging_dir)
        return Push(domain, disks, repository, staging, request.keep_staging, observer)

    def _folder(self, disks: Sequence[Disk], scratch_dir: str | None) -> Path:
        if scratch_dir is not None:
            return Path(scratch_dir)
        return default_directory(disks, self._domain.state_directory)

    def agent(self) -> DomainAgent:
        """See Machine."""
        return DomainAgent(self._domain, self._host.uri)

    def attachments(self, wanted: AttachmentRequest) -> Iterator[AttachmentReader]:
        """See Machine."""
        domain, sealed = self._domain, wanted.sealed
        read_definition = domain.secure_xml if sealed else domain.inactive_xml
        yield AttachmentReader("domain.xml", lambda: read_definition().encode(), required=True)
        if domain.is_active():
            yield AttachmentReader("live.xml", lambda: domain.xml().encode())
        yield AttachmentReader("nvram.fd", lambda: read_variables(domain))
        yield AttachmentReader("varstore.json", lambda: firmware.varstore(domain))
        if sealed:
            yield AttachmentReader("tpm.tar", lambda: firmware.tpm(domain))
        yield AttachmentReader("snapshots.xml", lambda: attachable.snapshots_xml(domain, sealed=sealed))
        yield AttachmentReader("checkpoints.xml", lambda: attachable.checkpoints_xml(domain, sealed=sealed))
        for file in self._files():
            if file.target not in wanted.excluded:
                read = partial(attachable.read_file, domain, file, wanted.medium_limit)
                yield AttachmentReader(file.name, read)

    def attached_drives(self) -> frozenset[str]:
        """See Machine. A running domain may have another medium in a drive than it starts with."""
        paths = {file.target: file.path for file in self._files() if file.target}
        return frozenset(
            disk.target for disk in self._domain.disks() if paths.get(disk.target) == (disk.path or Path())
        )

    def lacking(self, *, sealed: bool) -> Iterator[str]:
        """See Machine."""
        if not sealed and firmware.has_tpm(self._domain):
            yield "the point has no tpm.tar: the repository is not encrypted"

    def end_stale(self, repository_id: str) -> bool:
        """See Machine."""
        return openjob.end_stale(self._domain, repository_id)

    def open_scratch(self, repository_id: str) -> frozenset[Path] | None:
        """See Machine."""
        job = openjob.open_job(self._domain)
        if job is None or not openjob.is_ours(job, repository_id):
            return None
        return frozenset(path.parent for path in job.scratch)

    def sweep(self, folder: Path, repository_id: str) -> tuple[str, ...]:
        """See Machine."""
        swept = openjob.sweep_scratch(self._domain, folder, repository_id)
        return tuple(f"deleted scratch file {path} of an earlier run" for path in swept)

    def sweep_secrets(self, repository_ids: Iterable[str]) -> tuple[str, ...]:
        """See Machine."""
        swept = secret.sweep_secrets(self._domain, repository_ids)
        return tuple(f"removed libvirt's secret {usage} of an earlier run" for usage in swept)

    def checkpoints(self) -> tuple[Checkpoint, ...]:
        """See Machine."""
        return checkpoints.list_checkpoints(self._domain)

    def tracked(self, checkpoint: str) -> frozenset[str]:
        """See Machine."""
        return frozenset(checkpoints.dirty_bytes(self._domain, checkpoint))

    def delete_checkpoint(self, name: str) -> None:
        """See Machine."""
        checkpoints.delete(self._domain, name)

    def repair_checkpoints(self, repository_id: str, history: History, tell: Tell) -> None:
        """See Machine. libvirt deletes and redefines no checkpoint of a domain that is shut off."""
        if self._domain.is_active():
            records.delete_orphans(self._domain, repository_id, history, tell)
            records.recover(self._domain, repository_id, history, tell)
