"""Backup: the transaction of docs/architecture.md, one domain, one restore point.

The order of its steps is the promise that puller makes: a point exists only when all it needs is
durable, and a checkpoint goes only when no point needs it any more.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from puller.agent import reconcile
from puller.agent.bases import Base, choose
from puller.agent.transfer import Transfer
from puller.errors import DamagedData, PullerError
from puller.events import Notice, Observer, Step
from puller.hypervisor import checkpoint as checkpoints
from puller.hypervisor.connection import Host
from puller.hypervisor.disk import Disk
from puller.hypervisor.domain import Domain
from puller.hypervisor.frozen import DiskExport, FrozenDisks
from puller.hypervisor.job import PullJob, socket_path
from puller.hypervisor.lock import DomainLock, lock_directory
from puller.hypervisor.scratch import check_free, default_directory, required_bytes
from puller.repository.points import Attachment, DiskRecord, Point, Ref, kind_of, new_id
from puller.repository.repository import Repository
from puller.repository.run import Run, Tuning

FrozenHook = Callable[[Sequence[DiskExport]], None]


def ignore_frozen(exports: Sequence[DiskExport]) -> None:
    """The hook that does nothing."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be backed up, and how.

    ``disks`` empty means all that hold data; ``full`` ignores earlier points. ``read_rate`` is in bytes a
    second, of all disks together.
    """

    domain: str
    connect: str
    disks: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    full: bool = False
    scratch_dir: str | None = None
    tags: dict[str, str] | None = None
    tuning: Tuning | None = None
    read_rate: int | None = None


def backup(repository: Repository, plan: Plan, observer: Observer, on_frozen: FrozenHook) -> Point:
    """See ``puller.backup``."""
    with Host.connect(plan.connect) as host:
        domain = host.domain(plan.domain)
        domain.require_active()
        disks = domain.select_disks(plan.disks, plan.exclude)
        with DomainLock(domain.uuid, domain.name, lock_directory()):
            try:
                return _Transaction(repository, plan, domain, disks, observer, on_frozen).run()
            except DamagedData as error:
                if plan.full:
                    raise
                # Only an incremental reads what is stored: a page of the parent's map is damaged.
                text = f"the last point is damaged, so all disks are read in full: {error.message}"
                observer(Notice(domain.name, text))
            again = replace(plan, full=True)
            return _Transaction(repository, again, domain, disks, observer, on_frozen).run()


class _Transaction:
    """One run over one domain."""

    def __init__(  # noqa: PLR0913, PLR0917 - what a run is made of
        self,
        repository: Repository,
        plan: Plan,
        domain: Domain,
        disks: Sequence[Disk],
        observer: Observer,
        on_frozen: FrozenHook,
    ) -> None:
        self._repository = repository
        self._plan = plan
        self._domain = domain
        self._disks = disks
        self._observer = observer
        self._on_frozen = on_frozen
        self._scratch = (
            default_directory(disks, domain.state_directory)
            if plan.scratch_dir is None
            else Path(plan.scratch_dir)
        )
        self._began = time.monotonic()

    def run(self) -> Point:
        """Take the point; whatever fails, leave nothing of this run behind."""
        self._step("reconcile")
        folders = {self._scratch, *(disk.path.parent for disk in self._disks if disk.path)}
        reconcile.reconcile(self._domain, self._repository, folders, self._observer)
        self._step("choose")
        bases = {} if self._plan.full else choose(self._domain, self._repository, self._disks)
        self._step("preflight")
        check_free(self._scratch, required_bytes(self._domain.disk_size(disk.target) for disk in self._disks))
        # Before the job: it reads what is new in the index, while nothing keeps the guest's old blocks.
        with self._repository.run(self._plan.tuning) as run:
            point = self._take(run, bases)
        self._step("retire")
        reconcile.retire(self._domain, self._repository, str(point.checkpoint))
        return point

    def _take(self, run: Run, bases: dict[str, Base]) -> Point:
        """Begin the job, copy, commit and end it."""
        self._step("begin")
        moment = datetime.now(UTC)
        point_id = new_id(moment)
        checkpoint = checkpoints.checkpoint_name(self._repository.id, point_id)
        with self._undone_unless_committed(checkpoint) as commit, self._freeze(checkpoint, bases) as frozen:
            records, attachments = self._copy(run, frozen, bases)
            point = self._point(point_id, moment, checkpoint, records, attachments)
            self._step("commit")
            commit(run, point)
            self._step("end")
        return point

    def _step(self, name: str) -> None:
        self._observer(Step(self._domain.name, name))

    @contextmanager
    def _undone_unless_committed(self, checkpoint: str) -> Iterator[Callable[[Run, Point], None]]:
        """Delete the new checkpoint on failure: its changes count in the older one all along."""
        committed = False

        def commit(run: Run, point: Point) -> None:
            nonlocal committed
            run.commit(point)
            committed = True

        try:
            yield commit
        except BaseException:
            if not committed:
                self._delete(checkpoint)
            raise

    def _delete(self, checkpoint: str) -> None:
        try:
            checkpoints.delete(self._domain, checkpoint)
        except PullerError as error:
            text = f"checkpoint {checkpoint} could not be deleted now; the next run will: {error.message}"
            self._observer(Notice(self._domain.name, text))

    def _freeze(self, checkpoint: str, bases: dict[str, Base]) -> FrozenDisks:
        taken_from = {
            disk.target: bases[disk.target].checkpoint if disk.target in bases else None
            for disk in self._disks
        }
        socket = socket_path(self._domain, checkpoint)
        return PullJob(self._domain, taken_from, checkpoint, self._scratch, socket)

    def _copy(
        self, run: Run, frozen: FrozenDisks, bases: dict[str, Base]
    ) -> tuple[tuple[DiskRecord, ...], tuple[Attachment, ...]]:
        """Read all disks into the repository; return once everything is durable."""
        self._on_frozen(frozen.exports)
        self._step("read")
        with Transfer(run, self._domain.name, self._observer, self._plan.read_rate) as transfer:
            transfer.read_all(frozen.exports, bases)
            self._step("store")
            records = transfer.finish({disk.target: disk for disk in self._disks})
            attachments = (self._attach(run, "domain.xml", self._domain_xml().encode()),)
            run.flush()
        self._tell_effort(run)
        return records, attachments

    def _tell_effort(self, run: Run) -> None:
        summary = run.effort.summary()
        if summary is not None:
            self._observer(Notice(self._domain.name, summary))

    def _domain_xml(self) -> str:
        """With the guest's passwords only where the repository encrypts them."""
        sealed = self._repository.keys.public is not None
        return self._domain.secure_xml() if sealed else self._domain.inactive_xml()

    @staticmethod
    def _attach(run: Run, name: str, content: bytes) -> Attachment:
        return Attachment(name, len(content), Ref.to(run.attach(content)))

    def _point(
        self,
        point_id: str,
        moment: datetime,
        checkpoint: str,
        records: tuple[DiskRecord, ...],
        attachments: tuple[Attachment, ...],
    ) -> Point:
        return Point(
            point=point_id,
            domain=self._domain.name,
            uuid=self._domain.uuid,
            time=moment,
            mode="pull",
            kind=kind_of(records),
            disks=records,
            parent=max((record.parent for record in records if record.parent), default=None),
            checkpoint=checkpoint,
            checkpoint_xml=checkpoints.xml(self._domain, checkpoint),
            tags=self._plan.tags or {},
            host=platform.node(),
            seconds=round(time.monotonic() - self._began, 3),
            attachments=attachments,
        )
