"""What a prune of a large repository takes: memory and time of each step, over 1, 3 and 10 TiB.

    python -m benchmarks.collect                   # some minutes, and 60 MiB of disk

A repository of one point with one disk, all of it data in packs of 500 chunks. The map is stored as it would
be; data packs and index objects are made up. Of the packs 2 in 100 are reached by nothing, and 1 in
100 in less than half; so a prune condemns them, and must read the footers of the latter.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from copy import copy  # noqa: TID251 - one thread only
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

import numpy as np
from blake3 import blake3

from benchmarks.index import KEYS, PACKS, SLOTS, TIB, MadeUp
from puller.cancelling import CancelScope
from puller.events import Event, Step
from puller.pipeline.buffers import BufferPool
from puller.repository.format.chunk_slot import Piece, compress, content_id
from puller.repository.format.descriptor import Descriptor
from puller.repository.format.footer import Footer, encode_tail
from puller.repository.format.packname import ID, PackKind
from puller.repository.format.pages import ZERO, PackTable, Refs, Root, encode_page, encode_root
from puller.repository.keys.keyring import NO_KEY_BOX
from puller.repository.points import DiskRecord, Point, Ref, new_id
from puller.repository.repository import Repository
from puller.repository.writing.packing import MAP_PACK, TAIL_ROOM, OpenPack, PackWriter, map_sealing
from puller.store.base import Body, ObjectInfo
from puller.store.directory.folder import FolderStore
from puller.store.objectlock import Unlockable
from puller.units import CHUNK, KIB, MIB, PAGE_CHUNKS
from puller.upkeep.pruning.prune import prune
from puller.upkeep.retention.policy import Policy

OLD = 1_700_000_000.0
LIVE = 200
"""Slots that are reached of a pack of which little is."""


def pack_id(number: int) -> bytes:
    return blake3(number.to_bytes(8, "little")).digest(ID)


class Large(Unlockable):
    """A store of which the packs and the index are made up; the rest is in a folder."""

    def __init__(self, folder: Path, tib: float) -> None:
        self.inner = FolderStore(folder)
        self.scope = self.inner.scope
        self.reached = -(-int(tib * TIB) // CHUNK // SLOTS)
        self.packs = -(-int(self.reached * 1.02) // PACKS) * PACKS
        self.index = MadeUp(self.packs * SLOTS)
        self.index.pack_ids = self._ids  # type: ignore[method-assign]
        self.footers = self.requests = 0

    def _ids(self, number: int) -> bytes:
        return b"".join(map(pack_id, range(number * PACKS, (number + 1) * PACKS)))

    def within(self, scope: CancelScope) -> Self:
        other = copy(self)
        other.inner, other.scope = self.inner.within(scope), scope
        return other

    @property
    def url(self) -> str:
        return self.inner.url

    def get_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        return [self.get_range(key, offset, length) for offset, length in ranges]

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        if prefix == PackKind.DATA.prefix:
            names = (PackKind.DATA.object_name(pack_id(number)) for number in range(self.packs))
            return (ObjectInfo(name, 33 * MIB, OLD, "") for name in names)
        return iter(self.index.listed()) if prefix == "index/" else self.inner.list(prefix)

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        self.requests += 1
        if key.startswith("index/"):
            return self.index.get_range(key, offset, length)
        return self.inner.get_range(key, offset, length)

    def get_tail(self, key: str, length: int) -> tuple[bytes, ObjectInfo]:
        self.requests += 1
        if not key.startswith(PackKind.DATA.prefix):
            return self.inner.get_tail(key, length)
        self.footers += 1
        ids = np.frombuffer(os.urandom(ID * SLOTS), np.uint8).reshape(-1, ID)
        footer = Footer(NO_KEY_BOX, ids, np.full(SLOTS, CHUNK, np.uint32), np.zeros(SLOTS, np.uint8))
        tail = encode_tail(KEYS, PackKind.DATA, bytes.fromhex(key[-32:]), footer)
        return tail, ObjectInfo(key, SLOTS * CHUNK + len(tail), OLD, "")

    def get(self, key: str, *, max_size: int | None = None) -> bytes:
        self.requests += 1
        return self.inner.get(key, max_size=max_size)

    def put(self, key: str, body: Body) -> None:
        self.inner.put(key, body)

    def put_new(self, key: str, body: Body) -> None:
        self.inner.put_new(key, body)

    def stat(self, key: str) -> ObjectInfo:
        return self.inner.stat(key)

    def exists(self, key: str) -> bool:
        return self.inner.exists(key)

    def delete(self, keys: Iterable[str]) -> None:
        self.inner.delete(keys)

    def sweep(self, prefixes: Iterable[str], before: float) -> None:
        self.inner.sweep(prefixes, before)


def opened(store: Large) -> Repository:
    descriptor = Descriptor("00" * ID, datetime.now(UTC), "aes-256-gcm", conditional_writes=True)
    return Repository(store, descriptor, KEYS)


def build(folder: Path, tib: float) -> None:
    """Store map and point of a disk of which every chunk is in a pack of its place."""
    store = Large(folder, tib)
    repository, table = opened(store), PackTable()

    def emit(pack: OpenPack) -> None:
        store.put(pack.kind.object_name(pack.pack_id), pack.body(KEYS, pack.footer()))
        pack.buffer.release()

    writer = PackWriter(
        map_sealing(KEYS), PackKind.MAP, BufferPool(2, MAP_PACK + TAIL_ROOM), emit, lambda _: None
    )
    pages = int(tib * TIB) // CHUNK // PAGE_CHUNKS
    columns = np.zeros((2, pages), np.int64)
    for first in range(0, pages, 256):
        numbers = range(first, min(first + 256, pages))
        for at, (pack, slot) in zip(
            numbers, put(writer, table, [page(table, n) for n in numbers]), strict=True
        ):
            columns[:, at] = table.number(pack), slot
    refs = Refs(columns[0], columns[1].astype(np.uint16))
    [(pack, slot)] = put(writer, table, [encode_root(Root(pages * PAGE_CHUNKS * CHUNK, refs), table)])
    writer.flush()
    moment = datetime.now(UTC)
    disk = DiskRecord("vda", "full", pages * PAGE_CHUNKS * CHUNK, Ref(pack.hex(), slot))
    uuid = "1f80ae13-49df-4e30-9b5a-d185a32acbbc"
    repository.points.commit(Point(new_id(moment), "large", uuid, moment, "pull", "full", (disk,)))


def page(table: PackTable, number: int) -> bytes:
    chunks = np.arange(number * PAGE_CHUNKS, (number + 1) * PAGE_CHUNKS)
    numbers, slots = chunks // SLOTS, (chunks % SLOTS).astype(np.uint16)
    packs = np.array([table.number(pack_id(n)) for n in range(numbers[0], numbers[-1] + 1)], np.int64)
    column = packs[numbers - numbers[0]]
    gone = (numbers % 100 == 7) & (slots >= LIVE)
    column[gone], slots[gone] = ZERO, 0
    return encode_page(Refs(column, slots), table)


def put(writer: PackWriter, table: PackTable, contents: list[bytes]) -> list[tuple[bytes, int]]:
    packed = compress(contents, 1)
    pieces = [
        Piece(content_id(KEYS.id_key, content), *piece)
        for content, piece in zip(contents, packed, strict=True)
    ]
    return [
        (places.pack.pack_id, slot)
        for places, _ in writer.add(pieces)
        for slot in range(places.first, places.first + places.count)
    ]


def measure(folder: Path, tib: float) -> None:
    store = Large(folder, tib)
    repository = opened(store)
    marks: list[tuple[str, float]] = []

    def observe(event: Event) -> None:
        if isinstance(event, Step):
            marks.append((event.name, time.process_time()))

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIB
    began, cpu = time.perf_counter(), time.process_time()
    report = prune(repository, Policy(), observer=observe)
    wall, end = time.perf_counter() - began, time.process_time()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIB
    steps = zip(marks, [*marks[1:], ("", end)], strict=True)
    parts = ", ".join(f"{name} {after - start:.1f}" for (name, start), (_, after) in steps)
    print(
        f"{tib:5.1f} TiB {store.packs:8,} packs  {end - cpu:6.1f} CPU-s ({parts})  {wall:6.1f} s"
        f"  {store.requests:6} reads, of footers {store.footers}  {report.packs_condemned} condemned"
        f"  peak {peak / MIB:4.0f} MiB, {before / MIB:.0f} of them before",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tib", type=float, nargs="*", default=[1, 3, 10])
    parser.add_argument("--folder", type=Path, default=Path("/var/tmp"))
    parser.add_argument("--step", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.step:
        {"build": build, "measure": measure}[given.step[0]](given.folder, float(given.step[1]))
        return
    for tib in given.tib:
        with tempfile.TemporaryDirectory(dir=given.folder) as folder:
            for step in ("build", "measure"):
                command = [sys.executable, "-m", "benchmarks.collect", "--folder", folder]
                subprocess.run([*command, "--step", step, str(tib)], check=True)


if __name__ == "__main__":
    main()
