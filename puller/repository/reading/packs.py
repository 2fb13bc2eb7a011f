"""Packs being read: footers found through one request for the tail, slots through merged ranges."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from puller.cancelling import Scoped
from puller.errors import DamagedData, MissingObject, ObjectChanged, ObjectNotFound
from puller.repository.format.chunk_slot import SlotReader
from puller.repository.format.footer import TRAILER, Footer, PackKind, decode_footer, decode_trailer
from puller.repository.keys.keyring import KeyRing
from puller.store.base import Store
from puller.units import KIB, MIB

TAIL = 64 * KIB
"""First guess at the tail: the footer of a 32 MiB pack of 64 KiB chunks is 10 to 30 KiB."""

MERGE_GAP = 64 * KIB
"""Slots this near are fetched in one range: a request costs more than reading a chunk too many."""

RANGE_LIMIT = 8 * MIB
"""A range is not merged beyond this, so that readers' memory stays small."""

CACHED = 16 * MIB
"""Bytes of opened packs kept: some 160 of 32 MiB, or thousands of the small map packs of incrementals."""


@dataclass(frozen=True)
class StoredPack:
    """An opened pack. ``tail`` is what the opening read anyway; a small pack lies in it whole."""

    kind: PackKind
    pack_id: bytes
    footer: Footer
    size: int
    etag: str
    tail: bytes = field(repr=False)

    @property
    def name(self) -> str:
        """The object's name."""
        return self.kind.object_name(self.pack_id)

    @property
    def memory(self) -> int:
        """Bytes that it takes in memory: the tail, 21 bytes a slot and 8 for its offset, and objects."""
        return len(self.tail) + 29 * self.footer.count + 2 * KIB


@dataclass(frozen=True, slots=True)
class Span:
    """Neighbouring slots to be fetched in one range of a pack."""

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


_LOADING = 64
"""Locks for fetching footers; a pack's is chosen by its id, which is random."""


class _Cache:
    """The packs that were opened last, by id. Safe for many threads."""

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
    """Reads verified contents out of the packs of one repository. Safe for many threads."""

    def __init__(self, store: Store, keys: KeyRing) -> None:
        self._store = store
        self.scope = store.scope
        self._keys = keys
        self._cache = _Cache()
        self._loading = [threading.Lock() for _ in range(_LOADING)]
        self.damaged: set[bytes] = set()
        """Ids of packs known to be missing or damaged: nothing new should refer to them."""

    def open(self, kind: PackKind, pack_id: bytes) -> StoredPack:
        """The pack with its footer. Raises MissingObject, DamagedData, StoreError."""
        # Threads that want one pack at the same time fetch its footer once.
        with self._loading[pack_id[0] % _LOADING]:
            known = self._cache.get(pack_id)
            if known is not None:
                return known
            try:
                pack = self.load(kind, pack_id)
            except DamagedData:
                self.damaged.add(pack_id)
                raise
            self._cache.keep(pack)
            return pack

    def forget(self, pack_id: bytes) -> None:
        """Drop a cached footer that turned out to be outdated."""
        self._cache.forget(pack_id)

    def load(self, kind: PackKind, pack_id: bytes) -> StoredPack:
        """As ``open``, but as the pack is stored now, and kept nowhere."""
        name = kind.object_name(pack_id)
        try:
            tail, info = self._store.get_tail(name, TAIL)
            trailer = decode_trailer(tail, kind, pack_id)
            needed = trailer.footer_length + TRAILER
            if needed > info.size:
                raise DamagedData(f"{name} is cut short")
            if needed > len(tail):
                tail = self._store.get_range(name, info.size - needed, needed, etag=info.etag)
        except ObjectNotFound as error:
            raise MissingObject(f"{name} is missing from the store") from error
        footer = decode_footer(self._keys, trailer, tail[-needed:-TRAILER])
        if int(footer.offsets[-1]) + needed != info.size:
            raise DamagedData(f"{name} is {info.size} bytes, its footer describes another length")
        return StoredPack(kind, pack_id, footer, info.size, info.etag, tail)

    def fetch(self, pack: StoredPack, span: Span) -> memoryview:
        """The stored bytes of ``span``. Raises ObjectChanged if the pack was rewritten since ``open``."""
        start = span.offset - (pack.size - len(pack.tail))
        if not span.length:  # nothing but dead slots, which no store can be asked for
            return memoryview(b"")
        if start >= 0:
            return memoryview(pack.tail)[start : start + span.length]
        try:
            stored = self._store.get_range(pack.name, span.offset, span.length, etag=pack.etag)
        except ObjectNotFound as error:
            raise MissingObject(f"{pack.name} is missing from the store") from error
        if len(stored) != span.length:
            raise DamagedData(f"{pack.name} is cut short")
        return memoryview(stored)

    def contents(
        self, pack: StoredPack, span: Span, stored: memoryview
    ) -> Iterator[tuple[int, bytes | DamagedData]]:
        """Each slot of ``span`` with its verified content, or with what is wrong with it."""
        reader = SlotReader(self._keys, pack.kind, pack.pack_id, pack.footer)
        slots = np.array(span.slots)
        starts = (pack.footer.offsets[slots] - span.offset).tolist()
        lengths = pack.footer.lengths[slots].tolist()
        for slot, start, length in zip(span.slots, starts, lengths, strict=True):
            try:
                yield slot, reader.content(slot, stored[start : start + length])
            except DamagedData as error:
                self.damaged.add(pack.pack_id)
                yield slot, DamagedData(f"{pack.name}: {error.message}")

    def read(self, kind: PackKind, pack_id: bytes, slots: Sequence[int]) -> dict[int, bytes]:
        """The contents of some slots of one pack, all or none. Raises DamagedData, MissingObject."""
        for attempt in (1, 2):
            try:
                return self._read(self.open(kind, pack_id), sorted(set(slots)))
            except ObjectChanged:
                self.forget(pack_id)
                if attempt == 2:
                    raise
        raise AssertionError

    def _read(self, pack: StoredPack, slots: Sequence[int]) -> dict[int, bytes]:
        if slots and slots[-1] >= pack.footer.count:
            raise DamagedData(f"{pack.name} has {pack.footer.count} slots, slot {slots[-1]} is asked for")
        found: dict[int, bytes] = {}
        for span in merge(pack.footer, slots):
            for slot, content in self.contents(pack, span, self.fetch(pack, span)):
                if isinstance(content, DamagedData):
                    raise content
                found[slot] = content
        return found
