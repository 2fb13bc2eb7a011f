"""The first copy of a full between repositories of one master secret, beside ``rclone copy`` of its packs.

    python -m benchmarks.copy                      # 1 GiB of data, three rounds
    python -m benchmarks.copy --size 4096 --rounds 5

Both repositories are buckets of one SeaweedFS on loopback. rclone does not know that both are on one
server, so the bytes pass through it, too. In turn: rclone, puller with a full key (each chunk is verified),
puller with a backup-only key (no chunk can be opened). Half of each chunk is noise, so that it compresses
to a half. Times are those of whole processes; CPU is user and system time; memory is the largest resident
set.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest

import puller
from benchmarks.cost import Meter
from puller.units import CHUNK, MIB
from tests.lab.archive import make_point
from tests.lab.seaweed import Seaweed

TARGETS = ("rclone", "full key", "backup-only key")
KEY, HOST_KEY = bytes(range(64)), bytes(range(64, 128))


@dataclass(frozen=True)
class Taken:
    """What one process took: seconds, CPU seconds, MiB."""

    wall: float
    cpu: float
    peak: float


def main() -> None:
    """Run and print a line a round, then the medians."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", type=int, default=1024, help="MiB of data")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        Seaweed(Path(folder)) as server,
        pytest.MonkeyPatch.context() as patch,
    ):
        server.use(patch)
        patch.setenv("PULLER_CACHE_DIR", str(Path(folder, "cache")))
        rounds = _rounds(server, Path(folder), options.size * MIB, options.rounds)
    print(f"load {os.getloadavg()}")
    for name in TARGETS:
        found = [taken[name] for taken in rounds]
        wall = statistics.median(item.wall for item in found)
        cpu = statistics.median(item.cpu for item in found)
        print(f"{name:16} {wall:7.1f} s {cpu:7.1f} CPU s {max(item.peak for item in found):6.0f} MiB at most")


def _rounds(server: Seaweed, folder: Path, size: int, count: int) -> list[dict[str, Taken]]:
    server.make_bucket("here")
    here = puller.create_repository("s3://here", key_file=KEY)
    puller.add_key(here, key_file=KEY, new_key_file=HOST_KEY, role="backup-only")
    make_point(here, {"vda": _data(size)})
    for name, content in (("full", KEY), ("host", HOST_KEY)):
        (folder / name).write_bytes(content)
    (folder / "rclone.conf").write_text("".join(_remote(server, name) for name in ("here", "there")))
    rounds = []
    for number in range(count):
        taken = {
            name: _measure(server, folder, name, f"there-{number}-{place}")
            for place, name in enumerate(TARGETS)
        }
        print(*(f"{name} {item.wall:.1f} s" for name, item in taken.items()), sep=", ", flush=True)
        rounds.append(taken)
    return rounds


def _data(size: int) -> bytes:
    noise = random.Random(1).randbytes
    return b"".join(noise(CHUNK // 2) + bytes(CHUNK // 2) for _ in range(size // CHUNK))


def _remote(server: Seaweed, name: str) -> str:
    keys = f"access_key_id = {server.access_key}\nsecret_access_key = {server.secret_key}\n"
    return f"[{name}]\ntype = s3\nprovider = Other\nendpoint = {server.endpoint}\n{keys}"


def _measure(server: Seaweed, folder: Path, name: str, bucket: str) -> Taken:
    server.make_bucket(bucket)
    if name == "rclone":
        words = ["rclone", "--config", str(folder / "rclone.conf"), "copy", "--disable", "Copy"]
        return _run(folder, [*words, "here:here/packs", f"there:{bucket}/packs"])
    there = puller.create_repository(
        f"s3://{bucket}", key_file=KEY, like=puller.open_repository("s3://here", key_file=KEY)
    )
    puller.add_key(there, key_file=KEY, new_key_file=HOST_KEY, role="backup-only")
    key = str(folder / ("full" if name == "full key" else "host"))
    words = [sys.executable, "-m", "puller.cli", "--config", "/dev/null", "-q", "--key-file", key]
    return _run(folder, [*words, "-r", "s3://here", "copy", "--to", f"s3://{bucket}", "--to-key-file", key])


def _run(folder: Path, words: list[str]) -> Taken:
    cost = Meter(folder, os.environ).run(words)
    return Taken(cost.wall, cost.cpu, cost.peak / MIB)


if __name__ == "__main__":
    main()
