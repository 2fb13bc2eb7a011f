"""Reading of packs: footers by one request for the tail, slots by merged ranges."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from puller.cancelling import Scoped
from puller.errors import DamagedData, MissingObject, ObjectChanged, ObjectNotFound
from puller.repository.format.chunk_slot import Piece, SealedSlotReader, SlotReader
from puller.repository.format.footer import TRAILER, Footer, decode_footer, decode_trailer
from puller.repository.format.packname import PackKind, parse_pack_name
from puller.repository.keys.keyring import KeyRing
from puller.repository.reading.keyed_locks import KeyedLocks
from puller.store.base import Store
from puller.units import KIB, MIB

T = TypeVar("T")

TAIL = 64 * KIB
"""First guess at the tail: the footer of a 32 MiB pack of 64 KiB chunks is 10 to 30 KiB."""

MERGE_GAP = 64 * KIB
"""Gap up to which slots are fetched in one range: a request costs more than one unneeded chunk."""

RANGE_LIMIT = 8 * MIB
"""Largest merged range, so that readers' memory stays small."""

CACHED = 16 * MIB
"""Bytes of opened packs in the cache."""


OPENINGS = 5
"""Most retries for a pack that prune compacts while it is read. A prune compacts a pack once."""

_REMEMBERED = 100_000
"""Packs whose generation is remembered: some 15 MB. Beyond that a folder of packs is listed again."""


@dataclass(frozen=True)
class StoredPack:
    """An opened pack. ``tail`` is the data read for the footer, which may hold all of a small pack."""

    kind: PackKind
    pack_id: bytes
    footer: Footer
    size: int
    generation: int
    tail: bytes = field(repr=False)

    @property
    def name(self) -> str:
        """Name of the object."""
        return self.kind.object_name(self.pack_id, self.generation)

    @property
    def memory(self) -> int:
        """Bytes in memory: the tail, the table with offsets, and objects."""
        return len(self.tail) + 29 * self.footer.count + 2 * KIB


@dataclass(frozen=True, slots=True)
class Span:
    """Neighbouring slots to fetch in one range of a pack."""

    slots: tuple[int, ...]
    offset: int
    length: int


def merge(footer: Footer, slots: Sequence[int]) -> Iterator[Span]:
    """Cut ascending ``slots`` into spans whose gaps are at most MERGE_GAP and lengths RANGE_LIMIT."""
    offsets = footer.offsets.tolist()
    span: list[int] = []
    start = end = 0
    for slot in slots:
        first, last = offsets[slot], offsets[slot + 1]
        if span and (first - end > MERGE_GAP or last - start > RANGE_LIMIT):
            yield Span(tuple(span), start, end - start)
            span = []
        if not span:
            start = first
        span.append(slot)
        end = last
    if span:
        yield Span(tuple(span), start, end - start)


def _grouped(spans: Sequence[Span]) -> Iterator[list[Span]]:
    """Cut ``spans`` into groups of at most RANGE_LIMIT together."""
    group: list[Span] = []
    for span in spans:
        if group and sum(each.length for each in group) + span.length > RANGE_LIMIT:
            yield group
            group = []
        group.append(span)
    if group:
        yield group


def _missing(name: str) -> MissingObject:
    return MissingObject(f"{name} is missing from the store")


class _Cache:
    """The last opened packs, by id. Safe for many threads."""

    def __init__(self) -> None:
        self._packs: OrderedDict[bytes, StoredPack] = OrderedDict()
        self._memory = 0
        self._lock = threading.Lock()

    def get(self, pack_id: bytes) -> StoredPack | None:
        with self._lock:
            known = self._packs.get(pack_id)
            if known is not None:
                self._packs.move_to_end(pack_id)
            return known

    def keep(self, pack: StoredPack) -> None:
        with self._lock:
            self._drop(pack.pack_id)
            self._packs[pack.pack_id] = pack
            self._memory += pack.memory
            while self._memory > CACHED:
                self._drop(next(iter(self._packs)))

    def forget(self, pack_id: bytes) -> None:
        with self._lock:
            self._drop(pack_id)

    def _drop(self, pack_id: bytes) -> None:
        pack = self._packs.pop(pack_id, None)
        self._memory -= pack.memory if pack else 0


