"""Backup: the transaction of docs/architecture.md, one domain, one restore point.

The order of its steps is the promise that puller makes: a point exists only when all it needs is
durable, and a checkpoint goes only when no point needs it any more.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from msgspec import structs

from puller.agent import clock, reconcile
from puller.agent.bases import (
    ASKED,
    Base,
    LiveBitmaps,
    Mark,
    checkpoints_of,
    choose,
    doubted,
    from_nothing,
    kept,
)
from puller.agent.history import History
from puller.agent.metadata import gather
from puller.agent.offline import StoredBitmaps, StoredDisks
from puller.agent.transfer import Transfer
from puller.errors import BaseDamaged, CheckpointUnusable, DamagedData, PullerError
from puller.events import Notice, Observer, Step
from puller.hypervisor import checkpoint as checkpoints
from puller.hypervisor.connection import Host
from puller.hypervisor.disk import Disk
from puller.hypervisor.domain import Domain
from puller.hypervisor.frozen import DiskExport, FrozenDisks
from puller.hypervisor.image import untracked
from puller.hypervisor.job import PullJob, socket_path
from puller.hypervisor.lock import DomainLock, lock_directory
from puller.hypervisor.quiesce import Quiesce, Quiesced
from puller.hypervisor.scratch import check_free, default_directory, required_bytes
from puller.repository.points import Attachment, DiskRecord, Point, Ref, kind_of, new_id
from puller.repository.repository import Repository
from puller.repository.run import Run

FrozenHook = Callable[[Sequence[DiskExport]], None]


def ignore_frozen(exports: Sequence[DiskExport]) -> None:
    """The hook that does nothing."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be backed up. ``disks`` empty means all that hold data; ``full`` ignores earlier points."""

    domain: str
    connect: str
    disks: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    full: bool = False
    scratch_dir: str | None = None
    quiesce: Quiesce = Quiesce.AUTO
    tags: dict[str, str] | None = None


