"""A machine with three disks, a way to it, and the true content of each of its points.

The scenes in scenes.py run on it by every way: see kinds.py.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import puller
from puller.events import Event, Notice
from puller.hypervisor.job.frozen import DiskExport
from puller.units import KIB, MIB
from tests.integration.conftest import dirty_bytes, restored
from tests.integration.test_generations import ODD, scattered
from tests.lab.machine import DiskSpec, Machine
from tests.lab.qemu import BareMachine
from tests.stranger import Stranger

DISKS = (DiskSpec("vda", 16 * MIB), DiskSpec("vdb", ODD), DiskSpec("vdc", MIB + 777, "raw"))
"""No dirty bitmap can be on the last, whose size is no multiple of 512."""


class Way(ABC):
    """One way. ``begin`` and ``end`` are the calls of puller that open and end its job.

    ``deaths`` are the steps at which a run can be killed while data moves.
    """

    machine: Machine | BareMachine
    uri: str
    begin: tuple[type, str]
    end: tuple[type, str]
    options: dict[str, Any] = {}  # noqa: RUF012 - none changes it
    deaths: tuple[str, ...] = ("read",)

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.repository = puller.create_repository(str(folder / "repository"), password=None)
        self.notices: list[str] = []
        self._changes = 0

    def prepare(self) -> None:
        """Put data on the disks."""
        self.machine.write("vda", 1, 0, 6 * MIB)
        self.machine.write("vdb", 2, 0, ODD)
        self.machine.write("vdc", 3, 0, MIB)

    def require_point(self) -> None:
        """Take a first point unless there is one."""
        if not puller.list_points(self.repository):
            self.back_up()

    def change(self) -> None:
        """Overwrite data in every way that a guest can, with something that no point has yet."""
        self._changes += 1
        number, machine = self._changes, self.machine
        for target, size in (("vda", 16 * MIB), ("vdb", ODD)):
            machine.write(target, number, 0, 2 * MIB)
            scattered(machine, target, size)
        machine.write("vda", 200, 8 * MIB, number * 512)
        machine.write("vda", 100 + number, 9 * MIB + number % 4 * MIB, MIB)
        machine.discard("vda", 2 * MIB + number % 4 * MIB, MIB)
        machine.write("vdc", number, MIB // 2, MIB // 4)

    def back_up(self, observer: Callable[[Event], None] | None = None) -> puller.Point:
        """One run. The machine is written to while its disks are frozen."""
        self.notices = []
        self.dirty: dict[str, int] = {}

        def frozen(exports: Sequence[DiskExport]) -> None:
            for export in exports:
                if export.changed is not None:
                    self.dirty[export.target] = dirty_bytes(export.uri, export.changed)
            self.machine.write("vda", 0xEE, 15 * MIB, 64 * KIB)

        return puller.backup(
            self.repository,
            self.machine.name,
            connect=self.uri,
            observer=observer or self._observe,
            on_frozen=frozen,
            **self.options,
        )

    def take(self) -> dict[str, Any]:
        """One run, and its result."""
        truth = self.truth()
        point = self.back_up()
        return {
            "kinds": [disk.kind for disk in point.disks],
            "reasons": [disk.reason for disk in point.disks],
            "dirty": {disk.disk: disk.dirty_bytes for disk in point.disks if disk.kind == "incremental"},
            "seen": self.dirty,
            "restored": self.digests_restored(point) == truth,
            "read by a stranger": self.digests_of_a_stranger(point) == truth,
            "left": self.left(),
            "checkpoints": sorted(self.checkpoints() - {point.checkpoint or ""}),
            "notices": self.notices,
        }

    def _observe(self, event: Event) -> None:
        if isinstance(event, Notice):
            self.notices.append(event.text)

    def killed(self, step: str) -> int:
        """A run by a process that is killed at a step, while data moves; its exit code."""
        arguments = [self.uri, self.machine.name, str(self.folder / "repository"), step]
        command = [sys.executable, "-m", "tests.ways.killed_run", *arguments, json.dumps(self.options)]
        return subprocess.run(command, check=False).returncode

    def truth(self) -> dict[str, str]:
        """Digests of the disks of the still machine, read by qemu-img where they are."""
        self.flush()
        raw = self.scratch() / "truth"
        found = {}
        for disk in DISKS:
            words = ["-U", "-f", disk.format, "-O", "raw", str(self.machine.image(disk.target)), str(raw)]
            self.run("qemu-img", "convert", *words)
            found[disk.target] = self.run("sha256sum", str(raw)).split()[0]
            self.run("rm", str(raw))
        return found

    def digests_restored(self, point: puller.Point) -> dict[str, str]:
        """Digests of what puller restores."""
        output = restored(self.repository, point, self.folder / "restored")
        try:
            return {disk.target: _digest(output / f"{disk.target}.raw") for disk in DISKS}
        finally:
            shutil.rmtree(output)

    def digests_of_a_stranger(self, point: puller.Point) -> dict[str, str]:
        """Digests of what an independent restorer reads, which shares no code with puller."""
        stranger, found = Stranger(self.folder / "repository", None), {}
        for disk in DISKS:
            stranger.restore(point.uuid, point.point, disk.target, self.folder / "strange")
            found[disk.target] = _digest(self.folder / "strange")
        return found

    def left(self) -> list[str]:
        """What puller has left on the host: jobs, files, and checkpoints and bitmaps without a point."""
        points = {point.checkpoint for point in puller.list_points(self.repository)}
        return [*self.remains(), *sorted(self.checkpoints() - points)]

    def programs(self) -> list[str]:
        """Programs of dead runs on another host, after the time that they may take to end."""
        return []

    @abstractmethod
    def run(self, *words: str) -> str:
        """Run a program where the machine is. Return what it prints."""

    @abstractmethod
    def scratch(self) -> Path:
        """A directory there."""

    @abstractmethod
    def flush(self) -> None:
        """Let QEMU write to the images what it keeps in memory."""

    @abstractmethod
    def checkpoints(self) -> set[str]:
        """Names of all checkpoints and dirty bitmaps that libvirt and QEMU know."""

    @abstractmethod
    def remains(self) -> list[str]:
        """A job and files."""


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
