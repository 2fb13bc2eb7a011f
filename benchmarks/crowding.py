"""What a core loses while the others work: they may share caches, memory and, in a virtual machine, more.

    python -m benchmarks.crowding FILE

A roofline adds up what each step costs alone. If compressing on all cores at once costs more CPU-seconds
than one core after the other, no program can reach it that keeps all cores busy.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from threading import Barrier, Thread

import zstandard

from benchmarks.stage import Stage
from puller.units import CHUNK, MIB

SAMPLE = 128 * MIB
"""Bytes for each core."""


def measure(stage: Stage, cores: int) -> float:
    """CPU-seconds of compressing samples of the disk on so many cores at once, over those of one by one."""
    meter = stage.meter()
    meter.run([sys.executable, "-m", "benchmarks.crowding", str(stage.disk), str(cores)])
    return float(json.loads(meter.said()))


def _compress(sample: memoryview, barrier: Barrier, seconds: list[float]) -> None:
    compressor = zstandard.ZstdCompressor(level=1)
    barrier.wait()
    began = time.thread_time()
    for at in range(0, len(sample), CHUNK):
        compressor.compress(sample[at : at + CHUNK])
    seconds.append(time.thread_time() - began)


def _at_once(samples: list[memoryview]) -> float:
    barrier, seconds = Barrier(len(samples)), list[float]()
    threads = [Thread(target=_compress, args=(sample, barrier, seconds)) for sample in samples]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(seconds)


def main() -> None:
    """Compress samples of the file's beginning in turn and at once; print the ratio."""
    path, cores = Path(sys.argv[1]), int(sys.argv[2])
    with path.open("rb") as file:
        samples = [memoryview(file.read(SAMPLE)) for _ in range(cores)]
    in_turn = sum(_at_once([sample]) for sample in samples)
    print(json.dumps(_at_once(samples) / in_turn))


if __name__ == "__main__":
    main()
