"""Reusable buffers of a fixed size, and the batches of disk content that travel in them.

Memory stays bounded because nothing else allocates: a thread that needs a buffer waits until another
returns one. A new buffer per request would also leak on libnbd 1.14.
"""

from __future__ import annotations

import mmap
import threading
from dataclasses import dataclass

from puller.pipeline.lane import Closed


class Buffer:
    """Page-aligned memory, as a writable ``view``; it still holds the last user's content.

    Page-aligned memory can be written to a file with direct I/O.
    """

    __slots__ = ("_pool", "view")

    def __init__(self, pool: BufferPool, size: int) -> None:
        self._pool = pool
        self.view = memoryview(mmap.mmap(-1, size))

    def release(self) -> None:
        """Return the buffer to its pool. Neither it nor a view of it may be used afterwards."""
        self._pool.give_back(self)


class BufferPool:
    """At most ``count`` buffers of ``size`` bytes each, created when first needed."""

    def __init__(self, count: int, size: int) -> None:
        self.size = size
        self._left = count
        self._free: list[Buffer] = []
        self._closed = False
        self._changed = threading.Condition()

    def acquire(self) -> Buffer:
        """Return a buffer, waiting for one if necessary. Raises Closed once the pool is closed."""
        with self._changed:
            while not (self._free or self._left or self._closed):
                self._changed.wait()
            return self._take()

    def try_acquire(self) -> Buffer | None:
        """Return a buffer, or None if all are in use. Raises Closed once the pool is closed."""
        with self._changed:
            return self._take() if self._free or self._left or self._closed else None

    def _take(self) -> Buffer:
        if self._closed:
            raise Closed
        if self._free:
            return self._free.pop()
        self._left -= 1
        return Buffer(self, self.size)

    def give_back(self, buffer: Buffer) -> None:
        """Take ``buffer`` for reuse."""
        with self._changed:
            if not self._closed:
                self._free.append(buffer)
            self._changed.notify()

    def close(self) -> None:
        """Make every current and later ``acquire`` raise Closed, and free the buffers.

        The garbage collector would free them much later, as it does not see how large they are.
        """
        with self._changed:
            self._closed = True
            self._free.clear()
            self._changed.notify_all()


@dataclass(frozen=True, slots=True)
class ReadSegment:
    """``length`` bytes of a disk from ``offset``, at ``position`` in a buffer.

    ``offset`` and ``position`` are multiples of the chunk size. So is ``length``, except at the end
    of a disk; there the buffer holds zero bytes up to the next multiple."""

    offset: int
    length: int
    position: int


@dataclass(frozen=True, slots=True)
class Batch:
    """A buffer and the segments of one disk in it."""

    buffer: Buffer
    segments: tuple[ReadSegment, ...]

    @property
    def length(self) -> int:
        """Bytes of the disk in the buffer."""
        return sum(segment.length for segment in self.segments)

    def release(self) -> None:
        """Return the buffer to its pool."""
        self.buffer.release()
