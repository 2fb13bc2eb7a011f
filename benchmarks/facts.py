"""What the machine makes of the steps that cost most: MB/s on one thread, and on all cores together.

    python -m benchmarks.facts FILE

They decide the ratios between tools, which differ in how much they compute.
"""

from __future__ import annotations

import json
import mmap
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from threading import Barrier, Thread

import zstandard
from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from benchmarks.stage import Stage
from puller.units import CHUNK, MIB

SAMPLE = 64 * MIB
"""Bytes for each thread, from the beginning of the disk."""

_TAG = 16
_MEGABYTE = 1e6

Step = Callable[[memoryview], object]
Facts = dict[str, tuple[float, float]]
"""By step: MB/s of one thread, and of as many as there are cores, together."""


def measure(stage: Stage) -> Facts:
    """Measure on the stage's disk, in a process of its own."""
    meter = stage.meter()
    meter.run([sys.executable, "-m", "benchmarks.facts", str(stage.disk)])
    return {step: (one, all_) for step, (one, all_) in json.loads(meter.said()).items()}


def _steps() -> dict[str, Step]:
    """Return new steps: each thread needs its own."""
    zstd, aes, key = zstandard.ZstdCompressor(level=1), AESGCM(os.urandom(32)), os.urandom(32)
    sealed = memoryview(mmap.mmap(-1, CHUNK + _TAG))
    return {
        "zstd, level 1": zstd.compress,
        "BLAKE3": lambda chunk: blake3(chunk, key=key).digest(16),
        "AES-256-GCM": lambda chunk: aes.encrypt_into(bytes(12), chunk, None, sealed),
    }


def _rate(step: str, samples: list[memoryview]) -> float:
    """Return MB/s over all samples, each in a thread of its own."""
    barrier = Barrier(len(samples) + 1)

    def work(sample: memoryview, apply: Step) -> None:
        barrier.wait()
        for at in range(0, len(sample), CHUNK):
            apply(sample[at : at + CHUNK])

    threads = [Thread(target=work, args=(sample, _steps()[step])) for sample in samples]
    for thread in threads:
        thread.start()
    barrier.wait()
    began = time.monotonic()
    for thread in threads:
        thread.join()
    return sum(map(len, samples)) / _MEGABYTE / (time.monotonic() - began)


def main() -> None:
    """Print the facts as JSON."""
    with Path(sys.argv[1]).open("rb") as file:
        samples = [memoryview(file.read(SAMPLE)) for _ in os.sched_getaffinity(0)]
    print(json.dumps({step: (_rate(step, samples[:1]), _rate(step, samples)) for step in _steps()}))


if __name__ == "__main__":
    main()
