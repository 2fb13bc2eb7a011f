"""A virtual machine as the transaction sees it: the same for libvirt's domains and for a QEMU by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

from puller.backups.bases.history import History
from puller.backups.sources.source import PulledSource, Source
from puller.cancelling import CancelScope
from puller.events import Observer
from puller.host.access import HostAccess
from puller.hypervisor.domain.attachable import MEDIUM_LIMIT
from puller.hypervisor.domain.checkpoint import Checkpoint
from puller.hypervisor.domain.disks.disk import Disk
from puller.hypervisor.guest.agent import Agent
from puller.hypervisor.job.tcp import OverTcp
from puller.repository.repository import Repository

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class SourceRequest:
    """How the disks are to be read; see ``puller.backup``. ``tcp`` is the way to another host, if chosen."""

    mode: str
    scratch_dir: str | None
    staging_dir: str | None
    keep_staging: bool
    tcp: OverTcp | None


@dataclass(frozen=True, slots=True)
class AttachmentReader:
    """Reads an attachment: None if the machine has none. A backup fails without one that is ``required``."""

    name: str
    read: Callable[[], bytes | None]
    required: bool = False


@dataclass(frozen=True, slots=True)
class AttachmentRequest:
    """Which attachments a point gets.

    ``sealed`` is whether the repository is encrypted, ``medium_limit`` how many bytes a medium in a drive may
    have, and ``excluded`` the drives whose media are left out.
    """

    sealed: bool
    medium_limit: int = MEDIUM_LIMIT
    excluded: frozenset[str] = frozenset()


class Machine(Protocol):
    """One virtual machine. Every method raises HypervisorError if its manager fails."""

    @property
    def name(self) -> str:
        """The domain's name."""
        ...

    @property
    def uuid(self) -> str:
        """The domain's UUID."""
        ...

    @property
    def host(self) -> HostAccess:
        """The host where it runs."""
        ...

    @property
    def scope(self) -> CancelScope:
        """The scope of waits."""
        ...

    @property
    def way_to_end(self) -> str:
        """How a user ends an open backup job, as a clause that begins with a verb."""
        ...

    def is_active(self) -> bool:
        """Return whether the machine has a QEMU process, running or paused."""
        ...

    def start_id(self) -> str | None:
        """Return a text that is new after each start of the machine; None if it is shut off."""
        ...

    def disks(self) -> tuple[Disk, ...]:
        """Return all disks."""
        ...

    def select_disks(
        self, include: Sequence[str], exclude: Sequence[str], exclude_if_present: Sequence[str]
    ) -> tuple[Disk, ...]:
        """Return the disks to back up, with facts about their images.

        Raises NoSuchDisk, UnsupportedDisk, also if another machine can write to one.
        """
        ...

    def named_files(self) -> Iterable[str]:
        """Return files that the machine needs and no point holds, such as a kernel, for a note."""
        ...

    def pulled(self, owner: str, disks: Sequence[Disk], scratch_dir: str | None) -> PulledSource:
        """Return a source that pulls ``disks``; ``owner`` is the repository's id in the names."""
        ...

    def source(
        self, repository: Repository, disks: Sequence[Disk], request: SourceRequest, observer: Observer
    ) -> Source:
        """Return the source of ``disks`` for one backup."""
        ...

    def agent(self) -> Agent:
        """Return the guest agent."""
        ...

    def attachments(self, wanted: AttachmentRequest) -> Iterator[AttachmentReader]:
        """Return readers of what a point holds beside disks."""
        ...

    def attached_drives(self) -> frozenset[str]:
        """Return the targets of the drives whose media the attachments hold, or a note says why not."""
        ...

    def lacking(self, *, sealed: bool) -> Iterator[str]:
        """Return notes about what a point never has, or not in this repository."""
        ...

    def end_stale(self, repository_id: str) -> bool:
        """End the job that a dead run of ours, or a dead freeze, left open; return whether there was one.

        Call it with the domain's lock held. Raises JobRunning if the open job is not ours, Locked if it
        belongs to a living run.
        """
        ...

    def open_scratch(self, repository_id: str) -> frozenset[Path] | None:
        """Return the scratch directories of our open job; None if no job of ours is open."""
        ...

    def sweep(self, folder: Path, repository_id: str) -> tuple[str, ...]:
        """Delete what dead runs left in ``folder``; return a notice for each. Raises Locked."""
        ...

    def sweep_secrets(self, repository_ids: Iterable[str]) -> tuple[str, ...]:
        """Remove secrets that dead runs left; return a notice for each."""
        ...

    def checkpoints(self) -> tuple[Checkpoint, ...]:
        """Return all checkpoints, oldest first."""
        ...

    def tracked(self, checkpoint: str) -> frozenset[str]:
        """Return the targets of the disks with an intact bitmap of ``checkpoint``."""
        ...

    def delete_checkpoint(self, name: str) -> None:
        """Delete our checkpoint with its bitmaps. Does nothing if it is gone."""
        ...

    def repair_checkpoints(self, repository_id: str, history: History, tell: Tell) -> None:
        """Delete our checkpoints without a restore point, and mend records, as far as possible now."""
        ...


class MachineHost(Protocol):
    """The connection to whoever manages machines. A context that closes it."""

    uri: str
    scope: CancelScope
    access: HostAccess

    @property
    def label(self) -> str:
        """Who is at the other end, for messages: ``libvirt at qemu:///system``."""
        ...

    def machine(self, name: str) -> Machine:
        """Return the machine of this name or UUID. Raises NoSuchDomain."""
        ...

    def uuids(self) -> dict[str, str]:
        """Return the UUID of every machine by name."""
        ...

    def sources_in_use(self) -> Iterator[tuple[str, str]]:
        """Yield (domain, path) for all storage of the machines that run, backing images included."""
        ...

    def is_alive(self) -> bool:
        """Return whether the connection is alive, as far as is known."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...
