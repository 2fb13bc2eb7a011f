"""What a served point costs: against the store's own answers, and against a restore, in one run.

    python -m benchmarks.serve                    # a disk of 4 GiB in SeaweedFS, near and 40 ms away
    python -m benchmarks.serve --size 1 --reads 100

The disk is half full, and its data compresses to about a half. Every figure is of a new server, so nothing is
in its memory; the repository is in the page cache of the same machine, whose cores server and store share.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

import puller
from benchmarks.delay import wire
from benchmarks.scale import line
from puller.nbd.connection import Connection
from puller.pipeline.buffers import Batch, ReadSegment
from puller.repository.format.packname import PackKind
from puller.repository.points import DiskRecord, Point, Ref, new_id
from puller.repository.reading.image import DiskImage
from puller.repository.writing.run import Tuning
from puller.units import CHUNK, GIB, KIB, MIB, PAGE_CHUNKS, Extent, Kind
from tests.lab.seaweed import Seaweed

BUCKET = "served"
URL = f"s3://{BUCKET}/repository"
PASSWORD = "benchmark"
UUID = "1f80ae13-49df-4e30-9b5a-d185a32acbbc"
STRIPE = 8 * MIB
"""Data and holes alternate in such pieces."""

FIRST_BYTE, EXTRA, OF_RESTORE, MEMORY = 1.0, 0.005, 0.6, 256


def prepare(size: int) -> Point:
    """Store a disk whose every second stripe holds data."""
    repository = puller.create_repository(URL, password=PASSWORD)
    noise = random.Random(size)
    with repository.run(Tuning()) as run:
        writer = run.disk(size, None)
        for start in range(0, size, 2 * STRIPE):
            writer.announce(Extent(start, STRIPE, Kind.DATA))
            for offset in range(start, start + STRIPE, MIB):
                buffer = run.batches.acquire()
                content = b"".join(
                    noise.randbytes(CHUNK // 2) + bytes(CHUNK // 2) for _ in range(MIB // CHUNK)
                )
                buffer.view[:MIB] = content
                writer.submit(Batch(buffer, (ReadSegment(offset, MIB, 0),)))
            writer.announce(Extent(start + STRIPE, STRIPE, Kind.ZERO))
        run.drain()
        root = writer.finish()
        run.flush()
    now = datetime.now(UTC)
    record = DiskRecord("vda", "full", size, Ref.to(root))
    point = Point(new_id(now), "web1", UUID, now, "pull", "full", (record,))
    repository.points.commit(point)
    return point


@dataclass(frozen=True)
class Served:
    """A server under way, since ``began``; its two processes are ``pids``."""

    uri: str
    pids: tuple[int, int]
    began: float

    @property
    def peaks(self) -> list[int]:
        """Most resident memory of each process so far, in bytes."""
        return [_status(pid, "VmHWM") for pid in self.pids]


@contextmanager
def served(*options: str) -> Iterator[Served]:
    words = [sys.executable, "-m", "puller.cli", "-r", URL, "serve", "web1@latest", "--json", *options]
    began = time.monotonic()
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        document = json.loads(process.stdout.readline())
        try:
            yield Served(document["uri"], (process.pid, _child(process.pid)), began)
        finally:
            process.terminate()


def _child(pid: int) -> int:
    """The one child of a process, whichever of its threads started it."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    (found,) = (int(word) for task in tasks for word in (task / "children").read_text().split())
    return found


def _status(pid: int, name: str) -> int:
    (found,) = (text for text in Path(f"/proc/{pid}/status").read_text().splitlines() if name in text)
    return int(found.split()[1]) * KIB


def first_byte() -> float:
    with served() as server, closing(Connection(server.uri)) as connection:
        connection.read(1, 12345)
        return time.monotonic() - server.began


