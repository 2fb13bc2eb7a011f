"""Segments put together, with bounded memory, and when to do it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from puller.repository.index.index_file import BLOCK_ROWS, IndexFile
from puller.repository.index.rows import Prefixes, Rows, prefixes_of

STEP = 1 << 18
"""Rows that a merge sorts at once: some 6 MiB, and a few times that while it is done."""

RATIO = 8
"""Each segment has at least this many times the rows of the next smaller one.

Then 50 million rows are in four segments at most, and a row is rewritten about a dozen times in all."""

SMALL = 1 << 17
"""A segment with fewer rows is not left alone, whatever comes: rewriting it takes some 20 ms."""


def untouched(sizes: Sequence[int], fresh: int) -> int:
    """How many of the segments stay as they are when ``fresh`` rows come to them.

    ``sizes`` descend. The others are to be merged with what is fresh.
    """
    kept = len(sizes)
    while kept and sizes[kept - 1] < max(RATIO * fresh, SMALL):
        kept -= 1
        fresh += sizes[kept]
    return kept


def merge(segments: Sequence[IndexFile], numbers: NDArray[np.int64] | None) -> Iterator[Rows]:
    """All rows of ``segments`` in ascending order, some at a time, the pack numbers replaced.

    Pack number k becomes ``numbers[k]``; rows for which that is negative are left out. None keeps all.
    Raises DamagedData, OSError.
    """
    cursors = [_Cursor(segment) for segment in segments]
    for bound in _bounds(segments):
        rows = Rows.join([cursor.up_to(bound) for cursor in cursors]).in_order()
        yield rows if numbers is None else rows.renumbered(numbers)


def _bounds(segments: Sequence[IndexFile]) -> Prefixes:
    """Prefixes that part the rows into about equal shares of STEP, however the ids are spread."""
    uppers = np.sort(np.concatenate([np.zeros(0, np.uint64), *(segment.uppers for segment in segments)]))
    every = STEP // BLOCK_ROWS
    return np.concatenate([uppers[every - 1 : -1 : every], uppers[-1:]])


class _Cursor:
    """Reads one segment from its beginning to its end."""

    def __init__(self, segment: IndexFile) -> None:
        self._segment = segment
        self._next = 0
        self._rows = Rows.none()

    def up_to(self, bound: int) -> Rows:
        """The rows not yet taken whose prefix is ``bound`` at most."""
        uppers = self._segment.uppers
        stop = min(len(uppers), int(np.searchsorted(uppers, bound, "right")) + 1)
        if stop > self._next:
            self._rows = Rows.join([self._rows, self._segment.rows(self._next, stop)])
            self._next = stop
        count = int(np.searchsorted(prefixes_of(self._rows.ids), bound, "right"))
        taken, self._rows = self._rows.cut(0, count), self._rows.cut(count, len(self._rows))
        return taken
