"""Backup: the transaction of docs/architecture.md, one domain, one restore point.

The order of its steps is puller's guarantee: a point exists only once all its data is durable, and a
checkpoint is deleted only once no point needs it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from msgspec import structs

from puller.backups import clock, reconcile
from puller.backups.aftermath import Aftermath
from puller.backups.bases.bases import (
    ASKED,
    COMPARED,
    Base,
    from_nothing,
    overdue,
    without_bitmaps,
    without_damage,
)
from puller.backups.bases.history import History
from puller.backups.machines.connecting import connect
from puller.backups.machines.machine import AttachmentRequest, Machine, SourceRequest
from puller.backups.metadata import AttachmentSnapshot
from puller.backups.notes import Notes
from puller.backups.omissions import omissions, unreached
from puller.backups.sources.push import Push
from puller.backups.sources.source import Pull, Source
from puller.backups.transfer import Transfer
from puller.backups.unfinished import refuse_half_rolled_back
from puller.configuration.quantities import Pace
from puller.errors import (
    BaseDamaged,
    CheckpointUnusable,
    DamagedData,
    HypervisorError,
    Interrupted,
    NbdError,
    StoreUnavailable,
)
from puller.events import Committed, Notice, Observer, Step
from puller.hypervisor.domain import checkpoint as checkpoints
from puller.hypervisor.domain.attachable import MEDIUM_LIMIT
from puller.hypervisor.domain.disks.disk import Disk
from puller.hypervisor.guest.quiesce import Quiesced
from puller.hypervisor.guest.quiescing import QUIESCED_IF_POSSIBLE, Quiescing
from puller.hypervisor.job.frozen import DiskExport
from puller.hypervisor.job.tcp import OverTcp
from puller.hypervisor.locking.lock import domain_held
from puller.hypervisor.locking.runlock import RunLock
from puller.repository.points import (
    Attachment,
    DiskRecord,
    GuestCommandRecord,
    Point,
    Ref,
    kind_of,
    new_id,
    newest_of,
)
from puller.repository.repository import Repository
from puller.repository.writing.run import Run, Tuning
from puller.store.parallel import beside

PULL = Pull.mode
PUSH = Push.mode

FrozenHook = Callable[[Sequence[DiskExport]], None]
Chooser = Callable[[History], dict[str, Base]]


def ignore_frozen(exports: Sequence[DiskExport]) -> None:
    """Do nothing: the default hook."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Choices of a backup.

    Empty ``disks`` means all disks that hold data; the domain need not have those of ``exclude_if_present``.
    ``full`` ignores earlier points, ``compare`` reads all of the disks and compares them with earlier points,
    ``compare_every`` does so for disks whose last whole read is older. ``mode`` is ``pull`` or ``push``; the
    staging directory holds the images of a push until they are stored. Without ``checkpoint``, the run
    creates none. ``pace`` is for all disks together. ``tcp`` reads the disks of another host
    over TCP. ``attach_limit`` is how many bytes a medium in a drive may have for the point to hold it.
    """

    domain: str
    connect: str
    disks: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    exclude_if_present: tuple[str, ...] = ()
    full: bool = False
    compare: bool = False
    compare_every: timedelta | None = None
    scratch_dir: str | None = None
    mode: str = PULL
    quiescing: Quiescing = QUIESCED_IF_POSSIBLE
    staging_dir: str | None = None
    keep_staging: bool = False
    checkpoint: bool = True
    tags: dict[str, str] | None = None
    tuning: Tuning | None = None
    pace: Pace = "gentle"
    tcp: OverTcp | None = None
    attach_limit: int = MEDIUM_LIMIT


def backup(repository: Repository, plan: Plan, observer: Observer, on_frozen: FrozenHook) -> Point:
    """See ``puller.backup``."""

    def tell(text: str) -> None:
        observer(Notice(plan.domain, text))

    scope = repository.scope.working(tell)
    repository = repository.within(scope)
    with connect(plan.connect, scope) as host:
        domain = host.machine(plan.domain)
        disks = domain.select_disks(plan.disks, plan.exclude, plan.exclude_if_present)
        with domain_held(domain):
            refuse_half_rolled_back(domain, disks)
            source = _source(repository, plan, domain, disks, observer)
            if not plan.checkpoint:
                source.omit_checkpoint()
            folders = _folders(plan, disks) | {source.folder}
            with Aftermath(host, domain, repository.id, folders, observer) as aftermath:
                transaction = _Transaction(
                    repository, plan, domain, disks, source, aftermath, folders, observer, on_frozen
                )
                transaction.note(_omissions(domain, plan))
                transaction.note(unreached(domain))
                point = _attempt(transaction, plan, disks, source, observer)
                transaction.retire(point)
                return point


def _attach(run: Run, snapshot: AttachmentSnapshot) -> Iterator[Attachment]:
    for name, body in snapshot.contents.items():
        yield Attachment(name, len(body), Ref.to(run.attach(body)), snapshot.times[name])


def is_stop(error: BaseException) -> bool:
    """Whether a signal ended the run.

    In a thread of a batch it appears as an error of puller. In the main thread a failure to clean up may have
    replaced the exception that the signal raised.
    """
    met: list[BaseException] = []
    found: BaseException | None = error
    while isinstance(found, Exception | GeneratorExit) and found not in met:
        if isinstance(found, Interrupted):
            return True
        met.append(found)
        found = found.__cause__ or found.__context__
    return found is not None and found not in met


def _omissions(domain: Machine, plan: Plan) -> Iterator[str]:
    """Note what the point will not hold."""
    excluded = {*plan.exclude, *plan.exclude_if_present}
    attached = domain.attached_drives()
    others = [disk for disk in domain.disks() if disk.target not in attached]
    return omissions(domain.named_files(), others, plan.disks, excluded)


def _folders(plan: Plan, disks: Sequence[Disk]) -> set[Path]:
    """Directories where earlier runs may have left files: also named ones that this run does not use."""
    named = {Path(folder) for folder in (plan.scratch_dir, plan.staging_dir) if folder is not None}
    return named | {disk.path.parent for disk in disks if disk.path}


def _attempt(
    transaction: _Transaction, plan: Plan, disks: Sequence[Disk], source: Source, observer: Observer
) -> Point:
    """Retry with a read of all data if the base turns out to be unusable."""
    if plan.full:
        return transaction.run(lambda history: from_nothing(disks, ASKED))
    if plan.compare:
        return transaction.run(lambda history: without_bitmaps(source.bases(history), COMPARED))
    try:
        return transaction.run(lambda history: _bases(source, history, plan.compare_every))
    except BaseDamaged as error:
        doubt = f"the last point is damaged: {error.message}"
        observer(Notice(plan.domain, f"{doubt}: the run starts again and reads all data of the disks"))
    except CheckpointUnusable as error:
        # The bitmaps were usable when libvirt was asked, but not at the start of the job.
        doubt = error.message
    return transaction.run(lambda history: without_bitmaps(source.bases(history), doubt))


def _bases(source: Source, history: History, every: timedelta | None) -> dict[str, Base]:
    bases = source.bases(history)
    return bases if every is None else overdue(history, bases, every, datetime.now(UTC))


def _source(
    repository: Repository, plan: Plan, domain: Machine, disks: Sequence[Disk], observer: Observer
) -> Source:
    if not disks:
        observer(Notice(domain.name, "no disk to back up: the point holds only the configuration"))
    request = SourceRequest(plan.mode, plan.scratch_dir, plan.staging_dir, plan.keep_staging, plan.tcp)
    return domain.source(repository, disks, request, observer)


class _Transaction:
    """One run over one domain."""

    def __init__(  # noqa: PLR0913, PLR0917 - the parts of a run
        self,
        repository: Repository,
        plan: Plan,
        domain: Machine,
        disks: Sequence[Disk],
        source: Source,
        aftermath: Aftermath,
        folders: Iterable[Path],
        observer: Observer,
        on_frozen: FrozenHook,
    ) -> None:
        self._repository = repository
        self._plan = plan
        self._domain = domain
        self._disks = disks
        self._source = source
        self._aftermath = aftermath
        self._folders = folders
        self._observer = observer
        self._on_frozen = on_frozen
        self._notes = Notes(domain.name, observer)
        self._began = time.monotonic()
        self._committed: Point | None = None

    def run(self, choose: Chooser) -> Point:
        """Take the point; after a failure, leave nothing of this run behind.

        Raises BaseDamaged or CheckpointUnusable if reading all of the disks may succeed.
        """
        self._step("reconcile")
        repository = self._repository
        # Before the job: this reads what is new in the index, and must not keep a job open meanwhile.
        with beside(repository.scope, lambda own: repository.within(own).prepare()) as preparing:
            history = History(repository, self._domain.uuid)
            reconcile.reconcile(self._domain, repository, history, self._folders, self._observer)
            self._step("choose")
            chosen = choose(history)
            prepared = preparing()
        bases = without_damage(repository, chosen)
        self._step("preflight")
        self._source.check_room(bases)
        return self._take_upon(repository.run(self._plan.tuning, prepared=prepared), bases, history)

    def note(self, texts: Iterable[str]) -> None:
        """Store ``texts`` in the point as notes."""
        for text in texts:
            self._notes.add(text)

    def retire(self, point: Point) -> None:
        """Delete the checkpoints that the committed ``point`` makes superfluous. A failure is only noted."""
        checkpoint = checkpoints.checkpoint_name(self._repository.id, point.point)
        if point.checkpoint != checkpoint:
            return
        try:
            self._step("retire")
            reconcile.retire(self._domain, self._repository, checkpoint)
        except HypervisorError as error:
            self._notice(f"the next run will delete older checkpoints: {error.message}")

    def _take_upon(self, run: Run, bases: dict[str, Base], history: History) -> Point:
        try:
            # Inside: an error of a thread of the run is raised only when the run is left.
            with run:
                return self._take(run, bases, history)
        except DamagedData as error:
            if all(base.checkpoint is None for base in bases.values()):
                raise
            # An open run reads no stored data except maps and records of the parents.
            raise BaseDamaged(error.message, advice=error.advice) from error
        except (HypervisorError, NbdError, OSError) as error:
            if self._committed is None:
                raise
            stopped = is_stop(error)
            self._aftermath.keep_point(error, self._committed, stopped=stopped)
            if stopped:
                raise
            return self._committed

    def _take(self, run: Run, bases: dict[str, Base], history: History) -> Point:
        """Freeze, copy, commit and release the disks."""
        self._rely_on(run, bases)
        self._step("begin")
        domain, host = self._domain, self._domain.host.node_name()
        moment = clock.next_moment(history, domain.name, self._observer, host)
        draft = Point(
            point=new_id(moment),
            domain=self._domain.name,
            uuid=self._domain.uuid,
            time=moment,
            mode=self._source.mode,
            kind="",
            disks=(),
            tags=self._plan.tags or {},
            host=host,
        )
        self._note_plain()
        checkpoint = checkpoints.checkpoint_name(self._repository.id, draft.point)
        disks = self._source.freeze(bases, checkpoint, draft.point)
        plan = self._plan
        quiesced = Quiesced(self._domain.agent(), disks, plan.quiescing, self._notice, run.flow.fail)
        with (
            self._undone_unless_committed(checkpoint) as commit,
            RunLock(self._source.folder, checkpoint, self._domain),
            quiesced as frozen,
        ):
            snapshot = AttachmentSnapshot(self._domain, self._disks, self._notes, self._attachments)
            records, attachments = self._copy(run, frozen, bases, snapshot)
            snapshot.compare(self._notes)
            mark = self._source.mark(bases, checkpoint)
            point = structs.replace(
                draft,
                time=max(draft.time, frozen.frozen_at),
                kind=kind_of(records),
                disks=records,
                parent=newest_of(base.parent.point for base in bases.values() if base.parent),
                previous=next((earlier.point for earlier in history), None),
                checkpoint=mark.checkpoint,
                checkpoint_xml=mark.xml,
                consistency=frozen.consistency,
                freeze_seconds=frozen.freeze_seconds,
                guest_commands=tuple(GuestCommandRecord(**asdict(run)) for run in frozen.guest_runs),
                scratch_peak=frozen.scratch_used(),
                attachments=attachments,
                notes=self._notes.texts,
                seconds=round(time.monotonic() - self._began, 3),
            )
            self._step("commit")
            point = commit(run, point)
            if run.locks.gap is not None:
                self._notice(
                    f"the point is not locked, because something that it needs is not: {run.locks.gap}"
                )
            clock.compare(run.clock_ahead, self._domain.name, self._observer)
            self._step("end")
        return point

    def _rely_on(self, run: Run, bases: dict[str, Base]) -> None:
        """Lock what the bases need for the required time, before a job is open."""
        for base in bases.values():
            if base.parent is not None:
                with suppress(DamagedData):  # an address that is none: the run meets it again
                    run.rely_on(base.parent.point, base.parent.record.root.address)

    def _note_plain(self) -> None:
        """Note that a point holds the decrypted content of an encrypted disk."""
        if self._repository.keys.public is None:
            for disk in self._disks:
                if disk.lock is not None:
                    self._notes.add(
                        f"disk {disk.target} is encrypted on its host, "
                        "but its content is stored unencrypted: "
                        "the repository is not encrypted"
                    )

    def _step(self, name: str) -> None:
        self._observer(Step(self._domain.name, name))

    def _notice(self, text: str) -> None:
        self._observer(Notice(self._domain.name, text))

    @contextmanager
    def _undone_unless_committed(self, checkpoint: str) -> Iterator[Callable[[Run, Point], Point]]:
        """Delete the new checkpoint on failure; the older one records its changes too."""

        def commit(run: Run, point: Point) -> Point:
            try:
                sealed = run.commit(point)
            except BaseException as error:
                # The put may have taken effect before the signal, or before the store became silent (as a
                # signal in a batch appears). Then the checkpoint belongs to the point.
                unknown = is_stop(error) or isinstance(error, StoreUnavailable)
                if unknown and self._repository.points.holds(point):
                    self._stored(point)
                raise
            self._stored(sealed)
            return sealed

        self._aftermath.checkpoint = checkpoint
        try:
            yield commit
        except BaseException:
            self._aftermath.delete()
            raise

    def _stored(self, point: Point) -> None:
        self._aftermath.checkpoint = None
        self._committed = point
        self._observer(Committed(self._domain.name, point))

    def _copy(
        self, run: Run, frozen: Quiesced, bases: dict[str, Base], snapshot: AttachmentSnapshot
    ) -> tuple[tuple[DiskRecord, ...], tuple[Attachment, ...]]:
        """Read all disks into the repository; return once everything is durable."""
        frozen.settle()
        self._on_frozen(frozen.exports)
        self._step("read")
        attachments: list[Attachment] = []
        # Beside the disks: they share no content, and each costs some requests.
        attaching = run.flow.spawn("attach", lambda: attachments.extend(_attach(run, snapshot)))
        with Transfer(self._repository, run, self._domain.name, self._observer, self._plan.pace) as transfer:
            transfer.read_all(frozen.exports, bases)
            frozen.confirm()
            self._step("store")
            records = transfer.finish({disk.target: disk for disk in self._disks})
            attaching.join()
            run.store()
        self._tell_effort(run)
        return records, tuple(attachments)

    def _tell_effort(self, run: Run) -> None:
        summary = run.effort.summary()
        if summary is not None:
            self._notice(summary)

    @property
    def _attachments(self) -> AttachmentRequest:
        plan = self._plan
        return AttachmentRequest(
            self._sealed, plan.attach_limit, frozenset((*plan.exclude, *plan.exclude_if_present))
        )

    @property
    def _sealed(self) -> bool:
        return self._repository.keys.public is not None
