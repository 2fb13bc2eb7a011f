"""A check that reads everything: one command, a pool of two processes, a Dask cluster of two workers.

    nice -n -20 python -m benchmarks.fleet FOLDER [GIB] [ROUNDS]

Makes a repository of GIB (16) of disks in FOLDER, whose content compresses to a quarter, and checks it ROUNDS
(3) times in each way, in turn. With the highest priority the commands get nearly both processors of a machine
that others use too. CPU is user and system time of all processes that took part, the scheduler included.
"""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import puller
from benchmarks.cost import cpu_seconds
from puller.units import GIB, MIB
from tests.lab.archive import make_point
from tests.lab.s3server import free_ports

PASSWORD = "benchmark"
DISK = 256 * MIB


@dataclass(frozen=True, slots=True)
class Taken:
    """``reading`` are the seconds that the command reports for the packs."""

    wall: float
    cpu: float
    reading: float


def main(folder: Path, gib: int = 16, rounds: int = 3) -> None:
    url = str(folder / "repository")
    if not Path(url).exists():
        _make(url, gib)
    print(f"{gib} GiB of disks, {_size(url) / GIB:.1f} GiB of packs, {os.cpu_count()} processors")
    command = ("check", "-r", url, "--read-data")
    with _cluster() as (address, cluster):
        ways = {
            "one command": (command, ()),
            "local:2": (("fleet", *command, "--on", "local:2"), ()),
            "dask, 2 workers": (("fleet", *command, "--on", f"dask://{address}"), cluster),
        }
        found: dict[str, list[Taken]] = {name: [] for name in ways}
        for _ in range(rounds):
            for name, (words, others) in ways.items():
                taken = _run(words, others)
                found[name].append(taken)
                load = os.getloadavg()[0]
                print(
                    f"{name}: {taken.wall:.1f} s, packs {taken.reading:.1f} s, CPU {taken.cpu:.1f} s, "
                    f"{taken.cpu / taken.wall:.2f} processors, load {load:.1f}",
                    flush=True,
                )
    one = found.pop("one command")
    for name, many in found.items():
        whole = statistics.median(item.wall for item in one) / statistics.median(item.wall for item in many)
        packs = statistics.median(item.reading for item in one) / statistics.median(
            item.reading for item in many
        )
        print(f"{name}: {whole:.2f} times as fast, the packs alone {packs:.2f} times")


def _make(url: str, gib: int) -> None:
    repository = puller.create_repository(url, password=PASSWORD)
    chance = np.random.default_rng(1)
    for number in range(gib * GIB // DISK):
        make_point(repository, {"vda": chance.integers(0, 4, DISK, np.uint8).tobytes()}, f"d{number}")


def _size(url: str) -> int:
    return sum(path.stat().st_size for path in Path(url, "packs").rglob("*") if path.is_file())


def _environment() -> dict[str, str]:
    return {**os.environ, "PULLER_PASSWORD": PASSWORD}


def _run(words: Sequence[str], others: Sequence[int]) -> Taken:
    before = os.times()
    served = sum(map(cpu_seconds, others))
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "puller.cli", *words],
        env=_environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    wall = time.monotonic() - began
    after = os.times()
    own = after.children_user + after.children_system - before.children_user - before.children_system
    reading = re.search(r"looked at in ([\d.]+) ?(s|min)", done.stderr)
    if reading is None:
        raise SystemExit(done.stderr)
    return Taken(wall, own + sum(map(cpu_seconds, others)) - served, _seconds(done.stderr))


def _seconds(said: str) -> float:
    """Return the duration at the end of the line about the packs, such as ``1 min 4 s``."""
    words = said.rpartition("looked at in ")[2].split()
    units = {"s": 1.0, "min": 60.0}
    return sum(float(number) * units[unit] for number, unit in zip(words[::2], words[1::2], strict=False))


@contextmanager
def _cluster() -> Iterator[tuple[str, list[int]]]:
    address = f"127.0.0.1:{next(free_ports())}"
    host, port = address.split(":")
    scheduler = (
        "distributed.cli.dask_scheduler",
        "--host",
        host,
        "--port",
        port,
        "--no-dashboard",
        "--no-show",
    )
    worker = (
        "distributed.cli.dask_worker",
        f"tcp://{address}",
        "--nthreads",
        "1",
        "--no-nanny",
        "--no-dashboard",
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", *words],
            env=_environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for words in (scheduler, worker, worker)
    ]
    try:
        yield address, [process.pid for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
