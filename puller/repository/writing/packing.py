"""Writing of packs: many threads seal slots into one open pack; full packs are uploaded.

::

    codec threads ─ reserve (short lock) ─► │ slot │ slot │ …        │ room for the tail │
                  ─ seal in parallel ─────► one pooled buffer, sent as it is: no copy

One open pack per kind, rather than one per thread, keeps neighbours of a disk in one pack and memory
independent of the number of cores.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from puller.errors import RepositoryError
from puller.pipeline.buffers import Buffer, BufferBudget, BufferPool
from puller.repository.format.chunk_slot import Piece, SealedSlots, SlotCipher
from puller.repository.format.footer import MAX_SLOTS, Footer, Origins, SealedPack, encode_tail
from puller.repository.format.packname import ID, PackKind
from puller.repository.format.sealing import TAG
from puller.repository.keys.keyring import NO_KEY_BOX, KeyRing
from puller.units import MIB, format_bytes

DATA_PACK = 32 * MIB
MAP_PACK = 8 * MIB
TAIL_ROOM = 2 * MIB
"""Room for the largest tail: 65536 slots of 25 bytes, which zstd makes no longer, key boxes and a trailer."""


MAX_ORIGINS = 256
"""Packs in which the slots of one pack were sealed. Their key boxes must fit into the tail."""


class OriginTable:
    """The origins of the slots of a pack that is being filled."""

    def __init__(self) -> None:
        self._packs: dict[SealedPack, int] = {}
        self._places: list[int] = []
        self._slots: list[int] = []

    def has_room(self, piece: Piece) -> bool:
        """Return whether a slot for ``piece`` can be added."""
        return piece.origin is None or piece.origin[0] in self._packs or len(self._packs) < MAX_ORIGINS

    def add(self, piece: Piece) -> None:
        """Add the next slot."""
        if piece.origin is not None:
            pack, slot = piece.origin
            self._places.append(self._packs.setdefault(pack, len(self._packs)))
            self._slots.append(slot)

    def origins(self) -> Origins | None:
        """Return the origins; None if the slots were sealed here."""
        if not self._packs:
            return None
        return Origins(
            tuple(self._packs), np.array(self._places, np.uint16), np.array(self._slots, np.uint16)
        )


@dataclass(frozen=True, slots=True)
class Places:
    """``count`` slots of one pack from ``first`` on; their bytes begin at ``start`` in its buffer."""

    pack: OpenPack
    first: int
    count: int
    start: int

    def fill(self, pieces: Sequence[Piece]) -> int:
        """Seal ``pieces`` into the slots; return the number of bytes."""
        cipher, view = self.pack.cipher, self.pack.buffer.view
        at = self.start
        for slot, piece in enumerate(pieces, self.first):
            end = at + len(piece.content) + cipher.overhead
            cipher.seal_into(slot, piece.content, view[at:end])
            at = end
        return at - self.start


@dataclass
class OpenPack:
    """A pack that accepts slots until it is shut. ``body`` may be read once all slots are filled."""

    kind: PackKind
    pack_id: bytes
    cipher: SlotCipher | SealedSlots
    key_box: bytes
    buffer: Buffer
    ids: bytearray = field(default_factory=bytearray)
    lengths: list[int] = field(default_factory=list)
    flags: bytearray = field(default_factory=bytearray)
    origins: OriginTable = field(default_factory=OriginTable)
    end: int = 0
    _unfilled: int = 0
    _shut: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def reserve(self, pieces: Sequence[Piece]) -> Places:
        """Reserve the next slots for as many of ``pieces`` as still fit. One thread at a time."""
        first, start = len(self.flags), self.end
        room = len(self.buffer.view) - TAIL_ROOM
        for piece in pieces:
            length = len(piece.content) + self.cipher.overhead
            if self.end + length > room or len(self.flags) == MAX_SLOTS or not self.origins.has_room(piece):
                break
            self.origins.add(piece)
            self.ids += piece.content_id
            self.lengths.append(length)
            self.flags.append(piece.flags)
            self.end += length
        count = len(self.flags) - first
        with self._lock:
            self._unfilled += count
        return Places(self, first, count, start)

    def filled(self, count: int) -> bool:
        """Note that reserved slots are filled; return True in the one call that completes the pack."""
        with self._lock:
            self._unfilled -= count
            return self._shut and self._unfilled == 0

    def shut(self) -> bool:
        """Accept no more slots; return True if that completes the pack."""
        with self._lock:
            self._shut = True
            return self._unfilled == 0

    def footer(self) -> Footer:
        """Return the footer of the pack."""
        ids = np.frombuffer(bytes(self.ids), np.uint8).reshape(-1, ID)
        flags = np.frombuffer(bytes(self.flags), np.uint8)
        return Footer(self.key_box, ids, np.array(self.lengths, np.uint32), flags, self.origins.origins())

    def body(self, keys: KeyRing, footer: Footer) -> memoryview:
        """Return the whole object, tail included, as a view of the buffer."""
        tail = encode_tail(keys, self.kind, self.pack_id, footer)
        self.buffer.view[self.end : self.end + len(tail)] = tail
        return self.buffer.view[: self.end + len(tail)]


Sealing = Callable[[bytes], tuple[SlotCipher | SealedSlots, bytes]]
"""Returns for the id of a new pack what fills its slots, and its key box."""


def map_sealing(keys: KeyRing) -> Sealing:
    """Return the sealing of map packs."""
    return lambda pack_id: (SlotCipher(keys, pack_id, keys.map_key(pack_id)), NO_KEY_BOX)


def data_sealing(keys: KeyRing) -> Sealing:
    """Return the sealing of data packs."""

    def begin(pack_id: bytes) -> tuple[SlotCipher, bytes]:
        pack_key, key_box = keys.new_data_key(pack_id)
        return SlotCipher(keys, pack_id, pack_key), key_box

    return begin


def no_sealing(_: bytes) -> tuple[SealedSlots, bytes]:
    """Begin a data pack of slots that are sealed already."""
    return SealedSlots(), NO_KEY_BOX


class PackWriter:
    """Fills packs of one kind; calls ``emit`` with each full pack, in the thread that completed it.

    A content that is larger than the buffers of ``pool`` gets its own pack and buffer.
    ``began`` is called with each new pack's seconds of waiting for a buffer.
    """

    def __init__(
        self,
        sealing: Sealing,
        kind: PackKind,
        pool: BufferPool | BufferBudget,
        emit: Callable[[OpenPack], None],
        began: Callable[[float], None],
    ) -> None:
        self._sealing = sealing
        self.kind = kind
        self._pool = pool
        self._emit = emit
        self._began = began
        self._open: OpenPack | None = None
        self._lock = threading.Lock()

    def add(self, pieces: Sequence[Piece]) -> Iterator[tuple[Places, int]]:
        """Store ``pieces``; yield, pack by pack, their slots and the bytes of these.

        Blocks while all pack buffers are being uploaded. The pieces of one call become neighbours, under one
        short lock for all of them.

        Raises RepositoryError, before anything is stored, if a piece is larger than a slot may be.
        """
        self._require_storable(pieces)
        while pieces:
            with self._lock:
                places = self._reserve(pieces)
            stored = places.fill(pieces[: places.count])
            # Before the next pack is requested, which may have to wait for this one's buffer.
            if places.pack.filled(places.count):
                self._emit(places.pack)
            yield places, stored
            pieces = pieces[places.count :]

    def _require_storable(self, pieces: Sequence[Piece]) -> None:
        largest = max((len(piece.content) - (TAG if piece.origin else 0) for piece in pieces), default=0)
        if largest > self.kind.content_limit:
            limit = format_bytes(self.kind.content_limit)
            raise RepositoryError(
                f"cannot store a content of {format_bytes(largest)}: a slot may have at most {limit}"
            )

    def _reserve(self, pieces: Sequence[Piece]) -> Places:
        if self._open is not None:
            places = self._open.reserve(pieces)
            if places.count:
                return places
            self._close_open_pack()
        # May wait for a buffer with the lock held: threads that return buffers never take it.
        self._open = self._new_pack(len(pieces[0].content) + TAG)
        return self._open.reserve(pieces)

    def _close_open_pack(self) -> None:
        pack, self._open = self._open, None
        if pack is not None and pack.shut():
            self._emit(pack)

    def _new_pack(self, least: int) -> OpenPack:
        """Return a pack with space for ``least`` bytes of slots, in its own buffer if necessary."""
        pack_id = os.urandom(ID)
        cipher, key_box = self._sealing(pack_id)
        asked = time.monotonic()
        fits = least + TAIL_ROOM <= self._pool.size
        buffer = (self._pool if fits else BufferPool(1, least + TAIL_ROOM)).acquire()
        self._began(time.monotonic() - asked)
        return OpenPack(self.kind, pack_id, cipher, key_box, buffer)

    def flush(self) -> None:
        """Emit the open pack, if any. Call it only when no other thread adds."""
        with self._lock:
            self._close_open_pack()
