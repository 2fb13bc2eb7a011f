"""One disk on its way back to a point."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from puller.backups.bases.bases import Base
from puller.errors import Locked, NbdError, NoSuchDisk, OutputFailed, OutputRefused
from puller.events import DiskDone, Notice, Observer
from puller.hypervisor.storage.rollback_mark import RollbackMark, clear_mark, find_mark, put_mark
from puller.nbd.export import Export
from puller.nbd.image import ImageServer, resize
from puller.nbd.writer import Target
from puller.pipeline.flow import Flow
from puller.recovery.broken_bitmaps import remove_broken
from puller.recovery.change_search import ChangeSearch
from puller.recovery.diskcopy import ChangedCopier, copy_all, open_image
from puller.recovery.stopped_disks import StoppedDisk
from puller.recovery.targets import outputs
from puller.recovery.targets.outputs import UsedImage
from puller.repository.points import DiskRecord, Point
from puller.repository.reading.damage import Damage, merge_damage
from puller.repository.reading.difference import Changes
from puller.repository.repository import Repository
from puller.units import format_bytes


@dataclass(frozen=True, slots=True)
class RolledBackDisk:
    """One disk: ``output`` is its image. ``changed_bytes`` may have differed from the point, in whole chunks;
    ``bytes_written`` of it were not zero; ``bytes_compared`` were read of the image to find it.
    """

    disk: str
    output: str
    changed_bytes: int
    bytes_written: int
    bytes_compared: int
    seconds: float


class DiskRollback:
    """The disk ``found``, whose bitmap records since ``base``, on its way back to ``point``."""

    def __init__(  # noqa: PLR0913 - what a rollback of a disk is made of
        self,
        repository: Repository,
        point: Point,
        found: StoppedDisk,
        base: Base,
        observer: Observer,
        *,
        compare: bool,
    ) -> None:
        self.scope = repository.scope
        self.point = point
        self.target = found.disk.target
        self.path = found.path
        self.observer = observer
        self._found = found
        self._base = base
        self.image = open_image(repository, point, _record_of(point, self.target))
        self._is_device = self.path.is_block_device() and found.disk.format == "raw"
        self._size = self._measured()
        self._refuse_small_device()
        self._mark = find_mark(self.path)
        self._search = ChangeSearch(
            repository, point, self.image, base, self._size, self._mark, self._tell, compare=compare
        )

    def look(self, servers: ExitStack) -> DiskWork:
        """Serve the image for reading until ``servers`` close."""
        with self._in_use_told():
            return DiskWork(self, servers.enter_context(self._serve(writable=False)).uri, self._search)

    def begin(self, servers: ExitStack) -> DiskWork:
        """Serve the image for writing until ``servers`` close, with the size that it had."""
        self._found.refuse_replaced()
        with self._in_use_told():
            if self._size != self.image.size and not self._is_device:
                with self._serve(writable=False) as server:
                    self._search.probe(server.uri)
                self._resize()
            server = servers.enter_context(self._serve(writable=True))
        self._found.refuse_replaced()
        return DiskWork(self, server.uri, self._search)

    def _resize(self) -> None:
        """Give the image the point's size. If QEMU refuses that and has written nothing, no mark stays."""
        image_format, keys = self._found.disk.format, self._found.keys
        remove_broken(self.path, image_format, keys, self.scope)
        before = self.path.stat().st_mtime_ns
        self.put_mark()
        try:
            resize(self.path, image_format, self.image.size, keys, self.scope)
        except NbdError:
            if self._mark is None and self.path.stat().st_mtime_ns == before:
                clear_mark(self.path)
            raise

    def put_mark(self) -> None:
        """Say beside the image that it is partly old and partly new."""
        put_mark(self.path, RollbackMark(self.point.point, self.target, self._search.trusted()))

    def _serve(self, *, writable: bool) -> ImageServer:
        serve = ImageServer.recorded if writable else ImageServer.read_only
        return serve(
            self.path,
            self._found.disk.format,
            bitmap=self._base.checkpoint,
            cluster=self._found.disk.cluster if self._found.disk.format == "qcow2" else None,
            keys=self._found.keys,
            scope=self.scope,
        )

    def _tell(self, why: str) -> None:
        text = f"disk {self.target} is read and compared with point {self.point.point}: {why}"
        self.observer(Notice(self.point.point, text))

    def _measured(self) -> int:
        """The size that a guest sees.

        ``qemu-img`` opens no image, so of one that is LUKS itself it names the size of the container.
        """
        key = next(iter(self._found.keys), None)
        if key is None or key.image != "raw":
            return int(self._found.images[0]["virtual-size"])
        with (
            self._in_use_told(),
            self._serve(writable=False) as server,
            Export(server.uri, scope=self.scope) as export,
        ):
            return export.size

    def _refuse_small_device(self) -> None:
        if self._is_device and self._size < self.image.size:
            raise OutputRefused(
                f"{self.path} has {format_bytes(self._size)}, disk {self.target} needs "
                f"{format_bytes(self.image.size)}",
                advice="Enlarge the device, then run the same command again.",
            )

    @contextmanager
    def _in_use_told(self) -> Iterator[None]:
        try:
            yield
        except NbdError as error:
            if "lock" not in error.message:
                raise
            raise Locked(
                f"image {self.path} is in use by another process",
                advice="Wait until it is free, then run the same command again.",
            ) from error


