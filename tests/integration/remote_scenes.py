"""Backups of another host's domains, played between two network namespaces: see tests/lab/two_hosts.py.

``python -m tests.integration.remote_scenes FOLDER SCENE`` prints one JSON document; test_remote.py asserts on
it.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import libvirt

import puller
from puller.errors import PullerError
from puller.events import Event, Notice
from puller.hypervisor.connection import prepare_library
from puller.hypervisor.job.frozen import DiskExport
from puller.units import KIB, MIB
from tests.integration.conftest import restored
from tests.lab.hypervisor_host import IMAGES
from tests.lab.machine import DiskSpec, Machine, domain_xml, image_path
from tests.lab.two_hosts import SSH, HypervisorHost

NAME = "far"
DISKS = (DiskSpec("vda", 24 * MIB), DiskSpec("vdb", 10 * MIB + 512))


class Stage:
    """A machine on the other host, a repository on this one, and the truth about each point."""

    def __init__(self, folder: Path, host: HypervisorHost, connection: Any) -> None:
        self.folder = folder
        self.host = host
        for disk in DISKS:
            path = str(image_path(IMAGES, NAME, disk.target))
            host.run("qemu-img", "create", "-q", "-f", "qcow2", path, str(disk.size))
        handle = connection.defineXML(domain_xml(NAME, IMAGES, DISKS))
        handle.createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED)
        self.machine = FarMachine(handle, Path("/nonexistent"), IMAGES)
        self.repository = puller.create_repository(str(folder / "repository"), password=None)
        self.notices: list[str] = []

    def back_up(
        self, uri: str = SSH, during: Callable[[], None] = lambda: None, **options: Any
    ) -> dict[str, Any]:
        """One run; ``during`` is called while the disks are frozen. What came of it, as JSON."""
        self.notices = []
        truth = self.truth()

        def frozen(exports: Sequence[DiskExport]) -> None:
            self.machine.write("vda", 0xEE, 20 * MIB, 64 * KIB)  # which no point of this moment has
            during()

        try:
            point = puller.backup(
                self.repository, NAME, connect=uri, observer=self._observe, on_frozen=frozen, **options
            )
        except PullerError as error:
            return {
                "error": type(error).__name__,
                "message": error.message,
                "code": error.exit_code,
                **self._left(),
            }
        return {"exact": self.contents(point) == truth, **self._told(point), **self._left()}

    def back_up_there(self) -> dict[str, Any]:
        """One run by a puller on the hypervisor host itself."""
        truth = self.truth()
        command = [sys.executable, "-m", "puller.cli", "-r", str(self.folder / "repository"), "--json"]
        self.host.run(*command, "backup", NAME)
        point = puller.list_points(self.repository)[-1]
        return {"exact": self.contents(point) == truth, **self._told(point), **self._left()}

    def _told(self, point: puller.Point) -> dict[str, Any]:
        return {
            "kind": point.kind,
            "host": point.host,
            "dirty": {disk.disk: disk.dirty_bytes for disk in point.disks},
            "attachments": [attachment.name for attachment in point.attachments],
            "notes": list(point.notes),
            "notices": self.notices,
        }

    def _observe(self, event: Event) -> None:
        if isinstance(event, Notice):
            self.notices.append(event.text)

    def truth(self) -> dict[str, str]:
        """Digests of the disks of the still machine, read by qemu-img on their own host."""
        return {disk.target: self._digest(disk.target) for disk in DISKS}

    def _digest(self, target: str) -> str:
        if self.machine.handle.isActive():
            self.machine.tell_device(target, "flush")
        raw = IMAGES / "truth"
        image = str(self.machine.image(target))
        self.host.run("qemu-img", "convert", "-U", "-f", "qcow2", "-O", "raw", image, str(raw))
        digest = self.host.run("sha256sum", str(raw)).split()[0]
        self.host.run("rm", str(raw))
        return digest

    def contents(self, point: puller.Point) -> dict[str, str]:
        """Digests of the restored disks."""
        output = restored(self.repository, point, self.folder)
        return {
            disk.disk: hashlib.sha256((output / f"{disk.disk}.raw").read_bytes()).hexdigest()
            for disk in point.disks
        }

    def _left(self) -> dict[str, Any]:
        """What there is of ours on the other host beside the one checkpoint of the last point."""
        points = {point.checkpoint for point in puller.list_points(self.repository)}
        names = {item.getName() for item in self.machine.handle.listAllCheckpoints()}
        wanted = ["-name", "puller-*", "-not", "-path", "*/checkpoint/*"]
        files = self.host.run("find", str(IMAGES), "/var/lib/libvirt/qemu", "/run/puller", *wanted).split()
        return {"left": [*files, *sorted(names - points), *sorted(names)[1:]]}


class FarMachine(Machine):
    """A machine of another host, whose log cannot be read here."""

    def write(self, target: str, pattern: int, offset: int, length: int) -> None:
        """See Machine."""
        self.tell_device(target, f"write -P {pattern} {offset} {length}")

    def tell_device(self, target: str, command: str) -> None:
        """Run a ``qemu-io`` command on the device."""
        if answer := self._tell_device(target, command):
            raise RuntimeError(answer)


def scattered(stage: Stage, round_: int) -> None:
    """Change the disks in all ways: data, zeros without data, trimmed blocks, zeros as data."""
    machine = stage.machine
    machine.write("vda", round_ + 1, round_ * MIB, 200 * KIB)
    machine.write("vdb", round_ + 1, 10 * MIB - 64 * KIB, 64 * KIB + 512)
    machine.tell_device("vda", f"write -z {(round_ + 1) * MIB + 4096} 64k")
    machine.tell_device("vda", f"discard {(round_ + 2) * MIB} 128k")
    machine.tell_device("vda", f"write -P 0 {(round_ + 3) * MIB} 64k")


def generations(stage: Stage, **options: Any) -> dict[str, Any]:
    """A full and two incrementals."""
    stage.machine.write("vda", 7, 0, 12 * MIB)
    stage.machine.write("vdb", 9, 2 * MIB, 3 * MIB)
    outcomes = [stage.back_up(**options)]
    for number in range(2):
        scattered(stage, number)
        outcomes.append(stage.back_up(**options))
    return {"outcomes": outcomes}


def alternating(stage: Stage) -> dict[str, Any]:
    """Ten generations of one domain, in turn from here and on its own host."""
    stage.machine.write("vda", 7, 0, 12 * MIB)
    outcomes = []
    for number in range(10):
        scattered(stage, number)
        outcomes.append(stage.back_up_there() if number % 2 else stage.back_up())
    return {"outcomes": outcomes}


SCENES: dict[str, Callable[[Stage], dict[str, Any]]] = {
    "ssh": generations,
    "alternating": alternating,
}


def main() -> int:
    """Play one scene."""
    folder, scene = Path(sys.argv[1]), sys.argv[2]
    os.environ["PULLER_CACHE_DIR"] = str(folder / "cache")
    prepare_library()
    with HypervisorHost(folder) as host, closing(libvirt.open(SSH)) as connection:
        json.dump(SCENES[scene](Stage(folder, host, connection)), sys.stdout, indent=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
