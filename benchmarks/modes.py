"""What pull and push cost a guest that writes, and its host: the figures of docs/modes.md.

    python benchmarks/modes.py                     # 1 GiB of random data, 100 writes of 64 KiB a second
    python benchmarks/modes.py --store-rate 20     # a store that takes 20 MiB/s

The guest's writes are made through its device from QEMU's monitor, one after the other, by a process of
its own, since one that shares puller's interpreter would measure that. Each line is one backup. "open" is
the time in which QEMU copies before it writes; the percentiles are of the writes in that time.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import puller
from puller.events import Event, Step
from puller.repository import repository as repositories
from puller.store.base import Body
from puller.store.directory.folder import FolderStore
from puller.units import CHUNK, MIB, format_bytes
from tests.lab.machine import DiskSpec, EmbeddedLibvirt, Machine

QEMU_NAMESPACE = "{http://libvirt.org/schemas/domain/qemu/1.0}"
SETTLE = 3.0
"""Seconds of writing before a measurement, so that an incremental has something to do."""


class SlowStore(FolderStore):
    """A folder that takes ``rate`` bytes a second from each upload thread."""

    rate = 0.0

    def put(self, key: str, body: Body) -> None:
        self._wait(body)
        super().put(key, body)

    def put_new(self, key: str, body: Body) -> None:
        self._wait(body)
        super().put_new(key, body)

    def _wait(self, body: Body) -> None:
        if self.rate:
            time.sleep(len(body) / self.rate)


class Monitor:
    """A QMP monitor of its own, beside libvirt's."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(path))
        self._lines = self._socket.makefile("r")
        self._lines.readline()
        self.ask("qmp_capabilities")

    def ask(self, command: str, **arguments: Any) -> Any:
        self._socket.sendall(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
        while "return" not in (answer := json.loads(self._lines.readline())):
            if "error" in answer:
                raise RuntimeError(answer)
        return answer["return"]


def write_for_ever(path: Path, size: int, rate: float) -> None:
    """Write 64 KiB at random places, ``rate`` times a second; tell of each when it began and what it took."""
    monitor, chance = Monitor(path), random.Random(1)
    due = time.monotonic()
    while True:
        offset = chance.randrange(size // CHUNK) * CHUNK
        line = f"write -P {chance.randrange(256)} {offset} {CHUNK}"
        began = time.monotonic()
        device = "/machine/peripheral/ua-vda/virtio-backend"
        monitor.ask("human-monitor-command", **{"command-line": f'qemu-io -d {device} "{line}"'})
        print(began, time.monotonic() - began, flush=True)
        due = max(due + 1 / rate, time.monotonic())
        time.sleep(max(0.0, due - time.monotonic()))


@dataclass
class Writer:
    """The process that writes, and what it has said."""

    process: subprocess.Popen[str]
    latencies: list[tuple[float, float]] = field(default_factory=list)

    def listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            began, took = line.split()
            self.latencies.append((float(began), float(took)))

    def between(self, start: float, end: float) -> list[float]:
        return [took for began, took in self.latencies.copy() if start <= began < end]


@contextmanager
def writing(path: Path, size: int, rate: float) -> Iterator[Writer]:
    command = [sys.executable, "-m", "benchmarks.modes", "--write", str(path), str(size), str(rate)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        writer = Writer(process)
        thread = threading.Thread(target=writer.listen)
        thread.start()
        try:
            yield writer
        finally:
            process.terminate()
            thread.join()


class Watcher:
    """The most that scratch files and images of pushes took, and when the run entered its steps."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ended = threading.Event()
        self.peak = 0
        self.steps: dict[str, float] = {}

    def __call__(self, event: Event) -> None:
        if isinstance(event, Step):
            self.steps[event.name] = time.monotonic()

    def __enter__(self) -> Watcher:
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *unused: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(0.05):
            taken = 0
            for path in (*self._folder.glob("*.scratch"), *self._folder.glob("*.staging")):
                try:
                    taken += path.stat().st_size
                except FileNotFoundError:
                    continue
            self.peak = max(self.peak, taken)


def measure(
    repository: puller.Repository, machine: Machine, uri: str, writer: Writer, mode: puller.Mode
) -> None:
    """Take one point and print a line of what it cost."""
    time.sleep(SETTLE)
    folder = machine.image("vda").parent
    began = time.monotonic()
    with Watcher(folder) as watch:
        point = puller.backup(repository, machine.name, connect=uri, mode=mode, observer=watch)
    ended = time.monotonic()
    # A push job is over when the reading begins, a pull job when the point is committed.
    start, end = watch.steps["begin"], watch.steps["read" if mode == "push" else "end"]
    writes = sorted(writer.between(start, end)) or [0.0]
    show(
        f"{mode} {point.kind}",
        f"{ended - began:.1f} s",
        f"{end - start:.1f} s",
        format_bytes(sum(disk.dirty_bytes for disk in point.disks)),
        format_bytes(watch.peak),
        *percentiles(writes, end - start),
    )


def percentiles(writes: list[float], seconds: float) -> tuple[str, ...]:
    ordered = sorted(writes)
    high = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
    values = (statistics.median(ordered), high, ordered[-1])
    return (f"{len(ordered) / seconds:.0f}", *(f"{value * 1000:.1f} ms" for value in values))


def show(*cells: str) -> None:
    widths = (18, 8, 8, 12, 16, 9, 9, 9, 9)
    print("".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)), flush=True)


def prepared(embedded: EmbeddedLibvirt, folder: Path, size: int) -> tuple[Machine, Path]:
    """A machine whose disk is full of random data, with a monitor for the writer."""
    machine = embedded.machine("modes", folder, [DiskSpec("vda", size)])
    machine.stop()
    raw, monitor = folder / "raw", folder / "monitor"
    with raw.open("wb") as file:
        for _ in range(size // MIB):
            file.write(os.urandom(MIB))
    image = str(machine.image("vda"))
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(raw), image], check=True)
    raw.unlink()
    described = ET.fromstring(machine.handle.XMLDesc(2))
    commands = described.find(f"{QEMU_NAMESPACE}commandline")
    assert commands is not None
    for word in ("-qmp", f"unix:{monitor},server=on,wait=off"):
        ET.SubElement(commands, f"{QEMU_NAMESPACE}arg", value=word)
    machine.handle.connect().defineXML(ET.tostring(described, encoding="unicode"))
    machine.start()
    return machine, monitor


def main() -> None:
    """Measure both modes, full and incremental, on one machine."""
    parser = argparse.ArgumentParser(prog="benchmarks/modes.py")
    parser.add_argument("--size", type=int, default=1024, metavar="MIB", help="data on the disk")
    parser.add_argument("--rate", type=float, default=100.0, help="writes a second")
    parser.add_argument("--store-rate", type=float, default=0.0, metavar="MIB", help="a second and upload")
    parser.add_argument("--write", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.write:
        path, size, rate = arguments.write
        write_for_ever(Path(path), int(size), float(rate))
    SlowStore.rate = arguments.store_rate * MIB
    with tempfile.TemporaryDirectory(prefix="puller-modes-") as name:
        folder = Path(name)
        os.environ["PULLER_CACHE_DIR"] = str(folder / "cache")
        embedded = EmbeddedLibvirt(folder / "l")
        machine, monitor = prepared(embedded, folder, arguments.size * MIB)
        with machine, writing(monitor, arguments.size * MIB, arguments.rate) as writer:
            run(folder, machine, embedded.uri, writer)


def run(folder: Path, machine: Machine, uri: str, writer: Writer) -> None:
    show("backup", "run", "open", "dirty", "scratch/staging", "writes/s", "median", "99 %", "longest")
    time.sleep(2 * SETTLE)
    idle = writer.between(time.monotonic() - SETTLE, time.monotonic())
    show("none", "", "", "", "", *percentiles(idle, SETTLE))
    for mode in ("pull", "push"):
        repository = repositories.create(SlowStore(folder / mode), None)
        measure(repository, machine, uri, writer, mode)
        measure(repository, machine, uri, writer, mode)


if __name__ == "__main__":
    main()
