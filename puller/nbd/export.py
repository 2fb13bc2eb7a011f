"""A disk that is served for backup, and the plan of the extents to read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Self

from puller.cancelling import CancelScope
from puller.nbd.block_status import WINDOW, block_status
from puller.nbd.connection import Connection
from puller.nbd.extents import clipped, grouped, merged, overlaid, rounded, widened
from puller.units import CHUNK, MIB, Extent, Kind

_DIRTY = 1
"""Flag of the contexts ``qemu:dirty-bitmap:*`` (QEMU, docs/interop/nbd.txt). In ``qemu:allocation-depth``
the same value says: allocated in the image itself."""

_READS_AS_ZERO = 2
"""``NBD_STATE_ZERO`` of ``base:allocation``. ``NBD_STATE_HOLE`` (1) alone promises nothing about content."""

_GAP = 32 * MIB
"""Clean bytes that one allocation request may cover between two dirty ranges.

QEMU pays for each slice of a qcow2's L2 table that it has to load, and little for extents; a slice covers as
much at the default cluster size. A shorter gap hardly ever costs one more slice, and spares a request."""

_KEPT = 32768
"""Most dirty extents that are remembered from one pass over the bitmap to the next: some 4 MiB."""

_SPAN = 18 * WINDOW
"""Most bytes of disk whose dirty ranges are gathered before their allocation is asked for."""

_RANGES = 8192
"""Most dirty ranges that are gathered: a MiB of memory."""


class Export:
    """The export at ``uri`` (``nbd://`` or ``nbd+unix://``); the context ``changed`` marks the changes.

    The end of ``scope`` interrupts it, also while it is being opened.

    It holds one connection for data and allocation, and a second one for ``changed`` (see Connection).
    One thread owns an export; only ``interrupt`` may be called from others. Every method
    raises NbdError when the server fails. Close it before the backup job ends: a client that is
    connected while QEMU stops its server can crash QEMU (CVE-2024-7409).
    """

    def __init__(self, uri: str, changed: str | None = None, scope: CancelScope | None = None) -> None:
        self.data = Connection(uri, "base:allocation", scope)
        self._connections = [self.data]
        if changed is not None:
            self._connections.append(self._open_second(uri, changed, scope))
        self.size = self.data.size
        self._kept: tuple[int | None, list[Extent]] | None = None

    def _open_second(self, uri: str, context: str, scope: CancelScope | None) -> Connection:
        try:
            return Connection(uri, context, scope)
        except BaseException:
            self.data.close()
            raise

    @property
    def uri(self) -> str:
        """The URI, for messages."""
        return self.data.uri

    def dirty(self, start: int = 0, end: int | None = None) -> Iterator[Extent]:
        """Yield the extents that the bitmap marks as changed between two offsets, ascending, all DATA."""
        limit = self.size if end is None else min(end, self.size)
        return clipped(merged(self._dirty(start, limit)), start, limit)

    def _dirty(self, start: int, end: int) -> Iterator[Extent]:
        for offset, length, flags in block_status(self._bitmap(), start, end):
            if flags & _DIRTY:
                yield Extent(offset, length, Kind.DATA)

    def _changed(self, old_size: int | None) -> Iterator[Extent]:
        """The bitmap, plus everything after the old end of a disk that was resized.

        QEMU cuts the bitmap when a disk shrinks and extends it with clean bits when it grows; the data
        after the old end may be any old content of a cluster (seen with QEMU 7.2)::

            bitmap  ..##....#|..........      old size |
            out     ..##....##########
        """
        known = self.size if old_size is None else old_size
        end = self.size if known == self.size else min(known, self.size) // CHUNK * CHUNK
        yield from clipped(self.dirty(), 0, end)
        if end < self.size:
            yield Extent(end, self.size - end, Kind.DATA)

    def _bitmap(self) -> Connection:
        if len(self._connections) == 1:
            raise ValueError(
                f"cannot read the changes of {self.uri}: it was opened without a context for them"
            )
        return self._connections[1]

    def allocation(self, ranges: Iterable[Extent]) -> Iterator[Extent]:
        """Yield data and zero extents in ascending ``ranges``, with requests only near them.

        A hole that is not known to read as zero counts as data.
        """
        return merged(
            extent
            for group in grouped(ranges, gap=_GAP, span=_SPAN, most=_RANGES)
            for extent in overlaid(group, self._allocation(group[0].offset, group[-1].end))
        )

    def _allocation(self, start: int, end: int) -> Iterator[Extent]:
        for offset, length, flags in block_status(self.data, start, end):
            yield Extent(offset, length, Kind.ZERO if flags & _READS_AS_ZERO else Kind.DATA)

    def changes(self, old_size: int | None = None) -> Iterator[Extent]:
        """Yield the plan of an incremental: whole chunks, ascending, that hold a dirty byte.

        ``old_size`` is the disk's size in bytes at the start of the bitmap, if it may have differed.

        Chunks are ZERO if they read as zero, else DATA. The dirty ranges are widened to chunks before their
        allocation is queried, so that a fine-grained bitmap gives few ranges.
        """
        if self._kept is not None and self._kept[0] == old_size:
            changed: Iterable[Extent] = self._kept[1]
        else:
            changed = self._changed(old_size)
        return rounded(self.allocation(widened(changed, self.size)), self.size)

    def contents(self) -> Iterator[Extent]:
        """Yield the plan of a full: all of the disk in whole chunks, ascending, as DATA or ZERO."""
        return rounded(self.allocation(self._whole()), self.size)

    def _whole(self) -> list[Extent]:
        return [Extent(0, self.size, Kind.DATA)] if self.size else []

    def dirty_bytes(self, old_size: int | None = None) -> int:
        """Count the changed bytes if the export has ``changed``; else the bytes that may differ from zero.

        This reads the bitmap, or the allocation of the whole disk, once; ``changes`` then reuses it, unless
        it is too large to remember.
        """
        if len(self._connections) == 1:
            data = self.allocation(self._whole())
            return sum(extent.length for extent in data if extent.kind is Kind.DATA)
        total = 0
        found: list[Extent] = []
        for extent in self._changed(old_size):
            total += extent.length
            if len(found) <= _KEPT:
                found.append(extent)
        self._kept = (old_size, found) if len(found) <= _KEPT else None
        return total

    def chunk(self, number: int) -> bytes:
        """Return the content of one chunk, with zeros after the disk's end. Nothing may be in flight."""
        start = number * CHUNK
        content = self.data.read(min(CHUNK, self.size - start), start)
        return content.ljust(CHUNK, b"\0")

    def chunks(self, numbers: Sequence[int]) -> list[bytes]:
        """Return the contents of a few chunks, which are read at the same time; see ``chunk``."""
        whole = [number for number in numbers if (number + 1) * CHUNK <= self.size]
        found = dict(zip(whole, self.data.read_all([number * CHUNK for number in whole], CHUNK), strict=True))
        return [found[number] if number in found else self.chunk(number) for number in numbers]

    def interrupt(self) -> None:
        """Make the owner's current and later calls fail with NbdError. For any thread."""
        for connection in self._connections:
            connection.interrupt()

    def drop(self) -> None:
        """Close at once, even with pending requests; buffers of pending reads are free afterwards."""
        for connection in self._connections:
            connection.drop()

    def close(self) -> None:
        """Close all connections cleanly. Nothing may be pending."""
        for connection in self._connections:
            connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self.drop()  # a server that hangs would not answer a disconnect
