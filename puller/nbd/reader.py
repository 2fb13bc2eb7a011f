"""Reads planned extents of an export, many requests at a time, into pooled buffers."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass

from puller.nbd.export import Export
from puller.pipeline.buffers import Batch, Buffer, BufferPool, ReadSegment
from puller.pipeline.latency import MOST_READS
from puller.pipeline.readgate import ReadGate
from puller.units import CHUNK, KIB, Extent, Kind

_REQUEST = 512 * KIB
"""Most bytes of a request: larger ones cost QEMU more."""

_ABSENCE = 0.001
"""Seconds without a call into libnbd after which an answer may have been there for long."""


def read(
    export: Export,
    extents: Iterable[Extent],
    pool: BufferPool,
    *,
    gate: ReadGate,
    planned: Callable[[Extent], None],
) -> Generator[Batch, None, None]:
    """Read the DATA among ``extents``; yield filled buffers in the order in which they complete.

    ``extents`` ascend and consist of whole chunks, as ``Export.changes`` and ``Export.contents`` make
    them. ``planned`` is called with each of them, ZERO ones too, in that order and before any batch
    with a part of it is yielded. As many requests are in flight as ``gate`` admits, and QEMU
    serves. The pool's buffers hold whole chunks; extents that are too small for a buffer share one::

        extents   DDDDDDDDDDDDDDDD.......D....DD..........DDDDDD
        buffers  [DDDDDDDD][DDDDDDDD][D|DD|DDDDD][D.......]

    The caller releases each batch, in any thread. If the caller stops early, it must close the
    generator. An early end always drops the export's connections, so that no buffer returns to the pool
    while libnbd may still write into it. Raises NbdError if the server fails, Closed
    if the pool is closed.
    """
    reading = _Reading(export, pool, gate)
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


@dataclass(frozen=True, slots=True)
class _Request:
    """A request in flight, sent at the time ``sent``; ``lone`` if no other was in flight then."""

    filling: _Filling
    segment: ReadSegment
    sent: float
    lone: bool


class _Reading:
    """The requests in flight, and the buffer that still accepts segments.

    libnbd takes answers only inside its calls, so a request's latency is known only if its reader has not
    been elsewhere since it was sent: in the consumer, say, which waits while the codecs are busy.
    """

    def __init__(self, export: Export, pool: BufferPool, gate: ReadGate) -> None:
        self._export = export
        self._pool = pool
        self._gate = gate
        self._called = self._returned = time.monotonic()
        self._open: _Filling | None = None
        self._held: set[_Filling] = set()
        self._flying: dict[int, _Request] = {}
        self._bytes = 0

    def start(self, extent: Extent) -> Iterator[Batch]:
        """Request all of ``extent``; yield batches that complete while no more requests fit."""
        at = extent.offset
        while at < extent.end:
            filling = self._open or (yield from self._open_next())
            length = min(extent.end - at, self._pool.size - filling.position, _REQUEST)
            while not self._admitted(length):
                yield from self._complete()
            self._request(filling, at, length)
            at += length
            if filling.position == self._pool.size:
                yield from self._seal(filling)

    def _admitted(self, length: int) -> bool:
        """Pass the gate, if a read of ``length`` bytes may be sent now."""
        if not self._flying:
            self._gate.enter()
            return True
        return len(self._flying) < MOST_READS and self._gate.try_enter(self._bytes + length)

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
            self._gate.drop(len(self._flying))
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
        sent = self._note_absence()
        cookie = self._export.data.begin_read(into, offset)
        self._flying[cookie] = _Request(filling, segment, sent, lone=not self._flying)
        self._bytes += length

    def _note_absence(self) -> float:
        """Note whether the reader comes back to libnbd from elsewhere; return the time."""
        now = time.monotonic()
        if now - self._called > _ABSENCE:
            self._returned = now
        self._called = now
        return now

    def _complete(self) -> Iterator[Batch]:
        """Wait for a request; yield its batch if it was the last one."""
        self._note_absence()
        oldest = next(iter(self._flying.values()))
        cookie = self._export.data.wait(oldest.segment.offset)
        self._called = time.monotonic()
        request = self._flying.pop(cookie)
        filling, segment = request.filling, request.segment
        self._bytes -= segment.length
        seconds = self._called - request.sent if request.sent >= self._returned else None
        self._gate.leave(self._export.uri, segment.length, seconds, lone=request.lone)
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
