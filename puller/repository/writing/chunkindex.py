"""Lookup of stored contents by id, which a run does before it stores anything.

::

    find ─► contents met lately: of this run, and of packs whose footers were read    (a dictionary)
         ─► hints: in which pack to look                (the host's files; a sample of this run's ids)
              └─► the footer of that pack, in which the neighbours are found, too

The index never decides what can be restored. A content that it misses is stored again, so it may be
incomplete, have duplicates, or be rebuilt at any time. Every hit is in a footer that this run has read.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np

from puller.errors import DamagedData
from puller.repository.format.index import id_bits
from puller.repository.format.packname import ID, PackKind
from puller.repository.format.pages import Numbers, PackTable, Slots
from puller.repository.index.hints import HintFile
from puller.repository.reading.footers import Footers

MISS = -1
"""Pack number for "not stored"."""

RECENT = 1 << 17
"""Most contents in the dictionary."""

OWN = 1 << 16
"""Most ids of this run's contents that are kept after the contents were evicted."""

_DEAD = bytes(ID)


@dataclass
class _Pack:
    """A pack whose contents are in the dictionary. ``after`` is the next one's place in the hints."""

    kind: PackKind
    after: tuple[HintFile, int] | None = None
    is_own: bool = False
    ids: list[bytes] = field(default_factory=list)


class ChunkIndex:
    """Finds contents by id. Safe for many threads."""

    def __init__(
        self,
        files: Sequence[HintFile],
        footers: Footers,
        table: PackTable,
        avoided: Collection[bytes] = (),
        damaged: Collection[bytes] = (),
    ) -> None:
        """Contents of packs that are ``avoided``, or in ``damaged`` at the lookup, count as not stored."""
        self._files = list(files)
        self.footers = footers
        self._table = table
        self._avoided = avoided
        self._damaged = damaged
        # Read without the lock, so that lookups wait for nobody.
        self._found: dict[PackKind, dict[bytes, int]] = {kind: {} for kind in PackKind}
        self._packs: OrderedDict[int, _Pack] = OrderedDict()
        self._held = 0
        self._useless: set[int] = set()
        self._own: dict[bytes, int] = {}
        self._own_bound = 1 << 64
        self._lock = threading.Lock()

    def find(self, kind: PackKind, ids: Sequence[bytes]) -> tuple[Numbers, Slots]:
        """Return the places of contents: for each of n ids its pack number, or MISS, and its slot."""
        values = [*map(self._found[kind].get, ids)]
        missing = [place for place, value in enumerate(values) if value is None]
        for _ in self._follow_hints(kind, [ids[place] for place in missing]) if missing else ():
            for place in missing:  # at once: the next contents may evict it
                if values[place] is None:
                    values[place] = self._found[kind].get(ids[place])
        found = np.array([MISS << 16 if value is None else value for value in values], np.int64)
        packs, slots = found >> 16, (found & 0xFFFF).astype(np.uint16)
        for pack in set(packs.tolist()) - {MISS}:
            if self._table.pack_id(pack) in self._damaged:
                packs[packs == pack] = MISS
            else:
                self._note_use(pack, int(slots[packs == pack].max()))
        return packs, slots

    def add(self, kind: PackKind, pack: int, first: int, ids: Sequence[bytes]) -> None:
        """Remember contents that this run has written into the slots of ``pack`` from ``first`` on."""
        with self._lock:
            if pack not in self._packs:
                self._packs[pack] = _Pack(kind, is_own=True)
            self._put(pack, [*zip(ids, range(first, first + len(ids)), strict=True)])

    def close(self) -> None:
        """Close all files."""
        self._files = []

    def _follow_hints(self, kind: PackKind, ids: Sequence[bytes]) -> Iterator[None]:
        """Read the footers that the hints name; yield after each."""
        for pack in map(self._own.get, ids):
            if pack is not None and self._read(kind, pack, None):
                yield
        numbers = id_bits(np.frombuffer(b"".join(ids), np.uint8).reshape(-1, ID))
        for file in list(self._files):
            try:
                yield from (None for number in file.find(numbers) if self._read_hinted(kind, file, number))
            except (OSError, DamagedData):  # the next run writes another file
                self._files = [other for other in self._files if other is not file]
                with suppress(OSError):
                    file.path.unlink()

    def _read_hinted(self, kind: PackKind, file: HintFile, number: int) -> bool:
        named = file.pack(number)
        if named is None or named[0] is not kind:
            return False
        return self._read(kind, self._table.number(named[1]), (file, number + 1))

    def _read(self, kind: PackKind, pack: int, after: tuple[HintFile, int] | None) -> bool:
        """Add a pack's contents; ``after`` is None for a pack of this run. Return whether it is known now."""
        pack_id = self._table.pack_id(pack)
        with self._lock:  # another thread may be adding it
            if pack in self._packs:
                return True
        if pack in self._useless or pack_id in self._avoided:
            return False
        try:
            ids = self.footers.ids(kind, pack_id)
        except DamagedData:
            if after is not None:  # else it may be uploading
                self._useless.add(pack)
            return False
        named = [(key.tobytes(), slot) for slot, key in enumerate(ids)]
        with self._lock:
            if pack not in self._packs:
                self._packs[pack] = _Pack(kind, after)
                self._put(pack, [(key, slot) for key, slot in named if key != _DEAD])
        return True

    def _put(self, pack: int, contents: Collection[tuple[bytes, int]]) -> None:
        """With the lock held: add contents of one of the packs, and evict the oldest."""
        entry = self._packs[pack]
        self._found[entry.kind].update({content_id: pack << 16 | slot for content_id, slot in contents})
        entry.ids += [content_id for content_id, _ in contents]
        self._held += len(contents)
        self._packs.move_to_end(pack)
        while self._held > RECENT and len(self._packs) > 1:
            self._forget(*self._packs.popitem(last=False))

    def _forget(self, pack: int, entry: _Pack) -> None:
        found = self._found[entry.kind]
        for content_id in entry.ids:
            if found.get(content_id, MISS) >> 16 == pack:
                del found[content_id]
        self._held -= len(entry.ids)
        if entry.is_own:
            self._own.update(dict.fromkeys(self._sampled(entry.ids), pack))
        while len(self._own) > OWN and self._own_bound > 1:
            self._own_bound >>= 1
            self._own = {content_id: self._own[content_id] for content_id in self._sampled(self._own)}

    def _sampled(self, ids: Iterable[bytes]) -> list[bytes]:
        return [content_id for content_id in ids if int.from_bytes(content_id[:8], "big") < self._own_bound]

    def _note_use(self, pack: int, slot: int) -> None:
        """Note a use against eviction; from the middle of a pack on, read the pack written after it."""
        with self._lock:
            entry = self._packs.get(pack)
            if entry is None:
                return
            self._packs.move_to_end(pack)
            after = entry.after if 2 * slot >= len(entry.ids) else None
            entry.after = None if after else entry.after
        if after is not None:
            with suppress(OSError, DamagedData):
                self._read_hinted(entry.kind, *after)