class PackReader(Scoped):
    """Reads verified contents from the packs of one repository. Safe for many threads."""

    def __init__(self, store: Store, keys: KeyRing) -> None:
        self._store = store
        self.scope = store.scope
        self._keys = keys
        self._cache = _Cache()
        self._generations: dict[bytes, int] = {}
        self._lock = threading.Lock()
        self._loading = KeyedLocks()
        self.damaged: set[bytes] = set()
        """Ids of packs known to be missing or damaged, to which nothing new should refer."""

    def open(self, kind: PackKind, pack_id: bytes, generation: int | None = None) -> StoredPack:
        """Return the pack with its footer, of ``generation`` or of any that can be read.

        Raises MissingObject, DamagedData, StoreError.
        """
        # Threads that need one pack at the same time fetch its footer once.
        with self._loading.of(pack_id):
            known = self._cache.get(pack_id)
            if known is not None and generation in {None, known.generation}:
                return known
            try:
                pack = self.load(kind, pack_id, generation)
            except DamagedData:
                self.damaged.add(pack_id)
                raise
            self._cache.keep(pack)
            return pack

    def forget(self, pack_id: bytes) -> None:
        """Drop a cached footer that turned out to be outdated."""
        self._cache.forget(pack_id)

    def load(self, kind: PackKind, pack_id: bytes, generation: int | None = None) -> StoredPack:
        """Like ``open``, but read the pack as stored now, without the cache."""
        if generation is None:
            return self._load_any(kind, pack_id)
        try:
            return self._load(kind, pack_id, generation)
        except ObjectNotFound as error:
            raise _missing(kind.object_name(pack_id, generation)) from error

    def _load_any(self, kind: PackKind, pack_id: bytes) -> StoredPack:
        """Load the generation that was last known, else the highest readable one."""
        failure: ObjectNotFound | DamagedData
        try:
            return self._load(kind, pack_id, self._generations.get(pack_id, 0))
        except (ObjectNotFound, DamagedData) as error:
            failure = error
        for _ in range(OPENINGS):
            moved = False
            for generation in self._listed(kind, pack_id):
                try:
                    return self._load(kind, pack_id, generation)
                except ObjectNotFound:
                    moved = True  # prune has put the next generation since the listing
                except DamagedData as error:
                    failure = error
            if not moved:
                break
        if isinstance(failure, DamagedData):
            raise failure
        raise _missing(kind.object_name(pack_id)) from failure

    def _listed(self, kind: PackKind, pack_id: bytes) -> list[int]:
        """Return the stored generations of a pack, the highest first.

        The listing covers a whole directory, so compacted packs in it are remembered.
        """
        found: dict[bytes, list[int]] = {}
        for info in self._store.list(kind.folder(pack_id)):
            name = parse_pack_name(info.key)
            if name is not None and (name[2] or name[1] == pack_id):
                found.setdefault(name[1], []).append(name[2])
        with self._lock:
            if len(self._generations) > _REMEMBERED:
                self._generations.clear()
            self._generations.update({other: max(listed) for other, listed in found.items()})
            self._generations.pop(pack_id, None)
        return sorted(found.get(pack_id, ()), reverse=True)

    def _load(self, kind: PackKind, pack_id: bytes, generation: int) -> StoredPack:
        name = kind.object_name(pack_id, generation)
        tail, info = self._store.get_tail(name, TAIL)
        trailer = decode_trailer(tail, kind, pack_id)
        needed = trailer.footer_length + TRAILER
        if needed > info.size:
            raise DamagedData(f"{name} is truncated")
        if needed > len(tail):
            tail = self._store.get_range(name, info.size - needed, needed)
        footer = decode_footer(self._keys, trailer, tail[-needed:-TRAILER])
        if int(footer.offsets[-1]) + needed != info.size:
            raise DamagedData(f"{name} has {info.size} bytes, but its footer describes another length")
        return StoredPack(kind, pack_id, footer, info.size, generation, tail)

    def fetch(self, pack: StoredPack, spans: Sequence[Span]) -> Iterator[tuple[Span, memoryview]]:
        """Yield the stored bytes of each of the ``spans``; as many are fetched in one call as memory allows.

        Raises ObjectChanged if this generation is gone.
        """
        for group in _grouped(spans):
            yield from zip(group, self._fetch(pack, group), strict=True)

    def _fetch(self, pack: StoredPack, spans: Sequence[Span]) -> list[memoryview]:
        begin = pack.size - len(pack.tail)
        # Only dead slots are an empty range, which no store can return.
        absent = [span for span in spans if span.length and span.offset < begin]
        try:
            ranges = [(span.offset, span.length) for span in absent]
            found = self._store.get_ranges(pack.name, ranges) if ranges else []
        except ObjectNotFound as error:
            raise ObjectChanged(f"{pack.name} was deleted while it was read") from error
        if any(len(stored) != span.length for span, stored in zip(absent, found, strict=True)):
            raise DamagedData(f"{pack.name} is truncated")
        fetched = {span.offset: memoryview(stored) for span, stored in zip(absent, found, strict=True)}
        tail = memoryview(pack.tail)
        return [
            fetched[span.offset]
            if span.length and span.offset < begin
            else tail[max(span.offset - begin, 0) :][: span.length]
            for span in spans
        ]

    def contents(
        self, pack: StoredPack, span: Span, stored: memoryview
    ) -> Iterator[tuple[int, bytes | DamagedData]]:
        """Return each slot of ``span`` with its verified content, or with its error."""
        reader = SlotReader(self._keys, pack.kind, pack.pack_id, pack.footer)
        return self._each(pack, span, stored, reader.content)

    def sealed(
        self, pack: StoredPack, span: Span, stored: memoryview
    ) -> Iterator[tuple[int, Piece | DamagedData]]:
        """Return each slot of ``span``, of a data pack, as it is stored, or with its error.

        It is verified, unless the keys may not open it: then nothing of a pack counts that is known to be
        damaged.
        """
        if not self._keys.can_read_data and pack.pack_id in self.damaged:
            known = DamagedData(f"{pack.name} is known to be damaged")
            return ((slot, known) for slot in span.slots)
        return self._each(pack, span, stored, SealedSlotReader(self._keys, pack.pack_id, pack.footer).piece)

    def _each(
        self, pack: StoredPack, span: Span, stored: memoryview, take: Callable[[int, memoryview], T]
    ) -> Iterator[tuple[int, T | DamagedData]]:
        slots = np.array(span.slots)
        starts = (pack.footer.offsets[slots] - span.offset).tolist()
        lengths = pack.footer.lengths[slots].tolist()
        for slot, start, length in zip(span.slots, starts, lengths, strict=True):
            try:
                yield slot, take(slot, stored[start : start + length])
            except DamagedData as error:
                self.damaged.add(pack.pack_id)
                yield slot, DamagedData(f"{pack.name}: {error.message}")

    def read(self, kind: PackKind, pack_id: bytes, slots: Sequence[int]) -> dict[int, bytes]:
        """Return the contents of some slots of one pack, all or none. Raises DamagedData, MissingObject."""
        for _ in range(OPENINGS):
            with suppress(ObjectChanged):
                return self._read(self.open(kind, pack_id), sorted(set(slots)))
            self.forget(pack_id)
        return self._read(self.open(kind, pack_id), sorted(set(slots)))

    def _read(self, pack: StoredPack, slots: Sequence[int]) -> dict[int, bytes]:
        if slots and slots[-1] >= pack.footer.count:
            raise DamagedData(f"{pack.name} has {pack.footer.count} slots, slot {slots[-1]} is asked for")
        found: dict[int, bytes] = {}
        for span, stored in self.fetch(pack, list(merge(pack.footer, slots))):
            for slot, content in self.contents(pack, span, stored):
                if isinstance(content, DamagedData):
                    raise content
                found[slot] = content
        return found
