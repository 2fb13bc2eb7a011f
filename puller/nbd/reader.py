"""Reads planned extents of an export, many requests at a time, into pooled buffers."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator

from puller.nbd.export import Export
from puller.pipeline.buffers import Batch, Buffer, BufferPool, ReadSegment
from puller.units import CHUNK, KIB, Extent, Kind

_REQUESTS = 16
"""Most requests in flight: QEMU serves 16 of a connection at once (MAX_NBD_REQUESTS); more only queue."""

_REQUEST = 512 * KIB
"""Most bytes of a request: larger ones cost QEMU more."""


def read(
    export: Export,
    extents: Iterable[Extent],
    pool: BufferPool,
    *,
    window: int,
    planned: Callable[[Extent], None],
) -> Generator[Batch, None, None]:
    """Read the DATA among ``extents``; yield filled buffers in the order in which they complete.

    ``extents`` ascend and consist of whole chunks, as ``Export.changes`` and ``Export.contents`` make
    them. ``planned`` is called with each of them, ZERO ones too, in that order and before any batch
    with a part of it is yielded. At most ``window`` bytes are in flight. The pool's buffers hold whole
    chunks; extents that are too small for a buffer share one::

        extents   DDDDDDDDDDDDDDDD.......D....DD..........DDDDDD
        buffers  [DDDDDDDD][DDDDDDDD][D|DD|DDDDD][D.......]

    The caller releases each batch, in any thread. If the caller stops early, it must close the
    generator. An early end always drops the export's connections, so that no buffer returns to the pool
    while libnbd may still write into it. Raises NbdError if the server fails, Closed
    if the pool is closed.
    """
    reading = _Reading(export, pool, window)
    try:
        for extent in extents:
            planned(extent)
            if extent.kind is Kind.DATA:
                yield from reading.start(extent)
        yield from reading.finish()
    finally:
        reading.abandon()


class _Filling:
    """A buffer in use: ``position`` is where the next segment goes, ``pending`` counts requests in flight."""

    __slots__ = ("buffer", "pending", "position", "segments")

    def __init__(self, buffer: Buffer) -> None:
        self.buffer = buffer
        self.segments: list[ReadSegment] = []
        self.position = 0
        self.pending = 0

    def append(self, offset: int, length: int) -> tuple[ReadSegment, memoryview]:
        """Add a segment; return it and the memory for its bytes. The rest of its last chunk is zeroed."""
        end = self.position + length
        segment = ReadSegment(offset, length, self.position)
        self.segments.append(segment)
        into = self.buffer.view[self.position : end]
        self.position = -(-end // CHUNK) * CHUNK
        if end < self.position:
            self.buffer.view[end : self.position] = bytes(self.position - end)
        self.pending += 1
        return segment, into


class _Reading:
    """The requests in flight, and the buffer that still accepts segments."""

    def __init__(self, export: Export, pool: BufferPool, window: int) -> None:
        self._export = export
        self._pool = pool
        self._window = window
        self._open: _Filling | None = None
        self._held: set[_Filling] = set()
        self._flying: dict[int, tuple[_Filling, ReadSegment]] = {}
        self._bytes = 0

    def start(self, extent: Extent) -> Iterator[Batch]:
        """Request all of ``extent``; yield batches that complete while no more requests fit."""
        at = extent.offset
        while at < extent.end:
            filling = self._open or (yield from self._open_next())
            length = min(extent.end - at, self._pool.size - filling.position, _REQUEST)
            while self._flying and (len(self._flying) >= _REQUESTS or self._bytes + length > self._window):
                yield from self._complete()
            self._request(filling, at, length)
            at += length
            if filling.position == self._pool.size:
                yield from self._seal(filling)

    def finish(self) -> Iterator[Batch]:
        """Yield the remaining batches."""
        if self._open is not None:
            yield from self._seal(self._open)
        while self._flying:
            yield from self._complete()

    def abandon(self) -> None:
        """Release the buffers that no batch has taken. Does nothing after ``finish``."""
        if self._flying:
            self._export.drop()
        for filling in self._held:
            filling.buffer.release()
        self._held.clear()

    def _open_next(self) -> Generator[Batch, None, _Filling]:
        self._open = _Filling((yield from self._buffer()))
        self._held.add(self._open)
        return self._open

    def _buffer(self) -> Generator[Batch, None, Buffer]:
        """Return a buffer. Wait only if this reader holds none, so that readers never wait for each other."""
        while (buffer := self._pool.try_acquire()) is None:
            if not self._flying:
                return self._pool.acquire()
            yield from self._complete()
        return buffer

    def _request(self, filling: _Filling, offset: int, length: int) -> None:
        segment, into = filling.append(offset, length)
        cookie = self._export.data.begin_read(into, offset)
        self._flying[cookie] = filling, segment
        self._bytes += length

    def _complete(self) -> Iterator[Batch]:
        """Wait for a request; yield its batch if it was the last one."""
        _, oldest = next(iter(self._flying.values()))
        cookie = self._export.data.wait(oldest.offset)
        filling, segment = self._flying.pop(cookie)
        self._bytes -= segment.length
        self._export.data.retire_read(cookie, segment.offset, segment.length)
        filling.pending -= 1
        if not filling.pending and filling is not self._open:
            yield self._batch(filling)

    def _seal(self, filling: _Filling) -> Iterator[Batch]:
        """Add no more to ``filling``; yield its batch if all of it has arrived already."""
        self._open = None
        if not filling.pending:
            yield self._batch(filling)

    def _batch(self, filling: _Filling) -> Batch:
        self._held.remove(filling)
        return Batch(filling.buffer, tuple(filling.segments))