def backup(repository: Repository, plan: Plan, observer: Observer, on_frozen: FrozenHook) -> Point:
    """See ``puller.backup``."""
    with Host.connect(plan.connect) as host:
        domain = host.domain(plan.domain)
        disks = domain.select_disks(plan.disks, plan.exclude)
        with DomainLock(domain.uuid, domain.name, lock_directory()):
            transaction = _Transaction(repository, plan, domain, disks, observer, on_frozen)
            try:
                return transaction.run()
            except BaseDamaged as error:
                doubt = f"the last point is damaged: {error.message}"
            except CheckpointUnusable as error:
                # What libvirt said of the bitmaps did not hold when the job was to begin.
                doubt = error.message
            return transaction.run(doubt)


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
        self._is_off = not domain.is_active()
        self._untracked = frozenset(disk.target for disk in disks if untracked(disk) is not None)
        self._observer = observer
        self._on_frozen = on_frozen
        self._scratch = (
            default_directory(disks, domain.state_directory)
            if plan.scratch_dir is None
            else Path(plan.scratch_dir)
        )
        self._began = time.monotonic()

    def run(self, doubt: str = "") -> Point:
        """Take the point; whatever fails, leave nothing of this run behind.

        ``doubt`` is why no bitmap and no map of an earlier point is to be built upon, if so.
        """
        self._step("reconcile")
        folders = {self._scratch, *(disk.path.parent for disk in self._disks if disk.path)}
        history = History(self._repository, self._domain.uuid)
        reconcile.reconcile(self._domain, self._repository, history, folders, self._observer)
        self._step("choose")
        bases = doubted(self._choose(history), doubt) if doubt else self._choose(history)
        self._step("preflight")
        if not self._is_off:
            sizes = (self._domain.disk_size(disk.target) for disk in self._disks)
            check_free(self._scratch, required_bytes(sizes))
        # Before the job: it reads what is new in the index, while nothing keeps the guest's old blocks.
        with self._repository.run() as run:
            point = self._take_upon(run, bases)
        if point.checkpoint is not None and not self._is_off:
            self._step("retire")
            reconcile.retire(self._domain, self._repository, point.checkpoint)
        return point

    def _choose(self, history: History) -> dict[str, Base]:
        if self._plan.full:
            return from_nothing(self._disks, ASKED)
        if self._is_off:
            stored = StoredBitmaps(self._domain, self._disks, self._repository.id)
            return choose(history, self._disks, stored)
        return choose(history, self._disks, LiveBitmaps(self._domain, self._repository.id))

    def _take_upon(self, run: Run, bases: dict[str, Base]) -> Point:
        """Take the point. Raises BaseDamaged where a full run would fare better."""
        try:
            return self._take(run, bases)
        except DamagedData as error:
            if all(base.checkpoint is None for base in bases.values()):
                raise
            # A run that is open reads nothing stored but the parents: their maps and their records.
            raise BaseDamaged(error.message, advice=error.advice) from error

    def _take(self, run: Run, bases: dict[str, Base]) -> Point:
        """Begin the job, copy, commit and end it."""
        self._step("begin")
        moment = clock.next_moment(self._repository, self._domain.uuid, self._domain.name, self._observer)
        point_id = new_id(moment)
        checkpoint = checkpoints.checkpoint_name(self._repository.id, point_id)
        disks = self._quiesced(self._freeze(checkpoint, bases))
        with self._undone_unless_committed(checkpoint) as commit, disks as frozen:
            records, attachments = self._copy(run, frozen, bases)
            mark = self._mark(checkpoint, bases)
            point = self._point(point_id, moment, mark, records, attachments)
            point = structs.replace(
                point, consistency=frozen.consistency, freeze_seconds=frozen.freeze_seconds
            )
            self._step("commit")
            commit(run, point)
            clock.compare(run.clock_ahead, self._domain.name, self._observer)
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
        if self._is_off:
            self._notice("shut off: its images are read, and it cannot be started before that is done")
            return StoredDisks(self._domain, self._disks, bases)
        socket = socket_path(self._domain, checkpoint)
        return PullJob(
            self._domain, checkpoints_of(bases), checkpoint, self._scratch, socket, self._untracked
        )

    def _quiesced(self, disks: FrozenDisks) -> Quiesced:
        return Quiesced(self._domain, self._plan.connect, disks, self._plan.quiesce, self._notice)

    def _notice(self, text: str) -> None:
        self._observer(Notice(self._domain.name, text))

    def _copy(
        self, run: Run, frozen: FrozenDisks, bases: dict[str, Base]
    ) -> tuple[tuple[DiskRecord, ...], tuple[Attachment, ...]]:
        """Read all disks into the repository; return once everything is durable."""
        self._on_frozen(frozen.exports)
        self._step("read")
        with Transfer(run, self._domain.name, self._observer) as transfer:
            transfer.read_all(frozen.exports, bases)
            frozen.confirm()
            self._step("store")
            records = transfer.finish({disk.target: disk for disk in self._disks})
            attachments = self._attach(run)
            run.flush()
        return records, attachments

    def _attach(self, run: Run) -> tuple[Attachment, ...]:
        sealed = self._repository.keys.public is not None
        found = gather(self._domain, self._disks, self._observer, sealed=sealed)
        return tuple(Attachment(name, len(body), Ref.to(run.attach(body))) for name, body in found)

    def _mark(self, checkpoint: str, bases: dict[str, Base]) -> Mark:
        """The checkpoint that tells later runs what changed since this point."""
        if self._is_off:
            return kept(bases)
        if len(self._untracked) == len(self._disks):
            return Mark(None, None)
        return Mark(checkpoint, checkpoints.xml(self._domain, checkpoint))

    def _point(
        self,
        point_id: str,
        moment: datetime,
        mark: Mark,
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
            checkpoint=mark.checkpoint,
            checkpoint_xml=mark.xml,
            tags=self._plan.tags or {},
            host=platform.node(),
            seconds=round(time.monotonic() - self._began, 3),
            attachments=attachments,
        )
