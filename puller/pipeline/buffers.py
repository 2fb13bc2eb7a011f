"""Reusable buffers of a fixed size, and the batches of disk content that travel in them.

Memory stays bounded because nothing else allocates: a thread that needs a buffer waits until another
returns one. A new buffer per request would also leak on libnbd 1.14.
"""

from __future__ import annotations

import mmap
import threading
from dataclasses import dataclass
from typing import Protocol

from puller.pipeline.lane import Closed


class Pool(Protocol):
    """Where a buffer returns to."""

    def give_back(self, buffer: Buffer) -> None:
        """Take ``buffer`` for reuse."""
        ...


class Buffer:
    """Page-aligned memory, as a writable ``view``; it still holds the last user's content.

    Page-aligned memory can be written to a file with direct I/O.
    """

    __slots__ = ("_pool", "view")

    def __init__(self, pool: Pool, size: int) -> None:
        self._pool = pool
        self.view = memoryview(mmap.mmap(-1, size))

    def release(self) -> None:
        """Return the buffer to its pool. Neither it nor a view of it may be used afterwards."""
        self._pool.give_back(self)

    def discard(self) -> None:
        """Give the memory back to the system, although idle threads may hold the buffer for a while."""
        memory = self.view.obj
        if isinstance(memory, mmap.mmap):
            memory.madvise(mmap.MADV_REMOVE)


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


class BufferBudget:
    """Buffers of ``size`` bytes, ``total`` bytes together; both may change while buffers are in use.

    A smaller total takes effect as buffers return.
    """

    def __init__(self, total: int, size: int) -> None:
        self.size = size
        self._total = total
        self._held = 0
        self._free: list[Buffer] = []
        self._closed = False
        self._changed = threading.Condition()

    def resize(self, total: int, size: int) -> None:
        """Set both for later buffers."""
        with self._changed:
            self._total, self.size = total, size
            self._changed.notify_all()

    def acquire(self) -> Buffer:
        """Return a buffer of the present size, waiting for room if necessary. Raises Closed."""
        with self._changed:
            while not self._has_room() and not self._closed:
                self._changed.wait()
            if self._closed:
                raise Closed
            if self._free:
                return self._free.pop()
            self._held += self.size
            return Buffer(self, self.size)

    def _has_room(self) -> bool:
        for buffer in [buffer for buffer in self._free if len(buffer.view) != self.size]:
            self._free.remove(buffer)
            self._held -= len(buffer.view)
            buffer.discard()
        # One buffer is always allowed, or nothing would ever go on.
        return bool(self._free) or not self._held or self._held + self.size <= self._total

    def give_back(self, buffer: Buffer) -> None:
        """Take ``buffer`` for reuse, if it still fits."""
        with self._changed:
            if not self._closed and len(buffer.view) == self.size and self._held <= self._total:
                self._free.append(buffer)
            else:
                self._held -= len(buffer.view)
                buffer.discard()
            self._changed.notify_all()

    def close(self) -> None:
        """Make every current and later ``acquire`` raise Closed, and free the buffers."""
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
