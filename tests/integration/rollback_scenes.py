"""Rollbacks that are killed at random moments, on a libvirtd that is its own process.

``python -m tests.integration.rollback_scenes FOLDER CASES SEED`` prints a JSON list with the outcome of each;
``in_place`` runs a few, ``scripts/soak --rollbacks`` many.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import libvirt

import puller
from puller.hypervisor.connection import prepare_library
from puller.hypervisor.storage.rollback_mark import find_mark
from puller.units import CHUNK, KIB, MIB
from tests.integration.conftest import Truth, restored
from tests.lab.daemon import URI, PrivateLibvirt
from tests.lab.machine import DiskSpec, Machine, domain_xml, image_path, make_image

SIZE = 96 * MIB

LATEST = 0.6
"""Seconds after its mark appeared at which a rollback is killed at the latest."""


class Case:
    """A machine with two points, changed since; rolled back, killed, and completed."""

    def __init__(self, folder: Path, connection: libvirt.virConnect, seed: int) -> None:
        self.folder = folder
        self.chance = random.Random(seed)
        make_image(image_path(folder, "vm", "vda"), DiskSpec("vda", SIZE))
        handle = connection.defineXML(domain_xml("vm", folder, [DiskSpec("vda", SIZE)]))
        # Where a machine looks for QEMU's process id and log.
        (folder / "run").symlink_to("/run/libvirt")
        (folder / "log").symlink_to("/var/log/libvirt")
        self.machine = Machine(handle, folder, folder)
        self.truth = Truth(folder)
        self.repository = puller.create_repository(str(folder / "repository"))

    def play(self) -> dict[str, Any]:
        self.machine.start()
        try:
            points = [self._point(), self._point()]
            self._scribble()
            self.machine.stop()
            wanted = self.chance.choice(points)
            outcome: dict[str, Any] = {
                "killed": self._kill(wanted),
                "mark": find_mark(self._image) is not None,
            }
            outcome["again"] = self._complete(wanted)
            outcome["exact"] = self._is_exact(wanted)
            return outcome | self._next()
        finally:
            self.machine.destroy()

    @property
    def _image(self) -> Path:
        return self.machine.image("vda")

    def _point(self) -> puller.Point:
        self._scribble()
        return puller.backup(self.repository, "vm", connect=URI, on_frozen=self.truth)

    def _scribble(self) -> None:
        noise = self.folder / "noise"
        noise.write_bytes(self.chance.randbytes(8 * MIB))
        self.machine.copy_in("vda", noise, self.chance.randrange(SIZE // CHUNK - 200) * CHUNK, 8 * MIB)
        for _ in range(20):
            place = self.chance.randrange(SIZE // CHUNK - 2) * CHUNK
            kinds = (self.machine.write_zeroes, self.machine.unmap_zeroes, self.machine.discard)
            if self.chance.random() < 0.6:
                self.machine.write("vda", self.chance.randrange(1, 200), place, 64 * KIB)
            else:
                self.chance.choice(kinds)("vda", place, 128 * KIB)

    def _run(self, point: puller.Point) -> subprocess.Popen[bytes]:
        command = [
            "-q",
            "-r",
            str(self.folder / "repository"),
            "-c",
            URI,
            "restore",
            point.point,
            "--in-place",
        ]
        return subprocess.Popen([sys.executable, "-m", "puller.cli", *command], stdout=sys.stderr)

    def _kill(self, point: puller.Point) -> bool:
        """Kill a rollback some time after it has begun to write; whether it was still alive."""
        running = self._run(point)
        while running.poll() is None and find_mark(self._image) is None:
            time.sleep(0.001)
        time.sleep(self.chance.uniform(0, LATEST) ** 2)
        running.send_signal(signal.SIGKILL)
        return running.wait() == -signal.SIGKILL

    def _complete(self, point: puller.Point) -> int:
        """Run the command again, until the server that the kill has left behind has closed the image."""
        deadline = time.monotonic() + 30
        while (code := self._run(point).wait()) and time.monotonic() < deadline:
            time.sleep(0.1)
        return code

    def _is_exact(self, point: puller.Point) -> bool:
        plain = restored(self.repository, point, self.folder) / "vda.raw"
        command = ["qemu-img", "compare", "-q", "-f", "raw", "-F", "qcow2", str(plain), str(self._image)]
        return subprocess.run(command, check=False).returncode == 0

    def _next(self) -> dict[str, Any]:
        self.machine.start()
        self.machine.write("vda", 77, MIB, 64 * KIB)
        point = puller.backup(self.repository, "vm", connect=URI, on_frozen=self.truth)
        folder = restored(self.repository, point, self.folder)
        return {"kind": point.kind, "next exact": self.truth.equals(folder, "vda", 3)}


def main() -> int:
    folder, cases, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    os.environ["PULLER_CACHE_DIR"] = str(folder / "cache")
    prepare_library()
    with PrivateLibvirt(folder), closing(libvirt.open(URI)) as connection:
        outcomes = []
        for number in range(cases):
            with tempfile.TemporaryDirectory(dir=folder) as own:
                outcomes.append(Case(Path(own), connection, seed + number).play())
        json.dump(outcomes, sys.stdout, indent=1)
    return 0 if all(map(_is_good, outcomes)) else 1


def _is_good(outcome: dict[str, Any]) -> bool:
    wanted = {"again": 0, "exact": True, "kind": "incremental", "next exact": True}
    return outcome.items() >= wanted.items()


if __name__ == "__main__":
    sys.exit(main())
