"""Cost follows change, not size: the same changes on a small and on a huge disk, side by side.

    python benchmarks/scale.py                 # 100 changes on 4 GiB and 4 TiB; 300,000 on 4 TiB
    python benchmarks/scale.py --many 30000    # fewer in the second part

Each case is a process of its own: a qcow2 image with a persistent bitmap, served by qemu-nbd, a base
point of it, then the incremental that is measured. The second part needs some GiB of room in --folder.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbd

from benchmarks.counting import CountingStore
from puller.nbd.export import Export
from puller.nbd.image import ImageServer, create_qcow2
from puller.nbd.reader import read
from puller.repository import chunkindex, diskmap
from puller.repository import repository as repositories
from puller.repository import run as runs
from puller.repository.pages import Address
from puller.repository.repository import Repository
from puller.repository.slots import KeyFile
from puller.store.folder import FolderStore
from puller.units import CHUNK, GIB, KIB, MIB, TIB

KEY = KeyFile(bytes(range(32)))
IN_FLIGHT = 16


def positions(size: int, count: int) -> list[int]:
    """``count`` chunks spread over the disk, the same ones at each call."""
    return sorted(random.Random(count).sample(range(size // CHUNK), count))


def write(uri: str, chunks: list[int], make: Callable[[nbd.NBD, int], int]) -> None:
    """Start a request for each chunk, some at a time."""
    handle = nbd.NBD()
    handle.connect_uri(uri)
    for chunk in chunks:
        while handle.aio_in_flight() >= IN_FLIGHT:
            handle.poll(-1)
            while cookie := handle.aio_peek_command_completed():
                handle.aio_command_completed(cookie)
        make(handle, chunk * CHUNK)
    while handle.aio_in_flight():
        handle.poll(-1)
    handle.flush()
    handle.shutdown()


def data(length: int, seed: int) -> Callable[[nbd.NBD, int], int]:
    """Writes the first ``length`` bytes of a chunk, each chunk with content of its own."""
    noise = random.Random(seed).randbytes(length)

    def make(handle: nbd.NBD, offset: int) -> int:
        body = bytearray(noise)
        body[:8] = offset.to_bytes(8, "little")
        return int(handle.aio_pwrite(body, offset))

    return make


def zero(handle: nbd.NBD, offset: int) -> int:
    return int(handle.aio_zero(CHUNK, offset))


@contextlib.contextmanager
def timed(cost: dict[str, float], owner: Any, name: str) -> Iterator[None]:
    """Add up the CPU-seconds that the calling threads spend in ``owner.name``."""
    real = getattr(owner, name)

    def call(*args: Any, **options: Any) -> Any:
        began = time.thread_time()
        try:
            return real(*args, **options)
        finally:
            cost[name] = cost.get(name, 0.0) + time.thread_time() - began

    setattr(owner, name, call)
    try:
        yield
    finally:
        setattr(owner, name, real)


def take(repository: Repository, image: Path, bitmap: str | None, base: Address | None) -> Address:
    """Store the image as the agent does: one reader thread, codecs and uploads of the run."""
    with (
        ImageServer.read_only(image, "qcow2", bitmap=bitmap) as server,
        repository.run() as run,
        Export(server.uri, f"qemu:dirty-bitmap:{bitmap}" if bitmap else None) as export,
    ):
        writer = run.disk(export.size, base)
        extents = export.changes() if bitmap else export.contents()

        def reading() -> None:
            for batch in read(export, extents, run.batches, window=8 * MIB, planned=writer.announce):
                writer.submit(batch)

        run.flow.spawn("read", reading).join()
        run.drain()
        root = writer.finish()
        run.flush()
    return root


def case(folder: Path, size: int, count: int, kind: str) -> dict[str, float]:
    """Measure one incremental; see the table's head for the fields."""
    image, chunks = folder / "disk.qcow2", positions(size, count)
    create_qcow2(image, size)
    with ImageServer(image, "qcow2") as server:
        write(server.uri, chunks, data(512, 1))
    store = CountingStore(FolderStore(folder / "repository"))
    base = take(repositories.create(store, KEY), image, None, None)
    subprocess.run(["qemu-img", "bitmap", "--add", str(image), "changed"], check=True)
    with ImageServer(image, "qcow2") as server:
        write(server.uri, chunks, zero if kind == "zero" else data(CHUNK if count < 1000 else 4 * KIB, 2))
    os.environ["PULLER_CACHE_DIR"] = str(folder / "other-host")  # a cold host: no cache of the index
    repository = repositories.open_repository(store, KEY)
    store.reset()
    return measure(repository, store, image, base)


def measure(repository: Repository, store: CountingStore, image: Path, base: Address) -> dict[str, float]:
    cost: dict[str, float] = {}
    maps = [(diskmap.DiskMap, "announce"), (diskmap.DiskMap, "place"), (diskmap.DiskMap, "finish")]
    index = [(chunkindex.ChunkIndex, "find"), (chunkindex.ChunkIndex, "add"), (runs, "open_index")]
    with contextlib.ExitStack() as stack:
        for owner, name in [*maps, *(pair for pair in index if hasattr(*pair))]:
            stack.enter_context(timed(cost, owner, name))
        wall, cpu = time.monotonic(), time.process_time()
        take(repository, image, "changed", base)
        wall, cpu = time.monotonic() - wall, time.process_time() - cpu
    return {
        "seconds": wall,
        "cpu": cpu,
        "share": sum(cost.values()) / cpu,
        "requests": store.requests,
        "metadata": store.stored("maps/") + store.stored("index/"),
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIB,
    }


def in_process(folder: str, size: int, count: int, kind: str) -> dict[str, float]:
    """``case`` in a fresh process, for an honest peak of memory."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        command = [sys.executable, "-m", "benchmarks.scale", "--case", scratch, str(size), str(count), kind]
        answer: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    print(
        f"{size / GIB:7.0f} GiB {count:8} {kind:5} {answer['seconds']:8.2f} {answer['cpu']:8.2f}"
        f" {answer['share']:7.1%} {answer['requests']:9.0f} {answer['metadata'] / KIB:10.1f}"
        f" {answer['peak'] / MIB:8.0f}",
        flush=True,
    )
    return answer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", default="/var/tmp")
    parser.add_argument("--few", type=int, default=100)
    parser.add_argument("--many", type=int, default=300_000)
    parser.add_argument("--case", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        folder, size, count, kind = options.case
        print(json.dumps(case(Path(folder), int(size), int(count), kind)))
        return
    print("    disk      dirty kind   seconds    CPU-s  map+idx  requests  meta. KiB peak MiB")
    small = in_process(options.folder, 4 * GIB, options.few, "data")
    large = in_process(options.folder, 4 * TIB, options.few, "data")
    print("4 TiB / 4 GiB: " + ", ".join(f"{name} {large[name] / small[name]:.2f}" for name in small))
    for kind in ("zero", "data"):
        in_process(options.folder, 4 * TIB, options.many, kind)


if __name__ == "__main__":
    main()