class DiskWork:
    """One disk that is served at ``uri``: what ``search`` finds on it differs from the point."""

    def __init__(self, owner: DiskRollback, uri: str, search: ChangeSearch) -> None:
        self._owner = owner
        self._uri = uri
        self._search = search
        self._began = time.monotonic()
        self._written = 0
        self.disk = owner.target
        self.changes = Changes(0)
        self.compared = 0
        self.damage: list[Damage] = []

    @property
    def doubt(self) -> str | None:
        """Why the disk's bitmap is not to be believed."""
        return self._search.doubt

    def probe(self) -> None:
        """Find out whether the disk's bitmap can belong to it."""
        self._search.probe(self._uri)

    def search(self, doubt: str | None) -> None:
        """Find what differs; without the bitmap, if there is a ``doubt``."""
        self._search.doubt = doubt
        self.changes, self.compared = self._search.run(self._uri)

    def mark(self) -> None:
        """Put the mark, if there is anything to write."""
        if self.changes.pages:
            self._owner.put_mark()

    def write(self, *, salvage: bool) -> None:
        """Write what differs. What of it is lost stays as it is, or with ``salvage`` becomes zeros."""
        owner, flow = self._owner, Flow(self._owner.scope)
        with _completed_later(), outputs.translated(str(owner.path)), Target(self._uri, flow.scope) as target:
            copier = ChangedCopier(
                owner.point.point,
                owner.target,
                owner.image,
                UsedImage(target),
                str(owner.path),
                owner.observer,
                self.changes,
                salvage=salvage,
            )
            copy_all([copier], flow)
            target.flush()
        self._written, self.damage = copier.written, merge_damage(copier.damage)

    def complete(self) -> RolledBackDisk:
        """Take the mark away: the image is durable and closed."""
        clear_mark(self._owner.path)
        self._owner.observer(DiskDone(self._owner.point.point, self.disk))
        return self.result()

    def result(self) -> RolledBackDisk:
        """What is told of the disk."""
        path, seconds = str(self._owner.path), time.monotonic() - self._began
        return RolledBackDisk(self.disk, path, self.changes.bytes, self._written, self.compared, seconds)


@contextmanager
def _completed_later() -> Iterator[None]:
    """Advise to run the same command again, which completes the image: its mark stays."""
    try:
        yield
    except OutputFailed as error:
        raise OutputFailed(
            error.message, advice="Make room or mend its storage, then run the same command again."
        ) from error


def _record_of(point: Point, target: str) -> DiskRecord:
    record = point.disk(target)
    if record is None:
        raise NoSuchDisk(f"restore point {point.point} has no disk {target}")
    return record
