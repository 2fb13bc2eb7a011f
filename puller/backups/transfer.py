"""Transfer of a backup's data from the exports of a frozen domain into a run of the repository."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from functools import partial
from typing import Self

from puller.backups.bases.bases import Base, without_mismatched_bitmaps
from puller.backups.bases.facts import recorded
from puller.backups.bases.probe import find_mismatch
from puller.backups.sources.unlock import encryption_of
from puller.configuration.quantities import Pace
from puller.errors import DamagedData
from puller.events import DiskDone, DiskPlanned, DiskProgress, Notice, Observer
from puller.hypervisor.domain.disks.disk import Disk
from puller.hypervisor.job.frozen import DiskExport
from puller.nbd.export import Export
from puller.nbd.reader import read
from puller.pipeline.flow import join
from puller.pipeline.ratelimit import RateLimit
from puller.pipeline.readgate import GentleGate, OpenGate, ReadGate
from puller.repository.format.address import Address
from puller.repository.points import DiskRecord, Ref
from puller.repository.repository import Repository
from puller.repository.writing.run import DiskWriter, Run
from puller.units import CHUNK, MIB

WINDOW = 4 * MIB
"""Bytes in flight on a connection: enough for storage with a latency of milliseconds."""


def _window(pace: Pace) -> int:
    """Bytes in flight: an eighth of a second's worth if a rate is set, so that reads stay even."""
    return min(WINDOW, max(CHUNK, pace // 8)) if isinstance(pace, int) else WINDOW


def _gate(pace: Pace) -> ReadGate:
    return OpenGate(WINDOW) if pace == "full" else GentleGate(_window(pace))


class _Disk:
    """One disk being transferred."""

    def __init__(self, export: DiskExport, base: Base) -> None:
        self.target = export.target
        self.export = export
        self.base = base
        self.size = 0
        self.dirty_bytes = 0
        self.writer: DiskWriter


class Transfer:
    """Copies all disks of one point at once, with a reader thread for each.

    A context: once it is left, every NBD connection is closed, so that the job may end. It does not wait for
    uploads that hang, because an open job slows the guest.
    """

    def __init__(
        self,
        repository: Repository,
        run: Run,
        subject: str,
        observer: Observer,
        pace: Pace = "gentle",
    ) -> None:
        self._repository = repository.within(run.flow.scope)
        self._run = run
        self._limit = run.flow.adopt(RateLimit(pace)) if isinstance(pace, int) else None
        self._gate = run.flow.adopt(_gate(pace))
        self._subject = subject
        self._observer = observer
        self._disks: list[_Disk] = []
        self._readers: list[threading.Thread] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is not None:
            self._run.flow.fail(error)
        join(self._readers)

    def read_all(self, exports: Sequence[DiskExport], bases: Mapping[str, Base]) -> None:
        """Read every disk. Return when all batches are encoded and every NBD connection is closed."""
        trusted = self._probed(exports, bases)
        self._disks = [_Disk(export, trusted[export.target]) for export in exports]
        self._run_all({f"read-{disk.target}": partial(self._read, disk) for disk in self._disks})
        self._run.drain()

    def _probed(self, exports: Sequence[DiskExport], bases: Mapping[str, Base]) -> dict[str, Base]:
        """Return the bases that the probe of all disks leaves: a foreign image casts doubt on others too.

        Pushed disks have been probed already.
        """
        reasons: dict[str, str] = {}

        def look(export: DiskExport) -> None:
            if (why := self._find_mismatch(export, bases[export.target])) is not None:
                reasons[export.target] = why

        probed = [export for export in exports if bases[export.target].checkpoint and not export.partial]
        self._run_all({f"probe-{export.target}": partial(look, export) for export in probed})
        self._run.flow.check()
        return without_mismatched_bitmaps(bases, reasons)

    def _run_all(self, works: Mapping[str, Callable[[], None]]) -> None:
        """Run each of the ``works`` in a thread of its name; return once all have ended."""
        # All are recorded before the first starts: a signal may come then, and the job must outlive them.
        readers = [self._run.flow.thread(name, work) for name, work in works.items()]
        self._readers += readers
        for reader in readers:
            reader.start()
        join(readers)

    def _read(self, disk: _Disk) -> None:
        self._explain(disk)
        changed = disk.export.changed if disk.base.checkpoint else None
        with Export(disk.export.uri, changed, self._run.flow.scope) as export:
            self._copy(disk, export)

    def _find_mismatch(self, export: DiskExport, base: Base) -> str | None:
        if base.parent is None:
            return None
        with Export(export.uri, export.changed, self._run.flow.scope) as opened:
            return find_mismatch(
                self._repository, opened, base.parent.record, image_changed=base.image_changed
            )

    def _explain(self, disk: _Disk) -> None:
        """Report why a disk that has been backed up before is read as a whole."""
        if disk.base.parent is not None and disk.base.checkpoint is None:
            point = disk.base.parent.point.point
            text = f"puller reads all data of disk {disk.target} and compares it with point {point}"
            text = f"{text}: {disk.base.reason}"
            self._observer(Notice(self._subject, text))

    def _copy(self, disk: _Disk, export: Export) -> None:
        record = None if disk.base.checkpoint is None or disk.base.parent is None else disk.base.parent.record
        old_size = None if record is None else record.size
        disk.size = export.size
        disk.dirty_bytes = export.dirty_bytes(old_size)
        self._observer(DiskPlanned(self._subject, disk.target, disk.size, disk.dirty_bytes))
        base = None if record is None else record.root.address
        disk.writer = self._run.disk(export.size, base, _compared(disk.base))
        extents = export.contents() if record is None else export.changes(old_size)
        batches = read(export, extents, self._run.batches, gate=self._gate, planned=disk.writer.announce)
        with closing(batches):
            for batch in batches:
                if self._limit is not None:
                    self._limit.take(batch.length)
                disk.writer.submit(batch)
                self._progress(disk)

    def _progress(self, disk: _Disk) -> None:
        writer = disk.writer
        # Zeros count if they are planned: a changed range may be zero by now, a full plans only data.
        done = writer.done_bytes + (writer.zero_bytes if disk.base.checkpoint is not None else 0)
        read, stored = writer.read_bytes, writer.stored_bytes
        self._observer(DiskProgress(self._subject, disk.target, done, read, stored))

    def finish(self, sources: Mapping[str, Disk]) -> tuple[DiskRecord, ...]:
        """Write all maps and return the records of the disks. ``sources`` are libvirt's disks by target."""
        return tuple(self._record(disk, sources[disk.target]) for disk in self._disks)

    def _record(self, disk: _Disk, source: Disk) -> DiskRecord:
        writer, base = disk.writer, disk.base
        root = Ref.to(writer.finish())
        self._progress(disk)
        self._observer(DiskDone(self._subject, disk.target))
        return DiskRecord(
            disk=disk.target,
            kind=base.kind,
            size=disk.size,
            root=root,
            format=source.format,
            source=source.source,
            backing=source.backing,
            image=recorded(source.facts),
            whole=_whole(base),
            encryption=encryption_of(source),
            parent=None if base.parent is None else base.parent.point.point,
            reason=base.reason,
            dirty_bytes=disk.dirty_bytes,
            read_bytes=writer.read_bytes,
            zero_bytes=writer.zero_bytes,
            new_bytes=writer.new_bytes,
            stored_bytes=writer.stored_bytes,
        )


def _compared(base: Base) -> Address | None:
    """The map that a disk which is read as a whole is compared with; None if its address is damaged."""
    if base.parent is None or base.checkpoint is not None:
        return None
    with suppress(DamagedData):
        return base.parent.record.root.address
    return None


def _whole(base: Base) -> str | None:
    """Return the point at which an incremental disk was last read as a whole."""
    if base.checkpoint is None or base.parent is None:
        return None
    return base.parent.record.whole or base.parent.point.point
