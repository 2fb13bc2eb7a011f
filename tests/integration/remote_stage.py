"""A machine on another host, backed up from this one, and the truth about each point.

The scenes of remote_scenes.py and benchmarks/ways.py play on it.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import libvirt

import puller
from puller.errors import PullerError
from puller.events import Event, Notice
from puller.hypervisor.job.frozen import DiskExport
from puller.units import KIB, MIB
from tests.integration.conftest import restored
from tests.lab.hypervisor_host import IMAGES
from tests.lab.luks import PASSPHRASE
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
        self.encrypted: set[str] = set()

    def reconnect_if_lost(self) -> None:
        """Open a new connection if the test's own one was over the line that broke."""
        try:
            self.machine.handle.isActive()
        except libvirt.libvirtError:
            self.reconnect()

    def reconnect(self) -> None:
        """Open a new connection to libvirt, as the old one may be lost."""
        handle = libvirt.open(SSH).lookupByName(NAME)
        self.machine = FarMachine(handle, Path("/nonexistent"), IMAGES)

    def back_up(
        self,
        uri: str = SSH,
        frozen: Callable[[Sequence[DiskExport]], None] = lambda exports: None,
        **options: Any,
    ) -> dict[str, Any]:
        """One run; ``frozen`` is called with the frozen disks. What came of it, as JSON."""

        def changed(exports: Sequence[DiskExport]) -> None:
            self.machine.write("vda", 0xEE, 20 * MIB, 64 * KIB)  # which no point of this moment has
            frozen(exports)

        return self._outcome(uri, changed, **options)

    def _outcome(
        self, uri: str, frozen: Callable[[Sequence[DiskExport]], None], **options: Any
    ) -> dict[str, Any]:
        self.notices = []
        truth = self.truth()
        try:
            point = puller.backup(
                self.repository, NAME, connect=uri, observer=self._observe, on_frozen=frozen, **options
            )
        except PullerError as error:
            told = {"error": type(error).__name__, "message": error.message, "code": error.exit_code}
            self.reconnect_if_lost()
            return {**told, "notices": self.notices, **self._left()}
        return {"exact": self.contents(point) == truth, **self._told(point), **self._left()}

    def back_up_shut_off(self, during: Callable[[], object] = lambda: None) -> dict[str, Any]:
        """One run over the domain that is shut off."""

        def frozen(exports: Sequence[DiskExport]) -> None:
            during()

        return self._outcome(SSH, frozen)

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
        image = f"driver=qcow2,file.filename={self.machine.image(target)}"
        words = ["-U", "-O", "raw", "--image-opts", image]
        if target in self.encrypted:
            words[-1] += ",encrypt.key-secret=s"
            words += ["--object", "secret,id=s,data=" + PASSPHRASE.decode().replace(",", ",,")]
        self.host.run("qemu-img", "convert", *words, str(raw))
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

    def tell_device(self, target: str, command: str) -> None:
        """Run a ``qemu-io`` command on the device."""
        if answer := self._tell_device(target, command):
            raise RuntimeError(answer)

    _qemu_io = tell_device


def scattered(stage: Stage, round_: int) -> None:
    """Change the disks in all ways: data, zeros without data, trimmed blocks, zeros as data."""
    machine = stage.machine
    machine.write("vda", round_ + 1, round_ * MIB, 200 * KIB)
    machine.write("vdb", round_ + 1, 10 * MIB - 64 * KIB, 64 * KIB + 512)
    machine.tell_device("vda", f"write -z {(round_ + 1) * MIB + 4096} 64k")
    machine.tell_device("vda", f"discard {(round_ + 2) * MIB} 128k")
    machine.tell_device("vda", f"write -P 0 {(round_ + 3) * MIB} 64k")
