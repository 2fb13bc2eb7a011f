"""Which contents the repository already holds, by id: what a run asks before it stores anything.

::

    find ─► contents of this run, the latest   (a dictionary)
         ─► contents of earlier runs           (segments of the host's cache)
         ─► contents of this run, the others   (segments in files without a name)

The index never decides what can be restored. A content that it misses is stored once more; so it may
be incomplete, repeat itself, or be rebuilt at any time.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from puller.errors import DamagedData
from puller.repository.format.footer import ID, Ids
from puller.repository.format.pages import Numbers, PackTable, Slots
from puller.repository.index.catalogue import Catalogue
from puller.repository.index.index_file import IndexFile
from puller.repository.index.indexcache import (
    CacheFolder,
    Known,
    cache_directory,
    temporary_directory,
    unnamed_segment,
)
from puller.repository.index.indexfeed import Read, refresh
from puller.repository.index.merging import merge, untouched
from puller.repository.index.rows import Rows, prefixes_of

MISS = -1
"""Pack number that says "not held"."""

SPILL = 1 << 17
"""Contents of this run that are kept in a dictionary, at some 190 bytes each."""


def open_index(
    repository_id: bytes,
    listed: Mapping[bytes, str],
    read: Read,
    table: PackTable,
    excluded: Collection[bytes] = frozenset(),
) -> ChunkIndex:
    """The index of what the ``listed`` index objects name, except contents of ``excluded`` packs.

    See ``refresh`` for ``listed`` and ``read``. A cache folder that cannot be used is no error: then
    the index is built in a temporary folder; and if there is no room for that either, nothing counts
    as held. Raises what ``read`` raises.
    """
    unusable = suppress(OSError, DamagedData)
    with unusable:
        folder = CacheFolder(cache_directory(repository_id.hex()), repository_id)
        known = refresh(folder, listed, read)
        return ChunkIndex(known, table, excluded, folder.path, partial(folder.discard, known.stamp))
    scratch = temporary_directory()
    with (
        unusable,
        tempfile.TemporaryDirectory(prefix="puller-index-", dir=scratch, ignore_cleanup_errors=True) as path,
    ):
        known = refresh(CacheFolder(Path(path), repository_id), listed, read)
        return ChunkIndex(known, table, excluded, scratch)
    return ChunkIndex(Known(Catalogue.empty(), (), b""), table, excluded, scratch)


@dataclass(frozen=True, slots=True)
class _Own:
    """Contents of this run, the value being ``pack << 16 | slot``. ``full`` is on its way into a segment."""

    recent: dict[bytes, int]
    full: Mapping[bytes, int]
    segments: tuple[IndexFile, ...]

    def recall(self, content_id: bytes) -> int | None:
        """The value of a content that is not in a segment yet."""
        value = self.recent.get(content_id)
        return self.full.get(content_id) if value is None else value


class ChunkIndex:
    """Finds contents by id. Safe for many threads, none of which waits for another to find."""

    def __init__(
        self,
        known: Known,
        table: PackTable,
        excluded: Collection[bytes],
        scratch: Path,
        on_damage: Callable[[], None] = lambda: None,
    ) -> None:
        self._stored = known.segments
        self._live = known.catalogue.live(excluded)
        self._numbering = _Numbering(known.catalogue.packs, table)
        self._scratch = scratch
        self._on_damage = on_damage
        # Replaced as a whole, so that whoever finds sees a state that was.
        self._own = _Own({}, {}, ())
        self._changing = threading.Lock()
        self._spilling = threading.Lock()

    def find(self, ids: Ids | bytes) -> tuple[Numbers, Slots]:
        """Where the contents are: for each of n ids its pack number, or MISS, and its slot.

        ``ids`` are n × 16 bytes, or an array (n, 16).
        """
        own = self._own
        batch = _Batch(ids if isinstance(ids, bytes) else ids.tobytes())
        for contents in filter(None, (own.recent, own.full)):
            batch.recall(contents)
        for segment in self._stored:
            batch.look_in(segment, self._live, self._numbering.resolve)
        for segment in own.segments:
            batch.look_in(segment, None, _as_it_is)
        return batch.packs, batch.slots

    def recall(self, content_id: bytes) -> tuple[int, int] | None:
        """The (pack number, slot) of a content, if this run has added it lately."""
        value = self._own.recall(content_id)
        return None if value is None else (value >> 16, value & 0xFFFF)

    def add(self, content_id: bytes, pack: int, slot: int) -> None:
        """Remember a content of this run; what was added first stays."""
        with self._changing:
            recent = self._own.recent
            recent.setdefault(content_id, pack << 16 | slot)
        if len(recent) >= SPILL:
            self._spill()

    def _spill(self) -> None:
        """Turn the dictionary into a segment. Whoever fills the next one meanwhile waits here."""
        with self._spilling:
            with self._changing:
                if len(self._own.recent) < SPILL:
                    return
                self._own = own = replace(self._own, recent={}, full=self._own.recent)
            segments = own.segments
            # Without room for it the dictionary is forgotten: its contents may be stored once more.
            with suppress(OSError, DamagedData):
                segments = self._with(own.segments, _rows_of(own.full))
            with self._changing:
                self._own = replace(self._own, full={}, segments=segments)

    def _with(self, segments: tuple[IndexFile, ...], fresh: Rows) -> tuple[IndexFile, ...]:
        run = unnamed_segment(self._scratch, [fresh], len(fresh))
        kept = untouched([len(segment) for segment in segments], len(run))
        old = [*segments[kept:], run]
        if len(old) > 1:
            run = unnamed_segment(self._scratch, merge(old, None), sum(map(len, old)))
        return *segments[:kept], run

    def close(self) -> None:
        """Let go of all files. If the cache turned out to be damaged, the next run builds it anew."""
        if any(segment.damaged for segment in self._stored):
            with suppress(OSError):
                self._on_damage()
        self._stored, self._own = (), _Own({}, {}, ())


class _Batch:
    """Ids that are looked for, and what has been found of them."""

    def __init__(self, ids: bytes) -> None:
        self._keys = [ids[at : at + ID] for at in range(0, len(ids), ID)]
        self._prefixes = prefixes_of(np.frombuffer(ids, np.uint8))
        self.packs = np.full(len(self._keys), MISS, np.int64)
        self.slots = np.zeros(len(self._keys), np.uint16)
        self._missing = np.arange(len(self._keys))

    def recall(self, contents: Mapping[bytes, int]) -> None:
        """Look among what this run has added lately."""
        values = [(at, value) for at, value in enumerate(map(contents.get, self._keys)) if value is not None]
        if values:
            positions, found = np.array(values, np.int64).T
            self._put(positions, found >> 16, (found & 0xFFFF).astype(np.uint16))

    def look_in(self, segment: IndexFile, live: bytes | None, resolve: Callable[[Numbers], Numbers]) -> None:
        """Look for what is missing; ``resolve`` turns the segment's pack numbers into the run's."""
        if not self._keys:
            return
        positions, numbers, slots = segment.find(self._keys, self._prefixes, live)
        if positions:
            self._put(np.array(positions), resolve(np.array(numbers)), np.array(slots, np.uint16))

    def _put(self, positions: NDArray[np.int64], packs: Numbers, slots: Slots) -> None:
        """Note what was found at ``positions`` of what was missing; go on with the rest."""
        places = self._missing[positions]
        self.packs[places], self.slots[places] = packs, slots
        left = np.ones(len(self._missing), np.bool_)
        left[positions] = False
        (rest,) = left.nonzero()
        self._missing, self._prefixes = self._missing[rest], self._prefixes[rest]
        self._keys = [self._keys[position] for position in rest.tolist()]


class _Numbering:
    """Turns a catalogue's pack numbers into those of the run's table, which learns only what is met."""

    def __init__(self, packs: Ids, table: PackTable) -> None:
        self._packs = packs
        self._table = table
        self._numbers = np.full(len(packs), MISS, np.int64)

    def resolve(self, numbers: Numbers) -> Numbers:
        """The run's numbers for the catalogue's ``numbers``."""
        found = self._numbers[numbers]
        if (found == MISS).any():
            for number in np.unique(numbers[found == MISS]).tolist():
                self._numbers[number] = self._table.number(self._packs[number].tobytes())
            found = self._numbers[numbers]
        return found


def _as_it_is(numbers: Numbers) -> Numbers:
    """Segments of this run have the run's numbers."""
    return numbers


def _rows_of(contents: Mapping[bytes, int]) -> Rows:
    values: NDArray[np.int64] = np.fromiter(contents.values(), np.int64, len(contents))
    ids = np.frombuffer(b"".join(contents), np.uint8).reshape(-1, ID)
    return Rows(ids, (values >> 16).astype(np.uint32), (values & 0xFFFF).astype(np.uint16)).in_order()
