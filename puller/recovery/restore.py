"""Restore: the disks of one point, written to files, devices or NBD exports at the same time.

Nothing appears under its real name before it is whole, and nothing is overwritten that somebody uses.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from puller.cancelling import CancelScope
from puller.errors import DamagedData
from puller.events import DiskDone, Notice, Observer, ignore
from puller.hypervisor.domain.definition.restoredxml import DiskSource
from puller.hypervisor.storage.rollback_mark import clear_mark
from puller.pipeline.flow import Flow
from puller.recovery import definition
from puller.recovery.attachments import read_attachment, write_file
from puller.recovery.definition import write_definition
from puller.recovery.diskcopy import Copier, copy_all, damaged, open_image
from puller.recovery.layouts import layouts_of
from puller.recovery.plan import Placement, Plan, make_plan
from puller.recovery.targets import outputs
from puller.recovery.targets.outputs import Output
from puller.recovery.targets.overwriting import Domains, claim
from puller.recovery.targets.qcow2_file import Layout, qcow2
from puller.repository.points import Point
from puller.repository.reading.damage import Damage, merge_damage
from puller.repository.repository import Repository
from puller.units import format_bytes


@dataclass(frozen=True, slots=True)
class RestoredDisk:
    """One disk that was written to ``output``, a file of ``format`` or a device or export, which are ``raw``.

    ``bytes_written`` counts what is not zero.
    """

    disk: str
    output: str
    bytes_written: int
    seconds: float
    format: str = "raw"


@dataclass(frozen=True, slots=True)
class Restored:
    """What a restore wrote.

    ``damage`` pairs the target of a disk with what of it is lost. It is empty unless ``salvage`` was given.
    """

    point: str
    disks: tuple[RestoredDisk, ...]
    damage: tuple[tuple[str, Damage], ...] = ()


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be restored, and how.

    ``places`` says by target where a disk goes; other disks, and the attachments, go to ``output``, if there
    is one. ``format`` is that of files, None for what the disk had on its host. ``zero_rest`` writes zeros
    behind a disk that is shorter than its device. ``salvage`` keeps a damaged disk, with zeros where data
    is lost.
    ``libvirts`` are URIs of the libvirts whose domains may use what is to be overwritten. ``made`` are places
    that were made for the disks, and so are overwritten without ``force``.
    """

    output: str | None
    disks: tuple[str, ...] = ()
    places: Mapping[str, str] = field(default_factory=dict)
    format: str | None = None
    force: bool = False
    salvage: bool = False
    zero_rest: bool = False
    libvirts: tuple[str, ...] = ("qemu:///system",)
    made: frozenset[str] = frozenset()

    def plan(self, point: Point) -> Plan:
        """Where everything goes. Raises NoSuchDisk, OutputRefused, UsageError."""
        return make_plan(
            point,
            output=self.output,
            disks=self.disks,
            places=self.places,
            image_format=self.format,
            force=self.force,
            made=self.made,
        )


def restore(repository: Repository, point: Point, request: Request, observer: Observer = ignore) -> Restored:
    """Write the disks of ``point``. Refuses bad outputs before touching anything.

    Raises NoSuchDisk, OutputRefused, OutputInUse, OutputFailed, StoreError, and DamagedData that names disk
    and ranges.
    """

    def define(xml: bytes, directory: Path, disks: Sequence[RestoredDisk]) -> None:
        write_definition(
            point,
            xml,
            {done.disk: _source(done) for done in disks if not outputs.is_uri(done.output)},
            folder=directory.absolute(),
            force=request.force,
            libvirts=request.libvirts,
            scope=repository.scope,
            observer=observer,
        )

    return restore_and(define, repository, point, request, observer)


Define = Callable[[bytes, Path, Sequence[RestoredDisk]], None]
"""Called with ``domain.xml``, the directory that it was restored to, and the disks that were restored."""


def restore_and(
    define: Define, repository: Repository, point: Point, request: Request, observer: Observer
) -> Restored:
    """As ``restore``; ``define`` writes a definition beside the disks, if they go to a directory."""
    plan = request.plan(point)
    with ExitStack() as claims:
        held = _claim(claims, point, plan, request, observer, repository.scope)
        return _Restore(repository, point, plan, held, request, define, observer).run()


def _claim(  # noqa: PLR0913, PLR0917 - the use case's own parameters
    claims: ExitStack,
    point: Point,
    plan: Plan,
    request: Request,
    observer: Observer,
    scope: CancelScope,
) -> dict[str, int]:
    """Hold all outputs that exist, by name, as descriptors. Raises OutputInUse, OutputFailed."""
    domains = Domains(request.libvirts, point.point, observer, scope)
    held = {}
    for name in [*(disk.name for disk in plan.disks), *map(str, plan.files)]:
        if not outputs.is_uri(name) and Path(name).exists():
            with outputs.translated(name):
                held[name] = claims.enter_context(claim(Path(name), domains))
    return held


