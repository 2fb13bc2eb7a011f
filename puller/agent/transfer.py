"""The bytes of a backup: from the exports of a frozen domain into a run of the repository."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing

from puller.agent.bases import Base
from puller.events import DiskDone, DiskPlanned, DiskProgress, Observer
from puller.hypervisor.export import DiskExport
from puller.nbd.export import Export
from puller.nbd.reader import read
from puller.repository.points import DiskRecord, Ref
from puller.repository.run import DiskWriter, Run
from puller.units import MIB

WINDOW = 8 * MIB
"""Bytes in flight on a connection: 8 requests of 1 MiB ran at 2.5 GiB/s, more gained nothing."""


class _Lane:
    """One disk on its way."""

    def __init__(self, export: DiskExport, base: Base | None) -> None:
        self.export = export
        self.base = base
        self.size = 0
        self.dirty_bytes = 0
        self.writer: DiskWriter


class Transfer:
    """Copies all disks of one point at once, a reader thread each."""

    def __init__(self, run: Run, subject: str, observer: Observer) -> None:
        self._run = run
        self._subject = subject
        self._observer = observer
        self._disks: list[_Lane] = []

    def read_all(self, exports: Sequence[DiskExport], bases: Mapping[str, Base]) -> None:
        """Read every disk. Returns when all batches are encoded and every NBD connection is closed."""
        self._disks = [_Lane(export, bases.get(export.target)) for export in exports]
        threads = [
            self._run.flow.spawn(f"read-{disk.export.target}", lambda disk=disk: self._read(disk))  # type: ignore[misc]
            for disk in self._disks
        ]
        for thread in threads:
            thread.join()
        self._run.drain()

    def _read(self, disk: _Lane) -> None:
        with Export(disk.export.uri, disk.export.bitmap) as export:
            self._run.flow.on_failure(export.interrupt)
            disk.size = export.size
            disk.dirty_bytes = export.dirty_bytes()
            self._observer(DiskPlanned(self._subject, disk.export.target, disk.size, disk.dirty_bytes))
            base = None if disk.base is None else disk.base.record.root.address
            disk.writer = self._run.disk(export.size, base)
            extents = export.contents() if disk.base is None else export.changes()
            batches = read(export, extents, self._run.batches, window=WINDOW, planned=disk.writer.announce)
            with closing(batches):
                for batch in batches:
                    disk.writer.submit(batch)
                    self._progress(disk)

    def _progress(self, disk: _Lane) -> None:
        writer = disk.writer
        done = writer.done_bytes + writer.zero_bytes
        self._observer(DiskProgress(self._subject, disk.export.target, done, writer.stored_bytes))

    def finish(self, formats: Mapping[str, str]) -> tuple[DiskRecord, ...]:
        """Write all maps; return the records of the disks. ``formats`` are those of the sources."""
        return tuple(self._record(disk, formats[disk.export.target]) for disk in self._disks)

    def _record(self, disk: _Lane, format_: str) -> DiskRecord:
        writer, base = disk.writer, disk.base
        root = Ref.to(writer.finish())
        self._progress(disk)
        self._observer(DiskDone(self._subject, disk.export.target))
        return DiskRecord(
            disk=disk.export.target,
            kind="full" if base is None else "incremental",
            size=disk.size,
            root=root,
            format=format_,
            parent=None if base is None else base.point.point,
            dirty_bytes=disk.dirty_bytes,
            read_bytes=writer.read_bytes,
            zero_bytes=writer.zero_bytes,
            new_bytes=writer.new_bytes,
            stored_bytes=writer.stored_bytes,
        )
