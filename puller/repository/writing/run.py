"""One run that writes to the repository: chunks in, packs, maps and index out, then the commit.

::

    submit ─► codec crew (a thread a core): zero test, id, look-up, zstd, seal
                 │ addresses                    │ full packs
                 ▼                              ▼
              DiskMap                        upload crew ─► store ─► index

Nothing that a run stores is visible before its commit. A failed run leaves packs that the next run finds
through the index.
"""

from __future__ import annotations

import os
import secrets
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from puller.cancelling import cleanup
from puller.errors import DamagedData, PullerError, StoreError, UnsupportedDisk
from puller.host.priority import lower_thread
from puller.pipeline.buffers import Batch, BufferBudget, BufferPool
from puller.pipeline.concurrency import FAR_AWAY, Concurrency
from puller.pipeline.flow import Crew, Flow
from puller.pipeline.gate import Gate
from puller.pipeline.ratelimit import RateLimit
from puller.repository.format import index
from puller.repository.format.address import Address
from puller.repository.format.chunk_slot import Piece, compress, content_id
from puller.repository.format.compression import Content
from puller.repository.format.index import INDEX_PREFIX, IndexedPack, IndexPart
from puller.repository.format.packname import PackKind
from puller.repository.format.pages import LARGEST_DISK, ZERO, Numbers, Slots
from puller.repository.keys.keyring import KeyRing
from puller.repository.points import Point, Points
from puller.repository.reading.mapreader import MapReader
from puller.repository.reading.packs import PackReader
from puller.repository.reading.parent import ParentContents, ParentDisk
from puller.repository.writing.chunkindex import MISS, ChunkIndex
from puller.repository.writing.claims import Claims
from puller.repository.writing.diskmap import DiskMap
from puller.repository.writing.effort import AutoLevel, Effort
from puller.repository.writing.packing import (
    DATA_PACK,
    MAP_PACK,
    TAIL_ROOM,
    OpenPack,
    PackWriter,
    Places,
    data_sealing,
    map_sealing,
    no_sealing,
)
from puller.repository.writing.pending import PendingPoints, commit
from puller.repository.writing.runlocks import Locking
from puller.store.base import Store
from puller.store.wrapping.paced import PacedStore
from puller.units import CHUNK, MIB, Extent, Kind, chunk_count, format_bytes

Flags = NDArray[np.bool_]

_ZEROS = bytes(CHUNK)
_CORES = len(os.sched_getaffinity(0))
"""Those that puller may use: a unit's AllowedCPUs= can leave it fewer than the host has."""

MOST_UPLOADS = 24
"""Most uploads at once to any store: more connections would be impolite to a server."""

_QUEUED = 5
"""Most batches that wait for a codec. A reader that has to wait leaves the server idle."""

_INDEX_EVERY = 64
"""Packs after which an index is put, so that the data of a failed run is not stored again."""


@dataclass(frozen=True, slots=True)
class Tuning:
    """Parallelism of a run, which determines its memory.

    ``uploads`` at once, or None to adapt their number to the wire. ``packs`` of full size are in memory, or
    more small ones in as many bytes; up to ``memory`` bytes of the whole run if that speeds it up.
    ``batches`` suffice for the data being read, a few in the queue and one in each codec. ``level`` is
    zstd's, or None to adapt it to the store; ``upload_rate`` is in bytes per second. If ``gentle``, the
    codecs come after the host's other programs.
    """

    codecs: int = _CORES
    uploads: int | None = None
    packs: int = 3
    memory: int = 384 * MIB
    batches: int = _CORES + 6
    batch_size: int = 2 * MIB
    level: int | None = 1
    upload_rate: int | None = None
    gentle: bool = False


LEAST_MEMORY = 256 * MIB
"""Fewest bytes that a user can allow a run: full packs to a nearby store need them."""

_BESIDE = 184 * MIB
"""Memory of a run beside its data packs: interpreter, batches, map packs, maps, index."""

_NEAR, _FAR = 2, 16
"""Uploads at once to begin with."""

_MOST_NEAR = 8
"""Most uploads at once to a nearby store: as many as fit into the memory of three full packs."""

_SMALLEST = 4
"""A full pack is this many times as large as a small one."""


