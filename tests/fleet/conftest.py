"""A repository whose packs take a while, a log of every read of any process, and commands of a fleet."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import puller
from puller.cli.input.worker import _opened
from puller.units import CHUNK
from tests.lab.archive import make_point

PASSWORD = "a password that no task may hold"
PACKS = 48
LIMIT = 20
PATIENCE = 240.0
HOOK = Path(__file__).parent / "hook"


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def children_of(pid: int) -> set[int]:
    """The workers of a local pool, without multiprocessing's own process."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            line = (process / "cmdline").read_bytes()
            parent = int((process / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == pid and b"spawn_main" in line:
                found.add(int(process.name))
    return found


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@dataclass
class Fleet:
    """Runs ``puller fleet check`` in processes of their own."""

    folder: Path
    stack: ExitStack

    @property
    def url(self) -> str:
        return str(self.folder / "repository")

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "PULLER_PASSWORD": PASSWORD,
            "PULLER_TEST_READS": str(self.folder / "reads"),
            "PULLER_TEST_LIMIT": str(LIMIT),
            "PYTHONPATH": f"{HOOK}:{Path(puller.__file__).parents[1]}",
            "DASK_DISTRIBUTED__LOGGING__DISTRIBUTED": "error",
        }

    def start(self, *command: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.stack.callback(end, process)
        return process

    def check(self, on: str, *more: str) -> subprocess.Popen[str]:
        words = ("fleet", "check", "-r", self.url, "--on", on, "--max-age", "30d", "--json", *more)
        return self.start("puller.cli", *words)

    def reads(self) -> list[str]:
        """The ids of the packs in the order in which they were read, by any process."""
        log = self.folder / "reads"
        return [line.split()[1] for line in log.read_text().splitlines()] if log.exists() else []

    def await_limit(self) -> None:
        """Wait until no worker can go on."""
        until(lambda: len(self.reads()) >= LIMIT)

    def go(self) -> None:
        (self.folder / "go").touch()

    def recorded(self) -> Counter[str]:
        """How often each pack is recorded as verified."""
        records = puller.open_repository(self.url, password=PASSWORD).verified
        found = records.read(records.listed())
        return Counter(pack.pack_id.hex() for record in found for pack in record.packs)


def end(process: subprocess.Popen[str]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def document(process: subprocess.Popen[str], code: int) -> dict[str, Any]:
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == code, err
    return dict(json.loads(out))


def make_repository(url: str) -> list[Path]:
    """Return the data packs, the first of which is damaged."""
    repository = puller.create_repository(url, password=PASSWORD)
    for number in range(PACKS):
        make_point(repository, {"vda": number.to_bytes(2, "big") * (CHUNK // 2)}, f"d{number}")
    packs = sorted(path for path in Path(url, "packs").rglob("*") if path.is_file())
    assert len(packs) == PACKS
    content = packs[0].read_bytes()
    packs[0].write_bytes(bytes([content[0] ^ 1]) + content[1:])
    return packs


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands and workers that run here have the password, and no configuration or repository of before."""
    monkeypatch.setenv("PULLER_PASSWORD", PASSWORD)
    monkeypatch.setattr("puller.configuration.file.DEFAULT_PATH", Path("/nonexistent/puller.toml"))
    _opened.clear()


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    make_repository(str(tmp_path / "repository"))
    with ExitStack() as stack:
        yield Fleet(tmp_path, stack)


@pytest.fixture
def address() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{listener.getsockname()[1]}"
