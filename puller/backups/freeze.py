"""Freeze: hand the disks of one moment to another program, over NBD, and end the job when it ends.

The steps are those of a backup without a repository at the other end: the same lock, the same job, the same
watch over the scratch, and the same cleanup. What the job creates is named after ``THIRD_PARTIES`` in place
of a repository, so that the next freeze or backup knows what a killed one has left.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from puller.backups import reconcile
from puller.backups.aftermath import Aftermath
from puller.backups.bases.bases import Base, without_mismatched_bitmaps
from puller.backups.bases.history import History
from puller.backups.bases.probe import find_mismatch
from puller.backups.machines.connecting import connect
from puller.backups.machines.machine import Machine, MachineHost
from puller.backups.unfinished import refuse_half_rolled_back
from puller.cancelling import CancelScope
from puller.errors import CheckpointUnusable, NoSuchPoint, PullerError, UsageError
from puller.events import Notice, Observer
from puller.host.command import run_command, variable
from puller.hypervisor.domain import checkpoint as checkpoints
from puller.hypervisor.domain.disks.disk import Disk
from puller.hypervisor.guest.quiesce import Quiesced
from puller.hypervisor.guest.quiescing import QUIESCED_IF_POSSIBLE, Quiescing
from puller.hypervisor.job.frozen import DiskExport
from puller.hypervisor.locking.lock import domain_held
from puller.hypervisor.locking.runlock import RunLock
from puller.nbd.export import Export
from puller.repository.points import new_id
from puller.repository.repository import Repository


@dataclass(frozen=True, slots=True)
class FreezePlan:
    """Choices of a freeze.

    Empty ``disks`` means all that a backup takes. ``since`` names a checkpoint of the domain or a point of
    the ``repository``; changes since then are marked. With ``checkpoint``, a new one is created.
    """

    domain: str
    connect: str
    disks: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    since: str | None = None
    repository: Repository | None = None
    checkpoint: bool = False
    scratch_dir: str | None = None
    quiescing: Quiescing = QUIESCED_IF_POSSIBLE


@dataclass(frozen=True, slots=True)
class FrozenDisk:
    """One disk: the NBD URI, its size in bytes, and the metadata context of what changed, if there is one."""

    disk: str
    uri: str
    bitmap: str | None
    size: int


@dataclass(frozen=True, slots=True)
class Freeze:
    """What was frozen; ``exit_code`` is the command's.

    ``time`` is the host's time just after the freeze, ``checkpoint`` the name of the new one if there is one.
    ``consistency`` is as of a point: ``filesystem``, ``crash`` or ``offline``.
    """

    domain: str
    uuid: str
    time: datetime
    consistency: str
    checkpoint: str | None
    disks: tuple[FrozenDisk, ...]
    exit_code: int


def freeze(plan: FreezePlan, command: str, observer: Observer, scope: CancelScope) -> Freeze:
    """See ``puller.freeze``."""
    with connect(plan.connect, scope) as host:
        domain = host.machine(plan.domain)
        disks = domain.select_disks(plan.disks, plan.exclude, ())
        _refuse(plan, domain, disks)
        with domain_held(domain):
            refuse_half_rolled_back(domain, disks)
            return _Freezing(plan, host, domain, disks, observer).run(command)


def _refuse(plan: FreezePlan, domain: Machine, disks: Sequence[Disk]) -> None:
    if not disks:
        raise UsageError(
            f"domain {domain.name} has no disk to freeze", advice="Name a disk of the domain with --disk."
        )
    if plan.checkpoint and not domain.is_active():
        raise UsageError(
            f"cannot create a checkpoint of domain {domain.name}: it is shut off",
            advice="Start the domain, or freeze it without --checkpoint.",
        )


class _Freezing:
    """One freeze of the ``disks`` of one domain."""

    def __init__(
        self, plan: FreezePlan, host: MachineHost, domain: Machine, disks: Sequence[Disk], observer: Observer
    ) -> None:
        self._plan = plan
        self._host = host
        self._domain = domain
        self._disks = disks
        self._observer = observer
        self._scope = host.scope.child()
        self._source = domain.pulled(_owner(plan), disks, plan.scratch_dir)
        if not plan.checkpoint:
            self._source.omit_checkpoint()
        self._alarms: list[PullerError] = []

    def run(self, command: str) -> Freeze:
        """Freeze, run the command, and release the disks."""
        folders = {self._source.folder, *(disk.path.parent for disk in self._disks if disk.path)}
        aftermath = Aftermath(self._host, self._domain, checkpoints.THIRD_PARTIES, folders, self._observer)
        with aftermath:
            reconcile.tidy(self._domain, checkpoints.THIRD_PARTIES, folders, self._observer)
            bases = self._bases()
            self._source.check_room(bases)
            name = checkpoints.checkpoint_name(checkpoints.THIRD_PARTIES, new_id(datetime.now(UTC)))
            try:
                aftermath.checkpoint = name if self._plan.checkpoint else None
                done = self._frozen(bases, name, command)
                if done.exit_code != 0:
                    return replace(done, checkpoint=None)
                aftermath.checkpoint = None  # it is the command's now
                return done
            finally:
                aftermath.delete()

    def _bases(self) -> dict[str, Base]:
        since = self._plan.since
        if since is None:
            return {disk.target: Base(None, None, "") for disk in self._disks}
        bases = self._since_checkpoint(since)
        if bases is None:
            bases = self._source.bases(self._history(since))
        self._require_usable(bases)
        return bases

    def _require_usable(self, bases: Mapping[str, Base]) -> None:
        """Refuse to go on if changes are wanted and no disk can show them."""
        if self._plan.since is None or any(base.checkpoint for base in bases.values()):
            return
        reasons = "; ".join(sorted({base.reason for base in bases.values()}))
        raise CheckpointUnusable(
            f"no disk of domain {self._domain.name} has a usable dirty bitmap since {self._plan.since}: "
            f"{reasons}",
            advice="Freeze without --since, and let the command read all of the disks.",
        )

    def _since_checkpoint(self, name: str) -> dict[str, Base] | None:
        """Return bases with the bitmaps of the checkpoint ``name``; None if no disk has one of that name."""
        bitmaps = self._source.bitmaps()
        sound = bitmaps.sound(name)
        known = {item.name for item in self._domain.checkpoints()}
        if not sound and name not in known:
            return None
        fault = bitmaps.fault(name)
        return {
            disk.target: Base(None, name if disk.target in sound else None, fault) for disk in self._disks
        }

    def _history(self, since: str) -> History:
        repository = self._plan.repository
        if repository is None:
            raise UsageError(
                f"domain {self._domain.name} has no checkpoint {since}",
                advice="Name the repository of a point; 'virsh checkpoint-list' lists the checkpoints.",
            )
        try:
            point = repository.points.select(since)
        except NoSuchPoint as error:
            raise NoSuchPoint(
                f"domain {self._domain.name} has no checkpoint {since}, and {error.message}",
                advice="List the checkpoints with 'virsh checkpoint-list', the points with 'puller points'.",
            ) from error
        if point.uuid != self._domain.uuid:
            raise UsageError(
                f"point {point.point} is of domain {point.domain}, not of {self._domain.name}",
                advice="Name a point of the same domain.",
            )
        return History.only(repository, point)

    def _frozen(self, bases: Mapping[str, Base], name: str, command: str) -> Freeze:
        frozen = Quiesced(
            self._domain.agent(),
            self._source.freeze(bases, name, name),
            self._plan.quiescing,
            self._notice,
            self._stop,
        )
        with RunLock(self._source.folder, name, self._domain), frozen:
            frozen.settle()
            done = Freeze(
                self._domain.name,
                self._domain.uuid,
                frozen.frozen_at,
                frozen.consistency,
                name if self._plan.checkpoint else None,
                tuple(self._disk(export, base) for export, base in self._believed(frozen.exports, bases)),
                0,
            )
            done = replace(done, exit_code=self._command(command, done))
            frozen.confirm()
            frozen.scratch_used()  # raises if the job has ended by itself, for example with the guest
            return done

    def _believed(
        self, exports: Sequence[DiskExport], bases: Mapping[str, Base]
    ) -> Iterator[tuple[DiskExport, Base]]:
        """Yield the exports with their bases, those without bitmap that do not match the point."""
        reasons = {
            export.target: why for export in exports if (why := self._mismatch(export, bases[export.target]))
        }
        bases = without_mismatched_bitmaps(bases, reasons)
        self._require_usable(bases)
        for export in exports:
            base = bases[export.target]
            if self._plan.since is not None and base.checkpoint is None:
                self._notice(f"disk {export.target} has no bitmap of the changes: {base.reason}")
            yield export, base

    def _mismatch(self, export: DiskExport, base: Base) -> str | None:
        if self._plan.repository is None or base.parent is None or base.checkpoint is None:
            return None
        with Export(export.uri, export.changed, self._scope) as disk:
            record, changed = base.parent.record, base.image_changed
            return find_mismatch(self._plan.repository, disk, record, image_changed=changed)

    def _disk(self, export: DiskExport, base: Base) -> FrozenDisk:
        with Export(export.uri, None, self._scope) as disk:
            size = disk.size
        bitmap = export.changed if base.checkpoint is not None else None
        return FrozenDisk(export.target, export.uri, bitmap, size)

    def _command(self, command: str, frozen: Freeze) -> int:
        """Run the command. Raises the alarm if the guest would be harmed by going on."""
        with _facts(frozen) as facts:
            try:
                return run_command(["/bin/sh", "-c", command], facts, self._scope)
            except PullerError:
                if self._alarms:
                    raise self._alarms[0] from None
                raise

    def _stop(self, error: PullerError) -> None:
        self._alarms.append(error)
        self._scope.cancel()

    def _notice(self, text: str) -> None:
        self._observer(Notice(self._domain.name, text))


def _owner(plan: FreezePlan) -> str:
    """Whose bitmaps are looked at: those of the repository if changes since a point are wanted."""
    return checkpoints.THIRD_PARTIES if plan.repository is None else plan.repository.id


def as_document(frozen: Freeze) -> dict[str, object]:
    """Return the facts as in ``PULLER_EXPORTS``, without the exit code."""
    facts = asdict(frozen)
    del facts["exit_code"]
    return {**facts, "time": frozen.time.isoformat().replace("+00:00", "Z"), "disks": list(facts["disks"])}


@contextmanager
def _facts(frozen: Freeze) -> Iterator[dict[str, str]]:
    """Yield the environment of the command; the file that it names is removed afterwards."""
    document = as_document(frozen)
    with TemporaryDirectory(prefix="puller-freeze-") as folder:  # which only this user can enter
        path = Path(folder, "exports.json")
        path.write_text(json.dumps(document, indent=2) + "\n")
        yield {
            "PULLER_DOMAIN": frozen.domain,
            "PULLER_TIME": str(document["time"]),
            "PULLER_CHECKPOINT": frozen.checkpoint or "",
            "PULLER_EXPORTS": str(path),
            **{variable("PULLER_URI_", disk.disk): disk.uri for disk in frozen.disks},
            **{variable("PULLER_BITMAP_", disk.disk): disk.bitmap or "" for disk in frozen.disks},
        }
