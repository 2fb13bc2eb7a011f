"""What the work of a full costs at least: each of its steps alone, on the same bytes, with nothing around it.

The sum of the CPU-seconds divided by the number of cores is the wall time that a backup could reach which
kept all cores busy with nothing but these steps. It counts what serves a step as well: QEMU while it is
read, the S3 server while it is put.
"""

from __future__ import annotations

import json
import mmap
import os
import shutil
import sys
import time
from collections import defaultdict
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import zstandard
from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from benchmarks import crowding as crowded
from benchmarks import gets
from benchmarks.cost import Cost
from benchmarks.stage import Stage
from puller.nbd.export import Export
from puller.nbd.reader import read
from puller.pipeline.buffers import Batch, BufferPool
from puller.pipeline.readgate import OpenGate
from puller.store.directory.folder import FolderStore
from puller.units import CHUNK, KIB, MIB

PACK = 32 * MIB
TAG = 16
STEPS = ("read", "zero test", "hash", "compress", "seal")
_ZEROS = bytes(CHUNK)


@dataclass(frozen=True, slots=True)
class Roofline:
    """CPU-seconds of each step; ``crowding`` is what ``compress`` takes on all cores at once, over alone."""

    steps: dict[str, float]
    to_folder: float
    to_s3: float
    crowding: float = 1.0

    def wall(self, target: str) -> float:
        """Seconds that all cores need for the steps of a full to ``folder`` or ``s3``."""
        return (sum(self.steps.values()) + (self.to_folder if target == "folder" else self.to_s3)) / cores()

    def crowded_wall(self, target: str) -> float:
        """The same with the compression as slow as it is while all cores compress."""
        return self.wall(target) + self.steps["compress"] * (self.crowding - 1) / cores()


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0))


def measure(stage: Stage) -> Roofline:
    """Measure every step on the disk of ``ours``."""
    packs = stage.place("packs")
    packs.mkdir()
    with stage.ours.export(stage.place(".")) as uri:
        meter = stage.meter(stage.ours)
        read_alone = meter.run(["nbdcopy", f"--request-size={512 * KIB}", uri, "null:"])
        meter.run([sys.executable, "-m", "benchmarks.roofline", uri, str(packs)])
        steps: dict[str, float] = json.loads(meter.said())
    put = put_alone(stage, packs)
    shutil.rmtree(packs)
    written = steps.pop("write")
    crowding = crowded.measure(stage, cores())
    return Roofline({"read": read_alone.total_cpu} | steps, written, put.total_cpu, crowding)


def put_alone(stage: Stage, packs: Path) -> Cost:
    """PUT the files of ``packs`` to the bucket by the leanest client there is."""
    urls = [(stage.cloud.url("put_object", f"alone/{path.name}"), path) for path in sorted(packs.iterdir())]
    return gets.run(stage, "PUT", [f"{url} {path}" for url, path in urls])


class _Steps:
    """CPU-seconds of this thread by step, and the pack that the sealed chunks go to."""

    def __init__(self, folder: Path) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._store = FolderStore(folder)
        self._names = (f"{number:04}" for number in count())
        # It begins at a page, without which nothing can be written past the page cache.
        self._pack = memoryview(mmap.mmap(-1, PACK + 2 * MIB))
        self._end = 0
        self._key = os.urandom(32)
        self._seen: set[bytes] = set()
        self._compressor = zstandard.ZstdCompressor(level=1)
        self._cipher = AESGCM(os.urandom(32))
        self._last = time.thread_time()

    def take(self, batch: Batch) -> None:
        """All the steps of one batch, one after the other."""
        view = batch.buffer.view
        starts = [
            at for part in batch.segments for at in range(part.position, part.position + part.length, CHUNK)
        ]
        self._lap()
        starts = [at for at in starts if not _ZEROS.startswith(view[at : at + CHUNK])]
        self._lap("zero test")
        ids = [blake3(view[at : at + CHUNK], key=self._key).digest(16) for at in starts]
        self._lap("hash")
        new = [at for at, key in dict(zip(starts, ids, strict=True)).items() if self._is_new(key)]
        self._lap()
        frames = [self._compressor.compress(view[at : at + CHUNK]) for at in new]
        self._lap("compress")
        for frame, at in zip(frames, new, strict=True):
            self._seal(frame if len(frame) < CHUNK else view[at : at + CHUNK])
        self._lap("seal")
        if self._end > PACK:
            self.write()

    def _is_new(self, key: bytes) -> bool:
        known = key in self._seen
        self._seen.add(key)
        return not known

    def _seal(self, content: bytes | memoryview) -> None:
        end = self._end + len(content) + TAG
        self._cipher.encrypt_into(
            self._end.to_bytes(12, "little"), content, None, self._pack[self._end : end]
        )
        self._end = end

    def write(self) -> None:
        """Have the pack stored as a backup has it: past the page cache, and synced."""
        self._lap()
        self._store.put(next(self._names), self._pack[: self._end])
        self._end = 0
        self._lap("write")

    def _lap(self, step: str = "") -> None:
        now = time.thread_time()
        if step:
            self.seconds[step] += now - self._last
        self._last = now


def main() -> None:
    """Take the export at the URI through the steps, packs to the folder; print the CPU-seconds as JSON."""
    uri, folder = sys.argv[1:]
    steps, pool = _Steps(Path(folder)), BufferPool(16, MIB)
    with Export(uri) as export:
        gate = OpenGate(8 * MIB)
        for batch in read(export, export.contents(), pool, gate=gate, planned=lambda extent: None):
            steps.take(batch)
            batch.release()
    steps.write()
    print(json.dumps(steps.seconds))


if __name__ == "__main__":
    main()
