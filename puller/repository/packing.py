"""Packs being written: many threads seal slots into one open pack, full packs go on to be stored.

::

    codec threads ─ reserve (short lock) ─► │ slot │ slot │ …        │ room for the tail │
                  ─ seal in parallel ─────► one pooled buffer, sent as it is: no copy

One open pack per kind, rather than one per thread, keeps neighbours of a disk in one pack and memory
independent of the number of cores.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from puller.pipeline.buffers import Buffer, BufferPool
from puller.repository.footer import ID, MAX_SLOTS, Footer, PackKind, encode_tail
from puller.repository.keys import NO_KEY_BOX, KeyRing
from puller.repository.slot import Content, SlotCipher
from puller.units import MIB

DATA_PACK = 32 * MIB
MAP_PACK = 8 * MIB
TAIL_ROOM = 2 * MIB
"""Room for the largest tail: 65536 slots of 21 bytes, which zstd makes no longer, and small fixed parts."""


@dataclass(frozen=True, slots=True)
class Place:
    """A reserved slot: its number and where its bytes go in the buffer."""

    pack: OpenPack
    slot: int
    start: int
    stop: int


@dataclass
class OpenPack:
    """A pack that takes slots until it is shut. ``body`` may be read once all slots are filled."""

    kind: PackKind
    pack_id: bytes
    cipher: SlotCipher
    key_box: bytes
    buffer: Buffer
    ids: bytearray = field(default_factory=bytearray)
    lengths: list[int] = field(default_factory=list)
    flags: bytearray = field(default_factory=bytearray)
    end: int = 0
    _unfilled: int = 0
    _shut: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def fits(self, length: int) -> bool:
        """Whether a slot of ``length`` stored bytes still goes in."""
        return len(self.flags) < MAX_SLOTS and self.end + length <= len(self.buffer.data) - TAIL_ROOM

    def reserve(self, content_id: bytes, length: int, flags: int) -> Place:
        """Take the next slot for ``length`` stored bytes. One thread at a time."""
        place = Place(self, len(self.flags), self.end, self.end + length)
        self.ids += content_id
        self.lengths.append(length)
        self.flags.append(flags)
        self.end += length
        with self._lock:
            self._unfilled += 1
        return place

    def filled(self) -> bool:
        """Say that a reserved slot has its bytes; True for the one call that completes the pack."""
        with self._lock:
            self._unfilled -= 1
            return self._shut and self._unfilled == 0

    def shut(self) -> bool:
        """Take no more slots; True if that completes the pack, because none is being filled."""
        with self._lock:
            self._shut = True
            return self._unfilled == 0

    def footer(self) -> Footer:
        """What the pack holds."""
        ids = np.frombuffer(bytes(self.ids), np.uint8).reshape(-1, ID)
        flags = np.frombuffer(bytes(self.flags), np.uint8)
        return Footer(self.key_box, ids, np.array(self.lengths, np.uint32), flags)

    def body(self, keys: KeyRing, footer: Footer) -> memoryview:
        """The whole object, tail included, as a view of the buffer."""
        tail = encode_tail(keys, self.kind, self.pack_id, footer)
        self.buffer.view[self.end : self.end + len(tail)] = tail
        return self.buffer.view[: self.end + len(tail)]


class PackWriter:
    """Fills packs of one kind; calls ``emit`` with each full pack, in the thread that completed it."""

    def __init__(
        self, keys: KeyRing, kind: PackKind, pool: BufferPool, emit: Callable[[OpenPack], None]
    ) -> None:
        self._keys = keys
        self._kind = kind
        self._pool = pool
        self._emit = emit
        self._open: OpenPack | None = None
        self._lock = threading.Lock()

    def add(self, content_id: bytes, content: Content, flags: int) -> tuple[bytes, int, int]:
        """Store one slot's compressed ``content``; return (pack id, slot, stored bytes).

        Blocks while all pack buffers are on their way to the store.
        """
        with self._lock:
            place = self._reserve(content_id, len(content), flags)
        place.pack.cipher.seal_into(place.slot, content, place.pack.buffer.view[place.start : place.stop])
        if place.pack.filled():
            self._emit(place.pack)
        return place.pack.pack_id, place.slot, place.stop - place.start

    def _reserve(self, content_id: bytes, length: int, flags: int) -> Place:
        if self._open is not None and not self._open.fits(length + self._open.cipher.overhead):
            self._close_open_pack()
        if self._open is None:
            # May wait for a buffer with the lock held: those who give buffers back never take it.
            self._open = self._new_pack()
        return self._open.reserve(content_id, length + self._open.cipher.overhead, flags)

    def _close_open_pack(self) -> None:
        pack, self._open = self._open, None
        if pack is not None and pack.shut():
            self._emit(pack)

    def _new_pack(self) -> OpenPack:
        pack_id = os.urandom(ID)
        if self._kind is PackKind.MAP:
            pack_key, key_box = self._keys.map_key(pack_id), NO_KEY_BOX
        else:
            pack_key, key_box = self._keys.new_data_key(pack_id)
        cipher = SlotCipher(self._keys, pack_id, pack_key)
        return OpenPack(self._kind, pack_id, cipher, key_box, self._pool.acquire())

    def flush(self) -> None:
        """Emit the open pack, if any. Only when no other thread is adding."""
        with self._lock:
            self._close_open_pack()
