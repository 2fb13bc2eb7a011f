"""What a reader beside a backup feels on a disk that is the bottleneck: ``python -m benchmarks.busydisk``.

qemu-storage-daemon serves an image no faster than ``--rate``, one request after the other, as a disk would. A
guest reads 4 KiB at random places every 10 ms through one connection, while a backup reads all of the image
through another. Nothing is compressed, so the cores have little to do and the disk decides.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from benchmarks.results import percentile
from puller.nbd.connection import Connection
from puller.nbd.export import Export
from puller.nbd.reader import read
from puller.pipeline.buffers import BufferPool
from puller.pipeline.readgate import GentleGate, OpenGate, ReadGate
from puller.units import KIB, MIB

WINDOW = 4 * MIB
START_SECONDS = 60.0


@contextmanager
def disk(folder: Path, size: int, rate: int) -> Iterator[str]:
    """The URI of an image of random bytes that is served at ``rate`` bytes per second."""
    image, place = folder / "disk.raw", folder / "nbd"
    image.write_bytes(os.urandom(MIB) * (size // MIB))
    command = [
        "qemu-storage-daemon",
        *("--blockdev", f"driver=file,filename={image},node-name=file"),
        *("--object", f"throttle-group,id=slow,x-bps-total={rate}"),
        *("--blockdev", "driver=throttle,node-name=disk,throttle-group=slow,file=file"),
        *("--nbd-server", f"addr.type=unix,addr.path={place},max-connections=8"),
        *("--export", "type=nbd,id=disk,node-name=disk,name=disk"),
    ]
    with subprocess.Popen(command) as daemon:
        try:
            _wait_for(place)
            yield f"nbd+unix:///disk?socket={place}"
        finally:
            daemon.terminate()


def _wait_for(place: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not place.exists():
        if time.monotonic() > deadline:
            raise RuntimeError("qemu-storage-daemon does not start")
        time.sleep(0.02)


class Guest:
    """Reads until it is stopped; ``latencies`` in seconds."""

    def __init__(self, uri: str) -> None:
        self.latencies: list[float] = []
        self._connection = Connection(uri)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._read)

    def _read(self) -> None:
        size = self._connection.size
        while not self._end.wait(0.01):
            began = time.monotonic()
            self._connection.read(4 * KIB, random.randrange(size // (4 * KIB)) * 4 * KIB)
            self.latencies.append(time.monotonic() - began)

    def __enter__(self) -> Guest:
        self._thread.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self._end.set()
        self._thread.join()
        self._connection.close()


def backup(uri: str, gate: ReadGate) -> None:
    """Read all of the disk."""
    pool = BufferPool(8, 2 * MIB)
    with Export(uri) as export:
        for batch in read(export, export.contents(), pool, gate=gate, planned=lambda extent: None):
            batch.release()


def measure(uri: str, name: str, gate: ReadGate | None) -> None:
    """Print a row."""
    began = time.monotonic()
    with Guest(uri) as guest:
        if gate is None:
            time.sleep(5)
        else:
            backup(uri, gate)
    seconds, found = time.monotonic() - began, guest.latencies
    middle, slow = median(found) * 1e3, percentile(found, 99) * 1e3
    print(f"{name:24} {seconds:6.1f} s  {len(found):5} reads  median {middle:6.2f}  99th {slow:6.1f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", type=int, default=1024, metavar="MIB")
    parser.add_argument("--rate", type=int, default=100, metavar="MIB", help="of the disk, per second")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        disk(Path(folder), options.size * MIB, options.rate * MIB) as uri,
    ):
        for _ in range(options.rounds):
            measure(uri, "no backup", None)
            measure(uri, "puller", GentleGate(WINDOW))
            measure(uri, "puller --pace full", OpenGate(WINDOW))
            measure(uri, "one read at a time", OpenGate(0))


if __name__ == "__main__":
    main()
