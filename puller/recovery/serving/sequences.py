"""Which parts of a disk are read in sequence, so that more of them is worth fetching at once."""

from __future__ import annotations

import threading
from collections import OrderedDict

from puller.units import CHUNK

SEGMENT = 64
"""Chunks that are fetched together for a sequential reader: 4 MiB."""

DENSE = 8
"""Chunks read of a segment from which on the rest of it is fetched."""

AHEAD = 2
"""Segments that are fetched ahead of a reader that has come from the one before."""

_KNOWN = 4096
"""Segments whose use is remembered: 16 GiB of disk."""


class Sequences:
    """The recent use of a disk of ``chunks`` chunks. Safe for many threads.

    ``capacity`` is that of the cache, in bytes: a segment that was fetched so long ago that it cannot be in
    there any more is fetched again.
    """

    def __init__(self, chunks: int, capacity: int) -> None:
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

    def _note(self, segment: int, begin: int, stop: int) -> range:
        """Note the read chunks of one segment; return it and those ahead, if it is read in sequence."""
        bits = (1 << min(stop, SEGMENT)) - (1 << max(begin, 0))
        self._read[segment] = self._read.get(segment, 0) | bits
        self._read.move_to_end(segment)
        if len(self._read) > _KNOWN:
            self._read.popitem(last=False)
        if self._count(segment - 1) >= SEGMENT // 2:
            return range(segment, min(segment + 1 + AHEAD, self._segments))
        return range(segment, segment + (self._count(segment) >= DENSE))

    def _count(self, segment: int) -> int:
        return self._read.get(segment, 0).bit_count()

    def _begin(self, segment: int) -> bool:
        is_new = segment not in self._begun
        self._begun[segment] = None
        self._begun.move_to_end(segment)
        if len(self._begun) > self._most:
            self._begun.popitem(last=False)
        return is_new