def pack_size(uploads: int, packs: int) -> int:
    """Return the size of data packs of which ``uploads`` and an open one fit into ``packs`` full ones."""
    room = packs * (DATA_PACK + TAIL_ROOM) // (uploads + 1) - TAIL_ROOM
    return max(DATA_PACK // _SMALLEST, min(DATA_PACK, room))


def upload_law(tuning: Tuning, round_trip: float) -> Concurrency:
    """Return the law for uploads to a store whose fastest answer took ``round_trip`` seconds."""
    most = max(_NEAR, (tuning.memory - _BESIDE) // (DATA_PACK // _SMALLEST + TAIL_ROOM) - 1)
    if tuning.uploads is not None:
        return Concurrency.fixed(min(tuning.uploads, most))
    if round_trip < FAR_AWAY:
        return Concurrency(_NEAR, min(most, _MOST_NEAR), _NEAR)
    most = min(most, MOST_UPLOADS)
    return Concurrency(_NEAR, most, min(most, _FAR))


class Holdings(Protocol):
    """Parts of the repository that a run needs."""

    keys: KeyRing
    store: Store
    points: Points
    pending: PendingPoints

    @property
    def maps(self) -> MapReader:
        """The reader of maps."""
        ...

    @property
    def packs(self) -> PackReader:
        """The reader of packs."""
        ...


class DiskWriter:
    """Writes one disk's extents and batches. Counters are in bytes and grow during the run."""

    def __init__(self, run: Run, map_: DiskMap, parent: ParentDisk | None, covered: bool) -> None:
        """``covered``: whether what the ``parent`` reaches has its locks already."""
        self._run = run
        self.map = map_
        self.parent = parent
        self.covered = covered
        self.zero_bytes = 0
        self.read_bytes = 0
        self.done_bytes = 0
        self.new_bytes = 0
        self.stored_bytes = 0
        self.lock = threading.Lock()

    def announce(self, extent: Extent) -> None:
        """Announce, in disk order, what will be submitted (DATA) or reads as zeros (ZERO)."""
        if extent.kind is Kind.ZERO:
            self.zero_bytes += extent.length
        self.map.announce(extent)

    def submit(self, batch: Batch) -> None:
        """Submit announced data; its buffer is released afterwards. Waits while the codecs are busy."""
        self.read_bytes += batch.length
        self._run.encode(self, batch)

    def place(self, chunks: Sequence[int], contents: Sequence[bytes]) -> None:
        """Store whole announced chunks, by number, in the calling thread. Many threads may do so at once."""
        self._run.place(self, chunks, contents)
        self.count(sum(map(len, contents)), 0, 0)

    def refer(self, chunks: Sequence[int], ids: Sequence[bytes]) -> Flags:
        """Place those announced chunks, by number, whose content, by id, is stored; return which these are.

        The ids are those of a repository of the same family.
        """
        found = self._run.refer(self, chunks, ids)
        self.count(int(found.sum()) * CHUNK, 0, 0)
        return found

    def adopt(self, chunks: Sequence[int], pieces: Sequence[Piece]) -> None:
        """Store announced chunks, by number, as a repository of the same family has sealed them."""
        self._run.adopt(self, chunks, pieces)
        self.count(len(chunks) * CHUNK, 0, 0)

    def count(self, done: int, new: int, stored: int) -> None:
        """Add to the counters; called by the threads that store."""
        with self.lock:
            self.done_bytes += done
            self.new_bytes += new
            self.stored_bytes += stored

    def finish(self) -> Address:
        """Write the rest of the map; return the root's address. Call it after ``Run.drain``."""
        return self._run.address(*self.map.finish())


class Run:
    """A context; leaving it stops all threads, and ``commit`` may come after that.

    Use: disk(), announce/submit, drain(), finish(), flush(), commit(). The waits of the ``repository`` belong
    to the scope of the ``flow``.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - all that a run needs of a repository
        self,
        repository: Holdings,
        flow: Flow,
        known: ChunkIndex,
        claims: Claims,
        tuning: Tuning,
        locks: Locking,
    ) -> None:
        self.repository = repository
        self.flow = flow
        self.locks = locks
        self._keys = repository.keys
        self._store = repository.store
        self._table = repository.maps.table
        self._index = known
        self._claims = claims
        self.footers = known.footers
        """Footers of stored packs, read during this run."""
        self._bases: set[Address] = set()
        self._tuning = tuning
        self.effort = AutoLevel() if tuning.level is None else Effort(tuning.level)
        self.batches = self.flow.adopt(BufferPool(tuning.batches, tuning.batch_size))
        self._fresh: list[IndexedPack] = []
        self._lock = threading.Lock()
        self.clock_ahead = 0.0
        """After ``commit``: by how many seconds this host's clock is ahead of the store's."""

    def __enter__(self) -> Run:
        self.flow.__enter__()
        self._uploads = self._paced(self._tuning.upload_rate)
        law = upload_law(self._tuning, self.repository.store.scope.round_trip)
        packs = self.flow.adopt(BufferBudget(*self._budget(law.limit)))
        maps = self.flow.adopt(BufferPool(2, MAP_PACK + TAIL_ROOM))
        self._gate = self.flow.adopt(Gate(law, lambda limit: packs.resize(*self._budget(limit))))
        self._upload = self.flow.crew("upload", law.most, 1, self._upload_pack)
        self.locks.start(self.flow)
        self._codec = self._start_codecs(self._tuning)
        began = self.effort.pack_began
        put = self._upload.put
        self._data = PackWriter(data_sealing(self._keys), PackKind.DATA, packs, put, began)
        self._sealed = PackWriter(no_sealing, PackKind.DATA, packs, put, began)
        self._maps = PackWriter(map_sealing(self._keys), PackKind.MAP, maps, put, lambda _: None)
        return self

    def _start_codecs(self, tuning: Tuning) -> Crew[tuple[DiskWriter, Batch]]:
        if tuning.gentle:
            return self.flow.crew("codec", tuning.codecs, _QUEUED, self._encode, lower_thread)
        return self.flow.crew("codec", tuning.codecs, _QUEUED, self._encode)

    @property
    def uploads_at_once(self) -> int:
        """Packs that are uploaded at the same time at present."""
        return self._gate.limit

    def _budget(self, uploads: int) -> tuple[int, int]:
        """Return the bytes of all data packs in memory, and of one of them."""
        size = pack_size(uploads, self._tuning.packs) + TAIL_ROOM
        return max(self._tuning.packs * (DATA_PACK + TAIL_ROOM), (uploads + 1) * size), size

    def _paced(self, rate: int | None) -> Store:
        """Return the store for packs. Index objects bypass the rate limit, also after a failure."""
        return self._store if rate is None else PacedStore(self._store, self.flow.adopt(RateLimit(rate)).take)

    def __exit__(self, *failure: object) -> None:
        try:
            self.flow.__exit__(*failure)  # type: ignore[arg-type]
        finally:
            self._index.close()
            self._save_index()

    def _save_index(self) -> None:
        """After a failure, index the stored packs for the next run, if the store still answers."""
        if self._fresh and not self.flow.failed_by(StoreError):
            self._store = self._store.within(cleanup())
            with suppress(PullerError):
                self._put_index(self._fresh)

    def disk(self, size: int, base: Address | None, compared: Address | None = None) -> DiskWriter:
        """Return a writer for a disk of ``size`` bytes, based on the parent's root at ``base``, if any.

        Content equal to that of the root at ``compared`` in the same place is not stored; where that cannot
        be read, the index is used. Raises UnsupportedDisk if the disk is too large for a map.
        """
        if size > LARGEST_DISK:
            said, limit = format_bytes(size), format_bytes(LARGEST_DISK)
            raise UnsupportedDisk(
                f"cannot back up a disk of {said}: a map can describe at most {limit}",
                advice="Leave the disk out with --exclude-disk.",
            )
        maps = self.repository.maps
        root = None if base is None else maps.root(base)
        if base is not None:
            self.take_over(base)
        writer: DiskWriter

        def store(pages: Sequence[int], contents: Sequence[bytes]) -> tuple[Numbers, Slots]:
            parents = None if writer.parent is None else writer.parent.maps(pages)
            return self._locate(writer, self._maps, contents, parents)

        covered = compared is not None and self.locks.take_over(compared)
        writer = DiskWriter(self, DiskMap(size, root, maps, store), self._parent(compared), covered)
        return writer

    def take_over(self, base: Address) -> None:
        """Refer to the whole map at ``base``, the root of a part of the parent, as it is."""
        self._bases.add(base)
        self.locks.take_over(base)

    def rely_on(self, point: Point, root: Address) -> None:
        """Make sure that everything that the map at ``root`` of a committed ``point`` reaches is locked for
        long enough.

        Call it before ``disk`` is called with this ``root``. It may take minutes, so no job should be open.
        """
        self.locks.rely_on(point, root)

    def _parent(self, root: Address | None) -> ParentDisk | None:
        if root is None:
            return None
        try:
            return ParentDisk(self.repository.maps, self.footers, self.repository.packs.damaged, root)
        except DamagedData:
            return None

    def attach(self, content: bytes) -> Address:
        """Store a byte string like a disk; return its root's address."""
        writer = self.disk(len(content), None)
        if content:
            writer.announce(Extent(0, chunk_count(len(content)) * CHUNK, Kind.DATA))
        for start in range(0, len(content), CHUNK):
            chunk = content[start : start + CHUNK].ljust(CHUNK, b"\0")
            self.place(writer, [start // CHUNK], [None if chunk == _ZEROS else chunk])
        return writer.finish()

    def encode(self, disk: DiskWriter, batch: Batch) -> None:
        """Queue a batch for the codec crew."""
        self._codec.put((disk, batch))

    def _encode(self, item: tuple[DiskWriter, Batch]) -> None:
        disk, batch = item
        chunks, contents = [], []
        view = batch.buffer.view
        for segment in batch.segments:
            first = segment.offset // CHUNK
            starts = range(segment.position, segment.position + segment.length, CHUNK)
            for chunk, start in enumerate(starts, first):
                content = view[start : start + CHUNK]
                chunks.append(chunk)
                # bytes.startswith compares far faster than memoryview == bytes.
                contents.append(None if _ZEROS.startswith(content) else content)
        self.place(disk, chunks, contents)
        done = batch.length
        batch.release()
        disk.count(done, 0, 0)

    def place(self, disk: DiskWriter, chunks: Sequence[int], contents: Sequence[Content | None]) -> None:
        """Store chunks of ``disk``, by number, None for one of zero bytes, in the calling thread."""
        present = [position for position, content in enumerate(contents) if content is not None]
        numbers = np.array(chunks, np.int64)
        packs = np.full(len(chunks), ZERO, np.int64)
        slots = np.zeros(len(chunks), np.uint16)
        packs[present], slots[present] = self._locate(
            disk,
            self._data,
            [c for c in contents if c is not None],
            None if disk.parent is None else disk.parent.chunks(numbers[present]),
        )
        disk.map.place(numbers, packs, slots)

    def refer(self, disk: DiskWriter, chunks: Sequence[int], ids: Sequence[bytes]) -> Flags:
        """See ``DiskWriter.refer``."""
        packs, slots = self._find_indexed(PackKind.DATA, ids)
        found: Flags = packs != MISS
        if found.any():
            disk.map.place(np.array(chunks, np.int64)[found], packs[found], slots[found])
        return found

    def adopt(self, disk: DiskWriter, chunks: Sequence[int], pieces: Sequence[Piece]) -> None:
        """See ``DiskWriter.adopt``."""
        packs, slots = self._find_indexed(PackKind.DATA, [piece.content_id for piece in pieces])
        missing = np.flatnonzero(packs == MISS).tolist()
        fresh = {pieces[at].content_id: pieces[at] for at in missing}
        places = self._store_pieces(disk, self._sealed, list(fresh.values()), len(fresh) * CHUNK)
        for at in missing:
            packs[at], slots[at] = places[pieces[at].content_id]
        disk.map.place(np.array(chunks, np.int64), packs, slots)

    def _locate(
        self,
        disk: DiskWriter,
        writer: PackWriter,
        contents: Sequence[Content],
        parents: ParentContents | None,
    ) -> tuple[Numbers, Slots]:
        """Return the places of ``contents``; put new ones into an open pack of ``writer``.

        ``parents`` holds the contents of the compared point in the same places.
        """
        ids = [content_id(self._keys.id_key, content) for content in contents]
        packs, slots = self._find(writer.kind, ids, parents, disk.covered)
        missing = np.flatnonzero(packs == MISS).tolist()
        if missing:
            # A batch may hold a content twice. Threads that find one at the same time store it twice.
            fresh = {ids[at]: contents[at] for at in missing}
            places = self._store_new(disk, writer, fresh)
            for at in missing:
                packs[at], slots[at] = places[ids[at]]
        return packs, slots

    def _find(
        self, kind: PackKind, ids: Sequence[bytes], parents: ParentContents | None, covered: bool
    ) -> tuple[Numbers, Slots]:
        if parents is None:
            return self._find_indexed(kind, ids)
        # Claimed like hits of the index: the parent may be deleted meanwhile.
        slots = parents.refs.slots.copy()
        packs = self._claims.admit(parents.equal(ids), slots)
        if not covered:
            self._lock_found(kind, packs)
        left = np.flatnonzero(packs == MISS)
        packs[left], slots[left] = self._find_indexed(kind, [ids[at] for at in left.tolist()])
        return packs, slots

    def _find_indexed(self, kind: PackKind, ids: Sequence[bytes]) -> tuple[Numbers, Slots]:
        found, slots = self._index.find(kind, ids)
        packs = self._claims.admit(found, slots)
        self._lock_found(kind, packs)
        return packs, slots

    def _lock_found(self, kind: PackKind, packs: Numbers) -> None:
        self.locks.find(kind, map(self._table.pack_id, set(packs.tolist()) - {MISS}))

    def _store_new(
        self, disk: DiskWriter, writer: PackWriter, fresh: Mapping[bytes, Content]
    ) -> dict[bytes, tuple[int, int]]:
        """Put contents, by id, into packs of ``writer``; return the pack number and slot of each."""
        packed = compress(list(fresh.values()), self.effort.level)
        pieces = [Piece(key, *piece) for key, piece in zip(fresh, packed, strict=True)]
        new = sum(map(len, fresh.values())) if writer is self._data else 0
        return self._store_pieces(disk, writer, pieces, new)

    def _store_pieces(
        self, disk: DiskWriter, writer: PackWriter, pieces: Sequence[Piece], new: int
    ) -> dict[bytes, tuple[int, int]]:
        found: dict[bytes, tuple[int, int]] = {}
        total = 0
        for places, stored in writer.add(pieces):
            total += stored
            pack = self._note_places(places)
            written = [piece.content_id for piece in pieces[len(found) : len(found) + places.count]]
            found.update({content_id: (pack, slot) for slot, content_id in enumerate(written, places.first)})
            self._index.add(writer.kind, pack, places.first, written)
        disk.count(0, new, total)
        return found

    def _note_places(self, places: Places) -> int:
        """Record slots that this run has written; return the number of their pack."""
        pack = self._table.number(places.pack.pack_id)
        self.locks.own(places.pack.pack_id)
        self._claims.hold(pack, places.first, places.count)
        return pack

    def _upload_pack(self, pack: OpenPack) -> None:
        footer = pack.footer()
        body = pack.body(self._keys, footer)
        size = len(body)
        with self._gate.passing(size):
            self.locks.locked(self._uploads).put_new(pack.kind.object_name(pack.pack_id), body)
        pack.buffer.release()
        self._note(IndexedPack(pack.kind, pack.pack_id, size, footer))

    def _note(self, pack: IndexedPack) -> None:
        with self._lock:
            self._fresh.append(pack)
            if len(self._fresh) < _INDEX_EVERY:
                return
            fresh, self._fresh = self._fresh, []
        self._put_index(fresh)

    def _put_index(self, packs: Sequence[IndexedPack]) -> None:
        name = INDEX_PREFIX + secrets.token_hex(16)
        self._store.put_new(name, index.encode(self._keys, name, IndexPart.of(packs)))

    def address(self, pack: int, slot: int) -> Address:
        """Return the address with the pack's id in place of its number."""
        return Address(self._table.pack_id(pack), slot)

    def drain(self) -> None:
        """Wait until every submitted batch is encoded. Raises the first error of the run."""
        self._codec.finish()

    def flush(self) -> None:
        """Make packs and index durable. Call it after every ``finish``. Raises the first error of the run."""
        self.store()
        self._put_rest()

    def store(self) -> None:
        """Make the packs durable, in place of ``flush``: ``commit`` puts the index."""
        self._data.flush()
        self._sealed.flush()
        self._maps.flush()
        self._upload.finish()
        self.locks.finish()

    def _put_rest(self) -> None:
        """Put the index of the packs that are not in an index object yet."""
        if self._fresh:
            self._put_index(self._fresh)
            self._fresh = []

    def commit(self, point: Point) -> Point:
        """Publish ``point``, which refers to data that this run has written or found. Call it after
        ``flush`` or ``store``. Return it as committed: with the end of its locks, if the repository has a
        lock policy.

        Raises Overtaken if prune is removing some of it: nothing is published then, and another run can
        succeed. Raises StoreError; then it may be unknown whether the point exists.
        """
        began = time.time()
        repository = self.repository
        sealed, lock = self.locks.seal(point)
        points = repository.points if lock is None else repository.points.locking(lock)
        announced = commit(points, repository.pending, self._claims, self._bases, sealed, self._put_rest)
        self.clock_ahead = began - announced
        return sealed