class RawStore:
    """The store's own GETs of the stored bytes of chunks, without puller."""

    def __init__(self, point: Point) -> None:
        self._repository = puller.open_repository(URL, password=PASSWORD)
        self._image = DiskImage(self._repository.maps, self._repository.packs, point.disks[0].root.address)
        self._client: Any = boto3.client("s3", config=Config(retries={"total_max_attempts": 1}))
        self._table = self._repository.maps.table

    def place(self, offset: int) -> tuple[str, int, int]:
        """Object, first and last byte of the chunk that holds ``offset``."""
        page, position = divmod(offset // CHUNK, PAGE_CHUNKS)
        self._image.load([page])
        refs = self._image._loaded[page]
        pack = self._repository.packs.open(PackKind.DATA, self._table.pack_id(int(refs.packs[position])))
        slot = int(refs.slots[position])
        return (
            f"repository/{pack.name}",
            int(pack.footer.offsets[slot]),
            int(pack.footer.offsets[slot + 1]) - 1,
        )

    def get(self, place: tuple[str, int, int]) -> float:
        began = time.perf_counter()
        key, first, last = place
        self._client.get_object(Bucket=BUCKET, Key=key, Range=f"bytes={first}-{last}")["Body"].read()
        return time.perf_counter() - began


def random_reads(point: Point, size: int, count: int) -> tuple[float, float]:
    """Medians of a cold read of 4 KiB, and of the GET of the same range, in turn."""
    raw = RawStore(point)
    chance = random.Random(count)
    stripes = chance.choices(range(0, size, 2 * STRIPE), k=count)
    offsets = [start + chance.randrange(STRIPE // 4096) * 4096 for start in stripes]
    reads, gets = [], []
    with served() as server, closing(Connection(server.uri)) as connection:
        for offset in offsets:
            place = raw.place(offset)
            gets.append(raw.get(place))
            began = time.perf_counter()
            connection.read(4096, offset)
            reads.append(time.perf_counter() - began)
    return statistics.median(reads), statistics.median(gets)


def copy_to_null() -> tuple[float, list[int]]:
    with served() as server:
        began = time.monotonic()
        subprocess.run(["nbdcopy", server.uri, "null:"], check=True)
        return time.monotonic() - began, server.peaks


def restore(folder: Path) -> float:
    output = folder / "restored.raw"
    words = [sys.executable, "-m", "puller.cli", "-r", URL, "restore", "web1@latest", "--json"]
    words += ["--disk", f"vda={output}", "--format", "raw"]
    done = json.loads(subprocess.run(words, check=True, stdout=subprocess.PIPE).stdout)
    output.unlink()
    return float(done["disks"][0]["seconds"])


def measure(name: str, point: Point, folder: Path, options: argparse.Namespace) -> None:
    size, reads, rounds = point.disks[0].size, options.reads, options.rounds
    started = min(first_byte() for _ in range(rounds))
    line(f"{name}: command to first byte, s", f"{started:.2f}", f"<= {FIRST_BYTE}", started <= FIRST_BYTE)
    read, get = random_reads(point, size, reads)
    figure = f"{read * 1000:.1f} against {get * 1000:.1f}"
    line(f"{name}: cold read of 4 KiB against GET, ms", figure, "<= + 5", read <= get + EXTRA)
    pairs = [(copy_to_null(), restore(folder)) for _ in range(rounds)]
    copied, restored = min(pair[0][0] for pair in pairs), min(pair[1] for pair in pairs)
    rate = size / 2 / MIB / copied
    share = restored / copied
    figure = f"{share:.0%} ({rate:.0f} MiB/s of data)"
    line(f"{name}: nbdcopy to null against restore", figure, ">= 60 %", share >= OF_RESTORE)
    peaks = [max(pair[0][1][number] for pair in pairs) / MIB for number in (0, 1)]
    figure = f"{peaks[0]:.0f} + {peaks[1]:.0f}"
    line(f"{name}: peak MiB of puller and nbdkit", figure, f"<= {MEMORY}", sum(peaks) <= MEMORY)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", default="/var/tmp")
    parser.add_argument("--size", type=float, default=4, metavar="GIB")
    parser.add_argument("--reads", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--delay", type=float, default=40, metavar="MS")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="ps-", dir=options.folder))
    size = int(options.size * GIB)
    try:
        with Seaweed(folder / "seaweed") as seaweed:
            os.environ.update(seaweed.variables())
            os.environ |= {"PULLER_CACHE_DIR": str(folder / "cache"), "PULLER_PASSWORD": PASSWORD}
            seaweed.make_bucket(BUCKET)
            point = prepare(size)
            measure("near", point, folder, options)
            if options.delay:
                with wire(seaweed.endpoint, options.delay) as endpoint:
                    os.environ["AWS_ENDPOINT_URL_S3"] = endpoint
                    measure(f"{options.delay:g} ms away", point, folder, options)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
