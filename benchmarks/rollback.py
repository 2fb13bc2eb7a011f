"""What a rollback costs: against a full restore of the same disk, and on a large disk against a small one.

    python -m benchmarks.rollback               # 12 GiB of disk and 30 GiB of room in --folder; as root
    python -m benchmarks.rollback --size 1      # a small run

Times and CPU-seconds are of the rollback and the restore alone, in one process. What is compared takes turns,
and the median of ``--rounds`` counts. CPU-seconds include those of ``qemu-nbd``.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import puller
from benchmarks.scale import line
from puller.cli.libraries import restrain
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
    cpu: float
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

    def _scatter(self, count: int) -> None:
        numbers = self._chance.sample(range(self.size // CHUNK), count)
        self._write([number * CHUNK for number in sorted(numbers)], CHUNK)

    def _forget_changes(self) -> None:
        """Empty the bitmap, which knows of all earlier rounds: the disk is that of the point."""
        command = [
            "qemu-img",
            "bitmap",
            "--clear",
            str(self.machine.image("vda")),
            str(self.point.checkpoint),
        ]
        subprocess.run(command, check=True)

    def roll_back(self, count: int) -> Cost:
        """Change so many chunks anywhere, and measure the way back."""
        self._forget_changes()
        self._scatter(count)
        _forget_peak()
        began, before = time.monotonic(), _cpu()
        (done,) = puller.rollback(self.repository, self.point.point, connect=self.uri).disks
        return Cost(time.monotonic() - began, _cpu() - before, done.bytes_written, _peak())

    def restore(self, image_format: puller.ImageFormat) -> Cost:
        output = self.folder / f"restored.{image_format}"
        _forget_peak()
        began, before = time.monotonic(), _cpu()
        (done,) = puller.restore(
            self.repository, self.point.point, output=str(output), disks=["vda"], format=image_format
        ).disks
        spent, cpu = time.monotonic() - began, _cpu() - before
        output.unlink()
        return Cost(spent, cpu, done.bytes_written, _peak())

    def peak_of_command(self, image_format: str) -> int:
        """Bytes of memory that ``puller restore`` takes: without what a backup has left in this process."""
        output = self.folder / f"restored.{image_format}"
        command = [sys.executable, "-m", "puller.cli", "restore", "-r", str(self.folder / "repository")]
        command += [self.point.point, "--disk", "vda", "-o", str(output), "--format", image_format]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            raise RuntimeError(f"{' '.join(command)} failed")
        output.unlink()
        return usage.ru_maxrss * KIB


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
    """Begin to measure the peak of memory anew (proc(5), ``clear_refs``), without what earlier work left."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")


def _peak() -> int:
    (line,) = (text for text in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in text)
    return int(line.split()[1]) * KIB


def _cpu() -> float:
    """CPU-seconds of this process and of those it has ended."""
    return sum(os.times()[:4])


def in_turns(rounds: int, *plays: Callable[[], Cost]) -> list[Cost]:
    """The median of each play, by each figure, after a round that counts for memory alone."""
    first = [play() for play in plays]
    found = [[play() for play in plays] for _ in range(rounds)]
    return [_median(list(costs), once) for costs, once in zip(zip(*found, strict=True), first, strict=True)]


def _median(costs: list[Cost], once: Cost) -> Cost:
    return Cost(
        statistics.median(cost.seconds for cost in costs),
        statistics.median(cost.cpu for cost in costs),
        max(cost.written for cost in costs),
        max(cost.peak for cost in [once, *costs]),
    )


def against_restore(embedded: EmbeddedLibvirt, folder: Path, size: int, rounds: int) -> list[Cost]:
    """1 % scattered change, and the restores of the same disk."""
    bench = Bench(embedded, folder, size, FILLED)
    raw, qcow2, rolled = in_turns(
        rounds,
        lambda: bench.restore("raw"),
        lambda: bench.restore("qcow2"),
        lambda: bench.roll_back(size // CHUNK // 100),
    )
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
    share = rolled.cpu / raw.cpu
    figure = f"{share:.1%} ({rolled.cpu:.2f} s)"
    line(f"{name}, rollback of 1 % against restore, CPU", figure, "<= 5 %", share <= OF_RESTORE)
    part = rolled.written / max(raw.written, 1)
    line(f"{name}, rollback of 1 % against restore, bytes", f"{part:.1%}", "<= 5 %", part <= OF_RESTORE)
    restored = [
        replace(cost, peak=bench.peak_of_command(kind)) for cost, kind in ((raw, "raw"), (qcow2, "qcow2"))
    ]
    bench.machine.destroy()
    return [*restored, rolled]


def against_size(embedded: EmbeddedLibvirt, folder: Path, rounds: int) -> list[Cost]:
    """100 chunks on sparse disks."""
    benches = []
    for size in (4 * GIB, 4 * TIB):
        own = folder / str(size)
        own.mkdir()
        benches.append(Bench(embedded, own, size, 0.0))
    small, large = costs = in_turns(rounds, *(partial(bench.roll_back, 100) for bench in benches))
    for bench in benches:
        bench.machine.destroy()
    for what, one, other in (("time", small.seconds, large.seconds), ("CPU", small.cpu, large.cpu)):
        figure = f"{one:.2f} -> {other:.2f} s: {other / one:.2f}"
        line(f"rollback of 100 chunks, 4 GiB -> 4 TiB, {what}", figure, f"<= {GROWTH}", other <= GROWTH * one)
    return costs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", default="/var/tmp")
    parser.add_argument("--size", type=float, default=12, metavar="GIB", help="of the disk that is restored")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    restrain()  # as every command does
    folder = Path(tempfile.mkdtemp(prefix="pr-", dir=options.folder))
    os.environ["PULLER_CACHE_DIR"] = str(folder / "cache")
    try:
        with closing(EmbeddedLibvirt(folder / "libvirt")) as embedded:
            costs = against_size(embedded, folder, options.rounds)
            (folder / "whole").mkdir()
            costs += against_restore(embedded, folder / "whole", int(options.size * GIB), options.rounds)
    finally:
        shutil.rmtree(folder)
    print(f"load of this host at the end: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    peak = max(cost.peak for cost in costs)
    line("peak MiB of any", f"{peak / MIB:.0f}", f"< {MEMORY}", peak < MEMORY * MIB)


if __name__ == "__main__":
    main()
