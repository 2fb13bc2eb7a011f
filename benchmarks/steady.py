"""A run that stores random data in an existing repository for some time, to measure the cost of an outage.

python -m benchmarks.steady URL SECONDS
"""

from __future__ import annotations

import random
import sys
import time

import puller
from puller.cancelling import WORK, CancelScope
from puller.pipeline.buffers import Batch, ReadSegment
from puller.repository.writing.run import Tuning
from puller.units import MIB, TIB, Extent, Kind

PASSWORD = "benchmark"


def main() -> None:
    url, seconds = sys.argv[1], float(sys.argv[2])
    # As in a run: a command that begins in an outage gives up soon, so that its user need not wait.
    repository = puller.open_repository(url, password=PASSWORD, scope=CancelScope(WORK))
    noise = random.Random(1)
    end = time.monotonic() + seconds
    with repository.run(Tuning()) as run:
        writer = run.disk(TIB, None)
        offset = 0
        while time.monotonic() < end:
            writer.announce(Extent(offset, MIB, Kind.DATA))
            buffer = run.batches.acquire()
            buffer.view[:MIB] = noise.randbytes(MIB)
            writer.submit(Batch(buffer, (ReadSegment(offset, MIB, 0),)))
            offset += MIB
        run.drain()
        writer.finish()
        run.flush()
    print(f"{offset // MIB} MiB")


if __name__ == "__main__":
    main()
