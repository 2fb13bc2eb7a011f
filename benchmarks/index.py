"""The index of a large repository on a new host, and what a sample of it finds.

    python -m benchmarks.index                     # 3 and 100 TiB of distinct data; then what samples find

Index objects are made up as they are asked for, as prune leaves them (2 ** 19 rows each, packs of 500
chunks), by a store that counts. Each repository is opened in a process of its own. What samples find is
counted with ids alone: each backup finds and adds as a run does, in batches of 2 MiB, footers at hand.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from puller.repository.format import compression, index
from puller.repository.format.footer import Ids
from puller.repository.format.index import (
    BLOCK_ROWS,
    HEADER,
    IndexPart,
    IndexRows,
    PackEntry,
    id_bits,
)
from puller.repository.format.packname import ID, PackKind
from puller.repository.format.pages import PackTable
from puller.repository.format.sealing import NONCE, TAG
from puller.repository.index.budget import BUDGET
from puller.repository.index.cache import load_hints
from puller.repository.index.hints import HintFile, HintWriter
from puller.repository.keys.keyring import KeyRing
from puller.repository.reading.indexes import read_index
from puller.repository.writing.chunkindex import ChunkIndex
from puller.store.base import ObjectInfo
from puller.units import CHUNK, MIB

KEYS = KeyRing.from_master(bytes(ID), bytes(ID), bytes(32))
SLOTS = 500
PACKS = (1 << 19) // SLOTS
ROWS = PACKS * SLOTS
TIB = 1 << 40
LOOK_UPS = 1 << 17
_NONE = np.zeros((0, ID), np.uint8)
BATCH = 32
BEFORE = 25.03
"""Bytes of an index object for a chunk until November 2026."""


# --- a new host -------------------------------------------------------------------------------


class MadeUp:
    """Index objects of so many chunks, made as they are asked for. Counts requests, bytes, its own time."""

    def __init__(self, chunks: int) -> None:
        self.objects = -(-chunks // ROWS)
        self.requests = self.bytes = 0
        self.seconds = 0.0
        table = index._encode_table([PackEntry(PackKind.DATA, bytes(ID), 0, 33 * MIB, SLOTS, 0)] * PACKS)
        self._columns = table[ID * PACKS :]
        self._size = len(self._object("index/" + "0" * 32, 0)) + self._blocks_size(ROWS)

    def listed(self) -> list[ObjectInfo]:
        return [ObjectInfo(f"index/{number:032x}", self._size, 0.0, "") for number in range(self.objects)]

    def get_range(self, key: str, offset: int, length: int, *, etag: str | None = None) -> bytes:
        began = time.thread_time()
        rows = max(0, offset + length - HEADER) // 8
        content = self._object(key, min(ROWS, rows))[offset : offset + length]
        self.requests, self.bytes = self.requests + 1, self.bytes + len(content)
        self.seconds += time.thread_time() - began
        return content

    def pack_ids(self, number: int) -> bytes:
        """Those that an index object names."""
        return np.random.default_rng(~number & 0xFFFFFFFF).bytes(ID * PACKS)

    @staticmethod
    def _blocks_size(rows: int) -> int:
        return rows * 8 + -(-rows // BLOCK_ROWS) * (NONCE + TAG)

    def _object(self, key: str, rows: int) -> bytes:
        """The beginning of an object, with the whole blocks of so many rows at least."""
        rng = np.random.default_rng(int(key[6:], 16))
        framed = compression.frame(self.pack_ids(int(key[6:], 16)) + self._columns)
        nonce, seal = bytes(NONCE), KEYS.footer_seal()
        header = index._HEADER.pack(b"PULLERIX", 1, KEYS.cipher, 0, PACKS, ROWS, len(framed) + TAG, nonce)
        pieces = [header, seal.seal(nonce, framed, index._table_aad(KEYS, key, header))]
        blocks = -(-rows // BLOCK_ROWS)
        steps = rng.standard_exponential(blocks * BLOCK_ROWS) * (2.0**64 / ROWS)
        places = rng.integers(0, PACKS, len(steps), np.uint64)
        numbers = np.minimum(steps.cumsum(), 2.0**64 - 2**20).astype(np.uint64)
        made = numbers >> np.uint64(16) << np.uint64(16) | places
        made.sort()
        for number in range(blocks):
            content = made[number * BLOCK_ROWS : (number + 1) * BLOCK_ROWS][: ROWS - number * BLOCK_ROWS]
            pieces += nonce, seal.seal(nonce, content.tobytes(), index._block_aad(KEYS, key, number))
        return b"".join(pieces)


def resident() -> tuple[int, int]:
    """Bytes now and at the peak, file-backed pages included."""
    status = Path("/proc/self/status").read_text("ascii")
    fields = dict(line.split(":", 1) for line in status.splitlines())
    return tuple(int(fields[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM"))  # type: ignore[return-value]


def new_host(tib: float) -> None:
    """Open the index of a repository that this host does not know; then look for what is not stored."""
    store = MadeUp(int(tib * TIB) // CHUNK)
    listed = store.listed()
    before, _ = resident()
    began, used = time.perf_counter(), time.process_time()
    files = load_hints(bytes(ID), listed, lambda info, share: read_index(store, KEYS, info, share), BUDGET)  # type: ignore[arg-type]
    seconds, used = time.perf_counter() - began, time.process_time() - used - store.seconds
    now, peak = resident()
    known = ChunkIndex(files, Archive(0, Path()), PackTable())  # type: ignore[arg-type]
    rate = look_ups(known)
    disk = sum(
        file.stat().st_size for file in Path(os.environ["PULLER_CACHE_DIR"]).rglob("*") if file.is_file()
    )
    share = store.bytes / (store.objects * ROWS * BEFORE)
    print(
        f"{tib:6.2f} TiB  s = {1 << files[0].shift:4}  {store.requests} requests {store.bytes / MIB:6.0f} MiB"
        f" ({share:5.1%})  ready in {seconds:5.2f} s, {used:5.2f} CPU-s without the store"
        f"  resident +{(now - before) / MIB:3.0f} MiB, at most +{(peak - before) / MIB:3.0f}"
        f"  on disk {disk / MIB:4.0f} MiB  {rate:9,.0f} misses a second"
    )
    began = time.perf_counter()
    load_hints(bytes(ID), listed, lambda info, share: None, BUDGET)
    print(f"{'':11} opened again in {time.perf_counter() - began:.2f} s")


def look_ups(known: ChunkIndex) -> float:
    ids = np.random.default_rng(1).integers(0, 256, (LOOK_UPS, ID), np.uint8)
    keys = [key.tobytes() for key in ids]
    began = time.perf_counter()
    for at in range(0, LOOK_UPS, BATCH):
        known.find(PackKind.DATA, keys[at : at + BATCH])
    return LOOK_UPS / (time.perf_counter() - began)


# --- what samples find ------------------------------------------------------------------------


class Archive:
    """Packs and index objects, as ids alone; a host keeps one id in 2 ** ``shift``."""

    def __init__(self, shift: int, folder: Path) -> None:
        self.shift = shift
        self.folder = folder
        self.packs: dict[bytes, Ids] = {}
        self.parts: list[IndexPart] = []
        self.read = 0

    def ids(self, kind: PackKind, pack_id: bytes) -> Ids:
        self.read += 1
        return self.packs.get(pack_id, _NONE)

    def _hints(self) -> HintFile:
        path = self.folder / os.urandom(8).hex()
        with path.open("wb") as file:
            writer = HintWriter(file, self.shift, BUDGET)
            for part in self.parts:
                writer.add(os.urandom(ID).hex(), part)
            writer.finish(bytes(ID))
        try:
            return HintFile(path, bytes(ID))
        finally:
            path.unlink()

    def back_up(self, ids: Sequence[bytes]) -> int:
        """Store what is not found of ``ids``; return how many were found."""
        table, fresh = PackTable(), list[bytes]()
        known = ChunkIndex([self._hints()], self, table)  # type: ignore[arg-type]
        names = [os.urandom(ID) for _ in range(len(ids) // SLOTS + 1)]
        for at in range(0, len(ids), BATCH):
            batch = ids[at : at + BATCH]
            packs, _ = known.find(PackKind.DATA, batch)
            for key in dict.fromkeys(
                key for key, pack in zip(batch, packs.tolist(), strict=True) if pack < 0
            ):
                known.add(PackKind.DATA, table.number(names[len(fresh) // SLOTS]), len(fresh) % SLOTS, [key])
                fresh.append(key)
        self._keep(names, fresh)
        return len(ids) - len(fresh)

    def _keep(self, names: Sequence[bytes], fresh: Sequence[bytes]) -> None:
        column = np.frombuffer(b"".join(fresh), np.uint8).reshape(-1, ID)
        entries, rows = [], []
        for place, first in enumerate(range(0, len(fresh), SLOTS)):
            ids = self.packs[names[place]] = column[first : first + SLOTS]
            entries.append(PackEntry(PackKind.DATA, names[place], 0, 33 * MIB, len(ids), 0))
            rows.append(id_bits(ids) | np.uint64(place))
        joined: IndexRows = np.concatenate([np.zeros(0, np.uint64), *rows])
        joined.sort()
        self.parts.append(IndexPart(entries, joined))


class Guest:
    """Makes disks as lists of ids. Changes come in extents of eight chunks on average."""

    def __init__(self, chunks: int) -> None:
        self.rng = random.Random(7)
        self.disk = [self.rng.randbytes(ID) for _ in range(chunks)]

    def extents(self, share: float) -> list[int]:
        """Places that change, about ``share`` of all, in disk order."""
        places: set[int] = set()
        while len(places) < share * len(self.disk):
            first = self.rng.randrange(len(self.disk))
            length = 1 + int(self.rng.expovariate(1 / 8))
            places.update(range(first, min(first + length, len(self.disk))))
        return sorted(places)

    def changed(self, disk: Sequence[bytes], places: Sequence[int]) -> list[bytes]:
        new = list(disk)
        for place in places:
            new[place] = self.rng.randbytes(ID)
        return new


def aged(archive: Archive, guest: Guest) -> list[bytes]:
    """A template: a full and ten incrementals of 2 %."""
    disk = guest.disk
    archive.back_up(disk)
    for _ in range(10):
        places = guest.extents(0.02)
        disk = guest.changed(disk, places)
        archive.back_up([disk[place] for place in places])
    return disk


def clone(share: float) -> Callable[[Archive, Guest], tuple[int, int]]:
    def take(archive: Archive, guest: Guest) -> tuple[int, int]:
        disk = aged(archive, guest)
        places = guest.extents(share)
        return archive.back_up(guest.changed(disk, places)), len(disk)

    return take


def updated_clones(archive: Archive, guest: Guest) -> tuple[int, int]:
    """Twenty clones get the same update of 5 %, and have 1 % of their own; each is an incremental."""
    disk = aged(archive, guest)
    update = guest.extents(0.05)
    disk, found, read = guest.changed(disk, update), 0, 0
    for _ in range(20):
        own = guest.extents(0.01)
        mine = guest.changed(disk, own)
        places = sorted({*update, *own})
        found += archive.back_up([mine[place] for place in places])
        read += len(places)
    return found, read


def repeated_full(archive: Archive, guest: Guest) -> tuple[int, int]:
    """A first full fails after 70 %, and is taken again."""
    archive.back_up(guest.disk[: len(guest.disk) * 7 // 10])
    return archive.back_up(guest.disk), len(guest.disk)


CASES: dict[str, Callable[[Archive, Guest], tuple[int, int]]] = {
    "clone, 1 % changed": clone(0.01),
    "clone, 5 % changed": clone(0.05),
    "clone, 20 % changed": clone(0.20),
    "the same update in 20 clones": updated_clones,
    "a failed first full, repeated": repeated_full,
}


def finding(chunks: int, shifts: Sequence[int]) -> None:
    """Print what each sample finds, as a share of what the full index finds."""
    print(f"\nfound of what the full index finds; disk of {chunks:,} chunks; in brackets: footers read")
    print(f"{'':32} {'full index':>18}" + "".join(f"{f's = {1 << shift}':>18}" for shift in shifts))
    for name, case in CASES.items():
        whole, line = 0, ""
        for shift in (0, *shifts):
            with tempfile.TemporaryDirectory() as folder:
                archive = Archive(shift, Path(folder))
                found, read = case(archive, Guest(chunks))
            whole = whole or found
            shown = f"{found / read:.1%} of all" if not shift else f"{found / whole:.2%}"
            line += f"{f'{shown} ({archive.read})':>18}"
        print(f"{name:32} {line}", flush=True)


def measures(arguments: argparse.Namespace) -> Iterator[None]:
    for tib in arguments.tib:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as cache:
            command = [sys.executable, "-m", "benchmarks.index", "--one", str(tib)]
            subprocess.run(command, check=True, env={**os.environ, "PULLER_CACHE_DIR": cache})
        yield


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tib", type=float, nargs="*", default=[0.25, 3, 10, 100])
    parser.add_argument("--chunks", type=int, default=1 << 17)
    parser.add_argument("--shifts", type=int, nargs="*", default=[3, 6, 8, 10])
    parser.add_argument("--folder", type=Path, default=Path("/var/tmp"), help="for the cache: 256 MiB")
    parser.add_argument("--one", type=float, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one is not None:
        new_host(arguments.one)
        return
    for _ in measures(arguments):
        pass
    if arguments.chunks:
        finding(arguments.chunks, arguments.shifts)


if __name__ == "__main__":
    main()
