"""Pushed disks: a push job of libvirt, with servers that serve its images for reading."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar

from puller.backups.bases.bases import Base, LiveBitmaps, checkpoints_of, choose
from puller.backups.bases.history import History
from puller.backups.sources.content_probe import ContentProbe
from puller.backups.sources.source import DomainSource
from puller.backups.sources.unlock import keys_of
from puller.cancelling import CancelScope
from puller.errors import DamagedData, HypervisorError, NbdError, UnsupportedDisk
from puller.events import DiskDone, DiskPlanned, DiskProgress, Kept, Notice, Observer, Step
from puller.hypervisor.domain import checkpoint as checkpoints
from puller.hypervisor.domain.disks.disk import Disk
from puller.hypervisor.domain.disks.image import describe
from puller.hypervisor.domain.domain import Domain
from puller.hypervisor.job.frozen import DiskExport, FrozenDisks
from puller.hypervisor.job.pushjob import PushJob
from puller.hypervisor.space import staging
from puller.hypervisor.space.seal import seal_of
from puller.nbd.image import ImageServer, copy_bytes, detach_backing
from puller.nbd.strays import end_strays
from puller.pipeline.flow import Flow
from puller.repository.repository import Repository

T = TypeVar("T")

_ALLOCATION_DEPTH = "qemu:allocation-depth"
"""QEMU's context (docs/interop/nbd.txt) whose value 1 says: allocated in the image itself. What was written
since the base is, also as zero clusters; ``base:allocation`` shows those like clusters that are not there."""


_LET_GO = 10.0
"""Seconds that QEMU may take to close an image after the end of the job."""

_STEP = 0.02


class Push(DomainSource):
    """A source whose ``disks`` QEMU writes into images in ``directory``.

    With ``keep`` they stay there as plain files.
    """

    mode = "push"

    def __init__(  # noqa: PLR0913, PLR0917 - the parts of a push
        self,
        domain: Domain,
        disks: Sequence[Disk],
        repository: Repository,
        directory: Path,
        keep: bool,
        observer: Observer,
    ) -> None:
        super().__init__(domain, disks, directory)
        self._repository = repository
        self._keep = keep
        self._observer = observer
        self._room: dict[str, int] = {}
        self._probes: dict[str, ContentProbe] = {}

    def bases(self, history: History) -> dict[str, Base]:
        """See Source."""
        found = choose(history, self._disks, LiveBitmaps(self._domain, self._repository.id))
        return {disk.target: self._pushable(disk, found[disk.target]) for disk in self._disks}

    def _pushable(self, disk: Disk, base: Base) -> Base:
        """Return ``base``, without the bitmap if no pushed image can be incremental from it.

        A pushed image lacks the data after the old end of a disk that was resized. And before a bitmap is
        trusted, puller compares chunks that it calls clean, which needs an image readable on this host.
        """
        if base.checkpoint is None or base.parent is None:
            return base
        record = base.parent.record
        if self._domain.disk_size(disk.target) != record.size:
            return base.compared("it was resized, and an incremental push lacks the data after its old end")
        if disk.path is None:
            return base.compared(
                "its image cannot be opened on this host, so its dirty bitmap cannot be verified"
            )
        try:
            tell, keys = partial(self._tell, disk.target), keys_of(self._domain, disk)
            host = self._domain.host

            def probe(scope: CancelScope) -> ContentProbe:
                repository = self._repository.within(scope)
                return ContentProbe(
                    repository, disk, record, tell, keys, host, image_changed=base.image_changed
                )

            self._probes[disk.target] = _apart(self._repository.scope, probe)
        except DamagedData as error:
            return base.compared(f"its last map is damaged: {error.message}")
        except (NbdError, UnsupportedDisk) as error:
            return base.compared(f"its dirty bitmap cannot be verified: {error.message}")
        return base

    def _tell(self, target: str, text: str) -> None:
        self._observer(Notice(self._domain.name, f"disk {target}: {text}"))

    def check_room(self, bases: Mapping[str, Base]) -> None:
        """See Source. Raises StagingFull, UsageError."""
        self._room = {
            disk.target: staging.required_bytes(self._copied(disk, bases[disk.target]))
            for disk in self._disks
        }
        staging.check_free(self.folder, sum(self._room.values()), self._domain.host)

    def _copied(self, disk: Disk, base: Base) -> int:
        """Return the most bytes that QEMU will copy of the disk."""
        size = self._domain.disk_size(disk.target)
        if base.checkpoint is not None:
            dirty = checkpoints.dirty_bytes(self._domain, base.checkpoint).get(disk.target, size)
            return staging.copied_bytes(dirty, size, disk.cluster)
        try:
            if disk.path is None:
                return size
            return _held_bytes(self._domain, disk, disk.path, size)
        except (
            HypervisorError,
            NbdError,
        ):  # the image cannot be opened on this host: assume the size of the disk
            return size

    def freeze(self, bases: Mapping[str, Base], checkpoint: str, point_id: str) -> PushedDisks:
        """See Source. ``check_room`` comes before it."""
        end_strays(self._domain.host, self._domain.scope)  # before there is a job
        targets = [disk.target for disk in self._disks] if self._keep else []
        seal = seal_of(self._domain, self._disks, checkpoint, targets)
        job = PushJob(
            self._domain, checkpoints_of(bases), checkpoint, self.folder, self._room, self._untracked, seal
        )
        name = self._domain.name
        kept = {target: staging.kept_path(self.folder, name, point_id, target) for target in targets}
        probes = {
            target: probe for target, probe in self._probes.items() if bases[target].checkpoint is not None
        }
        return PushedDisks(job, probes, kept, self._observer)


def _held_bytes(domain: Domain, disk: Disk, path: Path, size: int) -> int:
    """Return the most bytes that a full copy of the image at ``path`` needs; it may be in use.

    The backing chain counts too. ``qemu-img measure`` omits clusters whose tables QEMU has not written yet,
    which happens only when the guest flushes (seen with QEMU 7.2). Files have already grown by these
    clusters; a device has not, so it may hold all ``size`` bytes.
    """
    scope, host = domain.scope, domain.host
    found = host.status(path)
    if found is None or found.kind != "file":
        return size
    taken = sum(int(image.get("actual-size", 0)) for image in describe(path, disk.format, scope, host))
    return min(size, max(copy_bytes(path, disk.format, keys_of(domain, disk), scope, host), taken))


class PushedDisks(FrozenDisks):
    """The disks of a push job: :class:`~puller.hypervisor.job.frozen.FrozenDisks`.

    ``probes`` are at the disks of which only what changed is pushed, by target.
    ``kept`` names the files that the images become when the context ends without an error, by target;
    empty if they are to be removed. Space for the images is reserved, and nobody writes to complete ones: so
    no guest is harmed and there is nothing to confirm.
    """

    def __init__(
        self, job: PushJob, probes: Mapping[str, ContentProbe], kept: Mapping[str, Path], observer: Observer
    ) -> None:
        self._name = job.domain_name
        self._job = job
        self._probes = probes
        self._kept = kept
        self._observer = observer
        self._servers = ExitStack()

    def prepared(self) -> AbstractContextManager[object]:
        """See FrozenDisks."""
        return self._job.prepared()

    def __enter__(self) -> Self:
        self._job.__enter__()
        return self

    def __exit__(self, *failure: Any) -> None:
        try:
            self._servers.__exit__(*failure)
            if failure[0] is None:
                self._keep()
        finally:
            self._job.__exit__(*failure)

    @property
    def consistency(self) -> str:
        """See FrozenDisks."""
        return self._job.consistency

    def settle(self) -> None:
        """Wait until QEMU has written all images, and serve them.

        Raises the errors of ``PushJob.wait``, CheckpointUnusable if a base does not match, NbdError.
        """
        self._observer(Step(self._name, "push"))
        progress = _Progress(self._name, list(self._job.images), self._observer)
        self._job.wait(progress)
        progress.finish()
        self.exports = tuple(self._export(target, image) for target, image in self._job.images.items())

    def _export(self, target: str, image: Path) -> DiskExport:
        seal = self._job.seal
        passphrase = None if seal is None else seal.passphrase(target)
        server = self._servers.enter_context(_served(image, passphrase, self._job))
        probe = self._probes.get(target)
        if probe is None:
            return DiskExport(target, server.uri, None)
        _apart(self._job.scope, lambda scope: probe.within(scope).confirm(server.uri, _ALLOCATION_DEPTH))
        return DiskExport(target, server.uri, _ALLOCATION_DEPTH, partial=True)

    def _keep(self) -> None:
        """Keep the image without backing file: libvirt names the running disk, whose content has changed
        since. An image that a seal created has none.
        """
        for target, path in self._kept.items():
            image = self._job.images[target]
            if self._job.seal is None:
                detach_backing(image, self._job.scope, self._job.host)
            staging.keep(image, path, self._job.host)
            self._observer(Kept(self._name, target, str(path)))
            self._observer(Notice(self._name, f"the pushed image of disk {target} is kept as {path}"))


def _apart(scope: CancelScope, work: Callable[[CancelScope], T]) -> T:
    """Run in a thread: libnbd swallows the exception of a signal in the main thread during a callback."""
    made: list[T] = []
    with Flow(scope) as flow:
        flow.spawn("probe", lambda: made.append(work(flow.scope))).join()
    return made[0]


def _served(image: Path, passphrase: bytes | None, job: PushJob) -> ImageServer:
    """QEMU releases its lock on the image shortly after libvirt has reported the end of the job."""
    deadline = time.monotonic() + _LET_GO
    while True:
        try:
            return ImageServer.pushed(image, passphrase, job.scope, job.host)
        except NbdError as error:
            if "lock" not in error.message or time.monotonic() > deadline:
                raise
        job.scope.pause(_STEP)
        job.scope.check()


class _Progress:
    """Reports QEMU's progress for all disks together: libvirt's statistics do not separate them."""

    def __init__(self, subject: str, targets: Sequence[str], observer: Observer) -> None:
        self._subject = subject
        self._disk = f"{','.join(targets)} pushed"
        self._observer = observer
        self._total = 0

    def __call__(self, done: int, total: int) -> None:
        if total != self._total:
            self._total = total
            self._observer(DiskPlanned(self._subject, self._disk, total, total))
        self._observer(DiskProgress(self._subject, self._disk, done, None, 0))

    def finish(self) -> None:
        """A push that ended before the first check is reported by the reading alone."""
        if self._total:
            self(self._total, self._total)
            self._observer(DiskDone(self._subject, self._disk))
