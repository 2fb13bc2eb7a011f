"""What a rollback costs: against a full restore of the same disk, and on a large disk against a small one.

    python -m benchmarks.rollback               # 12 GiB of disk and 30 GiB of room in --folder; as root
    python -m benchmarks.rollback --size 1      # a small run

Times are of the rollback and the restore alone, in one process, the quickest of ``--rounds``.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import puller
from benchmarks.scale import line
from puller.nbd.image import ImageServer
from puller.nbd.writer import Target
from puller.units import CHUNK, GIB, KIB, MIB, TIB
from tests.lab.machine import DiskSpec, EmbeddedLibvirt

OF_RESTORE = 0.05
GROWTH = 1.5
MEMORY = 256
FILLED = 0.5
"""Part of the disk that holds data, which does not compress."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one rollback or restore; ``written`` are bytes that are not zero, ``peak`` those of memory."""

    seconds: float
    written: int
    peak: int


class Bench:
    """A machine with one disk in ``folder``, its repository, and its first point."""

    def __init__(self, embedded: EmbeddedLibvirt, folder: Path, size: int, filled: float) -> None:
        self.uri = embedded.uri
        self.folder = folder
        self.size = size
        self._chance = random.Random(size)
        self.machine = embedded.machine(f"bench-{size}", folder, [DiskSpec("vda", size)])
        self.repository = puller.create_repository(str(folder / "repository"), password=None)
        self.machine.stop()
        self._fill(int(size * filled))
        self.machine.start()
        with _roomy(folder / "scratch") as scratch:
            self.point = puller.backup(
                self.repository, self.machine.name, connect=self.uri, scratch_dir=str(scratch)
            )
        self.machine.stop()

    def _write(self, places: list[int], length: int) -> None:
        image = self.machine.image("vda")
        with ImageServer.recorded(image, "qcow2") as server, Target(server.uri) as target:
            for place in places:
                target.write(place, memoryview(self._chance.randbytes(length)))
            target.flush()

    def _fill(self, length: int) -> None:
        self._write(list(range(0, length, 4 * MIB)), 4 * MIB)

    def scatter(self, count: int) -> None:
        """Change so many chunks anywhere."""
        numbers = self._chance.sample(range(self.size // CHUNK), count)
        self._write([number * CHUNK for number in sorted(numbers)], CHUNK)

    def roll_back(self) -> Cost:
        _forget_peak()
        began = time.monotonic()
        (done,) = puller.rollback(self.repository, self.point.point, connect=self.uri).disks
        return Cost(time.monotonic() - began, done.bytes_written, _peak())

    def restore(self, image_format: puller.ImageFormat) -> Cost:
        output = self.folder / f"restored.{image_format}"
        _forget_peak()
        began = time.monotonic()
        (done,) = puller.restore(
            self.repository, self.point.point, output=str(output), disks=["vda"], format=image_format
        ).disks
        spent = time.monotonic() - began
        output.unlink()
        return Cost(spent, done.bytes_written, _peak())


@contextmanager
def _roomy(path: Path) -> Iterator[Path]:
    """A place of which a backup of 4 TiB believes that its scratch has room there; nobody writes to that."""
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512G,mode=0711", "tmpfs", str(path)], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", str(path)], check=True)


def _forget_peak() -> None:
    """Begin to measure the peak of memory anew: proc(5), ``clear_refs``."""
    Path("/proc/self/clear_refs").write_text("5")


def _peak() -> int:
    (line,) = (text for text in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in text)
    return int(line.split()[1]) * KIB


def quickest(rounds: int, play: Callable[[], Cost]) -> Cost:
    return min((play() for _ in range(rounds)), key=lambda cost: cost.seconds)


def against_restore(embedded: EmbeddedLibvirt, folder: Path, size: int, rounds: int) -> list[Cost]:
    """1 % scattered change, and the restores of the same disk."""
    bench = Bench(embedded, folder, size, FILLED)
    raw = quickest(rounds, lambda: bench.restore("raw"))
    qcow2 = quickest(rounds, lambda: bench.restore("qcow2"))

    def roll() -> Cost:
        bench.scatter(size // CHUNK // 100)
        return bench.roll_back()

    rolled = quickest(rounds, roll)
    name = f"{size / GIB:g} GiB"
    ratio = qcow2.seconds / raw.seconds
    line(
        f"{name}, restore to qcow2 against raw",
        f"{ratio:.2f} ({raw.seconds:.1f} s)",
        "<= 1.15",
        ratio <= 1.15,
    )
    share = rolled.seconds / raw.seconds
    figure = f"{share:.1%} ({rolled.seconds:.2f} s)"
    line(f"{name}, rollback of 1 % against restore, time", figure, "<= 5 %", share <= OF_RESTORE)
    part = rolled.written / max(raw.written, 1)
    line(f"{name}, rollback of 1 % against restore, bytes", f"{part:.1%}", "<= 5 %", part <= OF_RESTORE)
    bench.machine.destroy()
    return [raw, qcow2, rolled]


def against_size(embedded: EmbeddedLibvirt, folder: Path, rounds: int) -> list[Cost]:
    """100 chunks on sparse disks."""
    found = []
    for size in (4 * GIB, 4 * TIB):
        own = folder / str(size)
        own.mkdir()
        bench = Bench(embedded, own, size, 0.0)

        def roll(bench: Bench = bench) -> Cost:
            bench.scatter(100)
            return bench.roll_back()

        found.append(quickest(rounds, roll))
        bench.machine.destroy()
    small, large = (cost.seconds for cost in found)
    figure = f"{small:.2f} -> {large:.2f} s: {large / small:.2f}"
    line("rollback of 100 chunks, 4 GiB -> 4 TiB", figure, f"<= {GROWTH}", large <= GROWTH * small)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", default="/var/tmp")
    parser.add_argument("--size", type=float, default=12, metavar="GIB", help="of the disk that is restored")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="pr-", dir=options.folder))
    os.environ["PULLER_CACHE_DIR"] = str(folder / "cache")
    try:
        with closing(EmbeddedLibvirt(folder / "libvirt")) as embedded:
            costs = against_size(embedded, folder, options.rounds)
            (folder / "whole").mkdir()
            costs += against_restore(embedded, folder / "whole", int(options.size * GIB), options.rounds)
    finally:
        shutil.rmtree(folder)
    peak = max(cost.peak for cost in costs)
    line("peak MiB of any", f"{peak / MIB:.0f}", f"< {MEMORY}", peak < MEMORY * MIB)


if __name__ == "__main__":
    main()
