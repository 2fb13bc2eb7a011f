"""How the content index scales: disk, memory and look-ups a second, with synthetic contents.

    python benchmarks/index.py --contents 50000000 --folder /var/tmp/index-benchmark

Goes the way of a backup (``open_index``), only that index objects are made up instead of fetched: 64
packs of 1000 contents each. Each line is of a process of its own.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from puller.repository.format.footer import ID, Footer, Ids, PackKind
from puller.repository.format.index import IndexedPack
from puller.repository.format.pages import PackTable
from puller.repository.index.chunkindex import ChunkIndex, open_index
from puller.repository.keys.keyring import NO_KEY_BOX
from puller.units import GIB, MIB

REPOSITORY = bytes(ID)
PACKS, SLOTS = 64, 1000
LOOK_UPS, PASSES = 1 << 18, 5


def listed(objects: int) -> Mapping[bytes, str]:
    return {number.to_bytes(ID, "big"): f"index/{number:032x}" for number in range(1, objects + 1)}


def ids_of(number: int) -> Ids:
    rng = np.random.default_rng(number)
    return rng.integers(0, 256, (PACKS * SLOTS, ID), np.uint8)


def read(key: str) -> list[IndexedPack]:
    number = int(key.removeprefix("index/"), 16)
    ids = ids_of(number).reshape(PACKS, SLOTS, ID)
    lengths, flags = np.full(SLOTS, 30000, np.uint32), np.zeros(SLOTS, np.uint8)
    return [
        IndexedPack(
            PackKind.DATA,
            number.to_bytes(8, "little") + pack.to_bytes(8, "little"),
            SLOTS * 30000,
            Footer(NO_KEY_BOX, ids[pack], lengths, flags),
        )
        for pack in range(PACKS)
    ]


def resident() -> tuple[int, int]:
    """Bytes now and at the peak, file-backed pages included."""
    status = Path("/proc/self/status").read_text("ascii")
    fields = dict(line.split(":", 1) for line in status.splitlines())
    return tuple(int(fields[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM"))  # type: ignore[return-value]


def open_timed(objects: int) -> tuple[ChunkIndex, float]:
    began = time.perf_counter()
    return open_index(REPOSITORY, listed(objects), read, PackTable()), time.perf_counter() - began


def report_open(title: str, seconds: float) -> None:
    now, peak = resident()
    print(f"{title:<44} {seconds:9.2f} s   resident {now / MIB:5.0f} MiB, peak {peak / MIB:5.0f} MiB")


def opening(objects: int, title: str) -> None:
    index, seconds = open_timed(objects)
    report_open(title, seconds)
    index.close()


def finding(objects: int, size: int, share: float) -> None:
    """Look up ids, ``size`` a call, ``share`` of them held; the best of some passes over other ids."""
    index, _ = open_timed(objects)
    passes = [one_pass(index, asked_ids(objects, share), size) for _ in range(PASSES)]
    seconds, used = map(min, zip(*passes, strict=True))
    title = f"{share:4.0%} hits, {size} a call"
    rate = f"{LOOK_UPS / seconds:9,.0f}/s   {used / LOOK_UPS * 1e6:.2f} us CPU each"
    print(f"{title:<44} {rate}   resident {resident()[0] / MIB:.0f} MiB")


def asked_ids(objects: int, share: float) -> Ids:
    rng = np.random.default_rng()
    ids = rng.integers(0, 256, (LOOK_UPS, ID), np.uint8)
    for part in np.array_split(np.flatnonzero(rng.random(LOOK_UPS) < share), 64):
        ids[part] = rng.choice(ids_of(int(rng.integers(1, objects + 1))), len(part))
    return ids


def one_pass(index: ChunkIndex, ids: Ids, size: int) -> tuple[float, float]:
    """Seconds on the clock, and of the processor."""
    began, used = time.perf_counter(), time.process_time()
    for at in range(0, LOOK_UPS, size):
        index.find(ids[at : at + size])
    return time.perf_counter() - began, time.process_time() - used


def adding(objects: int, count: int) -> None:
    """Add contents a thousand at a time, as a run does, finding each batch before."""
    index, _ = open_timed(objects)
    rng = np.random.default_rng()
    began = time.perf_counter()
    for at in range(0, count, 1024):
        ids = rng.integers(0, 256, (1024, ID), np.uint8)
        index.find(ids)
        for slot, key in enumerate(ids):
            index.add(key.tobytes(), at // 1024, slot)
    report_open(f"{count:,} contents found missing, then added", time.perf_counter() - began)


def measure(arguments: argparse.Namespace) -> None:
    objects = max(1, arguments.contents // (PACKS * SLOTS))
    steps = {
        "build": lambda: opening(objects, f"{objects * PACKS * SLOTS:,} contents: built from nothing"),
        "open": lambda: opening(objects, "opened, nothing new"),
        "more": lambda: opening(objects + 2, f"opened, {2 * PACKS * SLOTS:,} contents new"),
        "gone": lambda: opening(objects, "opened, these vanished again"),
        "add": lambda: adding(objects, arguments.added),
    }
    for share in (1.0, 0.0):
        for size in (1, 16, 256, 1024, 4096):
            steps[f"find-{share}-{size}"] = lambda share=share, size=size: finding(objects, size, share)  # type: ignore[misc]
    if arguments.step:
        steps[arguments.step]()
        return
    for step in steps:
        subprocess.run([sys.executable, *sys.argv, "--step", step], check=True)
        if step == "gone":
            report_disk(arguments.folder, objects)


def report_disk(folder: Path, objects: int) -> None:
    files = list((folder / REPOSITORY.hex()).glob("*"))
    size = sum(path.stat().st_size for path in files)
    segments = sum(path.suffix == ".segment" for path in files)
    each = size / (objects * PACKS * SLOTS)
    print(f"{'on disk':<44} {size / GIB:9.3f} GiB in {segments} segments, {each:.1f} bytes a content")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--contents", type=int, default=5_000_000)
    parser.add_argument("--added", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, required=True, help="for the cache; some 24 bytes a content")
    parser.add_argument("--step", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    os.environ["PULLER_CACHE_DIR"] = str(arguments.folder)
    measure(arguments)


if __name__ == "__main__":
    main()
