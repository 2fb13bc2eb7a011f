"""A repository with one point of two disks, and clients of its exports."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import puller
from puller.nbd.connection import Connection
from puller.repository.points import DiskRecord, Point, Ref, new_id
from puller.units import CHUNK, MIB
from tests.lab.feed import store_disk

UUID = "1f80ae13-49df-4e30-9b5a-d185a32acbbc"
SIZE = 130 * MIB + 512 * 3
NOISE = random.Random(7).randbytes
PASSWORD = "correct horse"
SMALL = NOISE(3 * CHUNK)


def disk_content() -> bytes:
    """Data that begins and ends at odd places, holes, and a disk that does not end with a chunk."""
    content = bytearray(SIZE)
    content[MIB : 4 * MIB] = NOISE(3 * MIB)
    content[20 * MIB + 5 : 60 * MIB] = NOISE(40 * MIB - 5)
    content[66 * MIB : 66 * MIB + 5] = b"hello"
    content[-512:] = NOISE(512)
    return bytes(content)


CONTENT = disk_content()


@dataclass(frozen=True)
class Archive:
    """A repository with one point of two disks."""

    url: str
    repository: puller.Repository
    point: Point

    def serve(self, *disks: str, **options: Any) -> puller.Server:
        return puller.serve(self.repository, "web1@latest", disks=disks, **options)


def make_archive(url: str) -> Archive:
    repository = puller.create_repository(url, password=PASSWORD)
    now = datetime.now(UTC)
    records = tuple(
        DiskRecord(target, "full", len(content), Ref.to(store_disk(repository, content)[0]))
        for target, content in (("vda", CONTENT), ("vdb", SMALL))
    )
    point = Point(new_id(now), "web1", UUID, now, "pull", "full", records)
    repository.points.commit(point)
    return Archive(url, repository, point)


def read(uri: str, offset: int, length: int) -> bytes:
    with closing(Connection(uri)) as connection:
        return connection.read(length, offset)


def until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    """Wait for a condition, at most ``seconds``."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it does not come"
        time.sleep(0.01)


def is_alive(pid: int) -> bool:
    """A zombie is not: its parent may be gone, and nobody here collects it."""
    with suppress(FileNotFoundError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def command_line(archive: Archive, *options: str) -> list[str]:
    return [sys.executable, "-m", "puller.cli", "-r", archive.url, "serve", "web1@latest", *options]


def environment() -> dict[str, str]:
    return {**os.environ, "PULLER_PASSWORD": PASSWORD}


def run_puller(archive: Archive, *options: str) -> subprocess.CompletedProcess[str]:
    words = command_line(archive, *options)
    return subprocess.run(words, env=environment(), capture_output=True, text=True, timeout=120, check=False)


def begin(archive: Archive, *options: str) -> tuple[subprocess.Popen[str], dict[str, Any]]:
    """A server of its own, and its document."""
    words = command_line(archive, "--json", *options)
    pipe = subprocess.PIPE
    process = subprocess.Popen(words, env=environment(), stdout=pipe, stderr=pipe, text=True)
    assert process.stdout is not None
    return process, json.loads(process.stdout.readline())


def children(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += [int(word) for word in (task / "children").read_text().split()]
    return found
