"""Which parts of a disk are read in sequence, so that more of them is worth fetching at once."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from itertools import islice

from puller.units import CHUNK

SEGMENT = 128
"""Chunks that are fetched together for a sequential reader: 8 MiB."""

DENSE = 8
"""Chunks read of a segment from which on the rest of it is fetched."""

AHEAD = 3
"""Segments that are fetched ahead of a reader that has come from the one before, if the cache has room."""

_HOLE = 8
"""Most segments without data that a reader is believed to have skipped: 64 MiB."""

_KNOWN = 4096
"""Segments whose use is remembered: 32 GiB of disk."""


class Sequences:
    """The recent use of a disk of ``chunks`` chunks. Safe for many threads.

    ``capacity`` is that of the cache, in bytes: a segment that was fetched so long ago that it cannot be in
    there any more is fetched again. ``is_hole`` says of a segment whether it is known to hold no data, which
    readers skip.
    """

    def __init__(self, chunks: int, capacity: int, is_hole: Callable[[int], bool]) -> None:
        self._is_hole = is_hole
        self._chunks = chunks
        self._segments = -(-chunks // SEGMENT)
        self._most = max(capacity // (SEGMENT * CHUNK), 1)
        self._read: OrderedDict[int, int] = OrderedDict()
        self._begun: OrderedDict[int, None] = OrderedDict()
        self._lock = threading.Lock()

    def touch(self, first: int, end: int) -> list[int]:
        """Note a read of the chunks from ``first`` to before ``end``; return the segments to fetch now."""
        with self._lock:
            wanted = [
                other
                for segment in range(first // SEGMENT, (end - 1) // SEGMENT + 1)
                for other in self._note(segment, first - segment * SEGMENT, end - segment * SEGMENT)
            ]
            return [segment for segment in dict.fromkeys(wanted) if self._begin(segment)]

    def forget(self, segment: int) -> None:
        """Take back that a segment is being fetched."""
        with self._lock:
            self._begun.pop(segment, None)

    def chunks_of(self, segment: int) -> tuple[int, int]:
        """Return the first chunk of a segment, and the one behind its last."""
        return segment * SEGMENT, min((segment + 1) * SEGMENT, self._chunks)

    def _note(self, segment: int, begin: int, stop: int) -> list[int]:
        """Note the read chunks of one segment; return it and those ahead, if it is read in sequence."""
        bits = (1 << min(stop, SEGMENT)) - (1 << max(begin, 0))
        self._read[segment] = self._read.get(segment, 0) | bits
        self._read.move_to_end(segment)
        if len(self._read) > _KNOWN:
            self._read.popitem(last=False)
        if self._count(self._before(segment)) >= SEGMENT // 2:
            return [segment, *self._behind(segment)]
        return [segment] if self._count(segment) >= DENSE else []

    def _before(self, segment: int) -> int:
        """Return the segment that a sequential reader has read before this one."""
        return next((at for at in range(segment - 1, segment - _HOLE, -1) if not self._is_hole(at)), -1)

    def _behind(self, segment: int) -> Iterator[int]:
        """Return the segments that a sequential reader will read next."""
        after = range(segment + 1, min(segment + _HOLE, self._segments))
        return islice((at for at in after if not self._is_hole(at)), min(AHEAD, self._room()))

    def _room(self) -> int:
        """Return how many segments the cache can take before it drops some that nobody has read yet."""
        unread = sum(self._count(segment) < SEGMENT // 2 for segment in self._begun)
        return max(self._most * 3 // 4 - unread, 0)

    def _count(self, segment: int) -> int:
        return self._read.get(segment, 0).bit_count()

    def _begin(self, segment: int) -> bool:
        is_new = segment not in self._begun
        self._begun[segment] = None
        self._begun.move_to_end(segment)
        if len(self._begun) > self._most:
            self._begun.popitem(last=False)
        return is_new