class _Restore:
    """One restore under way. ``held`` are descriptors of outputs that exist: a device is opened by that."""

    def __init__(  # noqa: PLR0913, PLR0917 - the use case's own parameters
        self,
        repository: Repository,
        point: Point,
        plan: Plan,
        held: Mapping[str, int],
        request: Request,
        define: Define,
        observer: Observer,
    ) -> None:
        self._define = define
        self._repository = repository
        self._point = point
        self._plan = plan
        self._held = held
        self._request = request
        self._observer = observer
        self._flow = Flow(repository.scope)
        self._layouts = layouts_of(repository, point, plan.disks)
        self._restored: list[RestoredDisk] = []
        self._damage: list[tuple[str, Damage]] = []
        self._failed: list[DamagedData] = []

    def run(self) -> Restored:
        """Write all disks, then what goes beside them."""
        self._write_disks()
        if self._plan.directory is not None:
            self._write_attachments(self._plan.directory)
        if self._failed:
            raise _all_of(self._failed)
        return Restored(self._point.point, tuple(self._restored), tuple(self._damage))

    def _write_disks(self) -> None:
        with ExitStack() as opened:
            begun = [work for disk in self._plan.disks if (work := self._begin(opened, disk)) is not None]
            connections = self._repository.store_options.connections
            copy_all([work.copier for work in begun], self._flow, connections)
            for work in begun:
                try:
                    self._finish(work)
                except DamagedData as error:
                    self._failed.append(error)  # the other disks are still worth having

    def _begin(self, opened: ExitStack, disk: Placement) -> _Work | None:
        """Open the disk's output; None if its map is lost."""
        try:
            image = open_image(self._repository, self._point, disk.record)
        except DamagedData as error:
            self._failed.append(error)
            return None
        output = opened.enter_context(ExitStack())
        output.enter_context(outputs.translated(disk.name))
        empty = image.empty_pages()
        filled = 1 - float(empty.mean()) if len(empty) else 0.0
        copied = output.enter_context(self._open(disk, image.size, filled))
        copier = Copier(self._point.point, disk.target, image, copied, disk.name, self._observer)
        return _Work(disk, output, copier)

    def _open(self, disk: Placement, size: int, filled: float) -> AbstractContextManager[Output]:
        if not disk.is_file:
            return self._existing(disk, size)
        path = Path(disk.name)
        outputs.make_folder(path.parent)
        forced = self._request.force or disk.name in self._request.made
        publish = outputs.replace if forced else outputs.add
        if disk.format == "qcow2":
            layout = self._layouts.get(disk.target, Layout())
            return qcow2(path, size, publish, layout, filled, self._flow.scope)
        return outputs.raw(path, size, publish)

    @contextmanager
    def _existing(self, disk: Placement, size: int) -> Iterator[Output]:
        """A block device or an NBD export, which may be larger than the disk."""
        if outputs.is_uri(disk.name):
            opened = outputs.export(disk.name, size, self._flow.scope)
        else:
            opened = outputs.device(Path(disk.name), self._held[disk.name], size)
        with opened as (output, rest):
            yield output
            # A new logical volume is larger than the disk, and may hold what was in the pool before.
            zeroed = self._request.zero_rest or disk.name in self._request.made
            if rest and zeroed:
                output.zero([(size, rest)])
        if rest and not zeroed:
            self._tell(
                f"{disk.name} is {format_bytes(rest)} larger than disk {disk.target}: the rest stays "
                "as it was (--zero-rest makes it zero)"
            )

    def _finish(self, work: _Work) -> None:
        """Make the disk durable and give it its name, or take it away if it is damaged."""
        disk, copier = work.disk, work.copier
        damage = merge_damage(copier.damage)
        with work.output:
            if damage and not self._request.salvage:
                raise damaged(self._point, disk.target, damage)
        if not outputs.is_uri(disk.name):
            clear_mark(Path(disk.name))  # of a rollback of what was there
        self._observer(DiskDone(self._point.point, disk.target))
        seconds = time.monotonic() - work.began
        self._restored.append(RestoredDisk(disk.target, disk.name, copier.written, seconds, disk.format))
        self._damage += [(disk.target, item) for item in damage]
        self._tell_encryption(disk)
        if self._layouts.get(disk.target, Layout()).apart:
            self._tell(
                f"disk {disk.target} had its data in a file of its own (data-file): {disk.name} holds it now"
            )

    def _write_attachments(self, directory: Path) -> None:
        for item in self._point.attachments:
            try:
                content = read_attachment(self._repository, item)
            except DamagedData as error:
                gone = Damage(0, item.size, error.message)
                if self._request.salvage:
                    self._damage.append((item.name, gone))
                else:
                    self._failed.append(damaged(self._point, item.name, [gone]))
                continue
            write_file(directory / item.name, content, self._request.force)
            if item.name == definition.SOURCE:
                self._define(content, directory, self._restored)

    def _tell_encryption(self, disk: Placement) -> None:
        """A point has what the guest saw, and what defines the domain expects an encrypted image."""
        if not disk.record.encryption:
            return
        text = (
            f"disk {disk.target} was encrypted ({disk.record.encryption}) and is restored without encryption"
        )
        if self._plan.has_definition:
            advice = f"define the domain by {definition.NAME}; domain.xml still has <encryption>"
        else:
            advice = (
                "remove <encryption> from the disk in the domain's XML, or encrypt the image, "
                "before the domain uses it"
            )
        self._tell(f"{text}: {advice}")

    def _tell(self, text: str) -> None:
        self._observer(Notice(self._point.point, text))


class _Work:
    """One disk being written; leaving ``output`` makes it durable and gives it its name."""

    def __init__(self, disk: Placement, output: ExitStack, copier: Copier) -> None:
        self.disk = disk
        self.output = output
        self.copier = copier
        self.began = time.monotonic()


def _source(done: RestoredDisk) -> DiskSource:
    return DiskSource(Path(done.output).absolute(), done.format)


def _all_of(failed: Sequence[DamagedData]) -> DamagedData:
    """One error that names everything that could not be restored."""
    return DamagedData("; ".join(error.message for error in failed), advice=failed[0].advice)
