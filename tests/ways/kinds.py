"""The five ways to a machine's disks."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import libvirt

from puller.hypervisor.job.job import PullJob
from puller.hypervisor.job.pushjob import PushJob
from puller.qmp.fleecing import FleecedDisks
from tests.integration.remote_stage import FarMachine
from tests.lab.daemon import URI, PrivateLibvirt, has_job
from tests.lab.hypervisor_host import IMAGES
from tests.lab.machine import domain_xml, image_path
from tests.lab.qemu import BareMachine
from tests.lab.two_hosts import SSH, HypervisorHost
from tests.ways.way import DISKS, Way

NAME = "machine"

_PATIENCE = 60.0
"""Seconds that the other host may take to end the processes of a dead puller."""


class OfLibvirt(Way):
    """A domain; ``connection`` is the test's own to its libvirt."""

    machine: FarMachine
    begin: tuple[type, str] = (PullJob, "_begin")
    end: tuple[type, str] = (PullJob, "end")

    def __init__(self, folder: Path, connection: Any) -> None:
        super().__init__(folder)
        for disk in DISKS:
            path = str(image_path(IMAGES, NAME, disk.target))
            self.run("qemu-img", "create", "-q", "-f", disk.format, path, str(disk.size))
            if disk.format == "raw":
                self.run("truncate", "--size", str(disk.size), path)  # qemu-img rounds it up
        handle = connection.defineXML(domain_xml(NAME, IMAGES, DISKS))
        handle.createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED)
        self.machine = FarMachine(handle, Path("/nonexistent"), IMAGES)

    def run(self, *words: str) -> str:
        done = subprocess.run(words, check=True, capture_output=True, text=True)
        return done.stdout

    def scratch(self) -> Path:
        return IMAGES

    def flush(self) -> None:
        self.machine.flush()

    def checkpoints(self) -> set[str]:
        names = {item.getName() for item in self.machine.handle.listAllCheckpoints()}
        return names.union(*(self.machine.bitmaps(disk.target) for disk in DISKS))

    def remains(self) -> list[str]:
        wanted = ["-name", "puller-*", "-not", "-path", "*/checkpoint/*"]
        files = self.run("find", str(IMAGES), "/var/lib/libvirt/qemu", "/run/puller", *wanted).split()
        return [*files, *(["a job"] if has_job(self.machine.handle) else [])]


class Pulled(OfLibvirt):
    """puller runs on the hypervisor host, and reads QEMU's exports."""

    uri = URI

    @classmethod
    @contextmanager
    def opened(cls, folder: Path) -> Iterator[Way]:
        """The way, and all that it needs."""
        locks = Path("/run/puller")
        locks.mkdir(mode=0o700, exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=0700", "tmpfs", str(locks)], check=True)
        with PrivateLibvirt(folder), closing(libvirt.open(URI)) as connection:
            IMAGES.mkdir(parents=True, exist_ok=True)
            yield cls(folder, connection)


class Pushed(Pulled):
    """puller runs on the hypervisor host, and reads the images that QEMU writes."""

    options = {"mode": "push"}  # noqa: RUF012
    begin = (PushJob, "_begin")
    end = (PushJob, "end")
    deaths = ("push", "read")


class OverSsh(OfLibvirt):
    """puller runs on another host, and reads QEMU's exports through ssh."""

    uri = SSH

    def __init__(self, folder: Path, connection: Any, host: HypervisorHost) -> None:
        self._host = host
        super().__init__(folder, connection)

    def run(self, *words: str) -> str:
        return self._host.run(*words)

    def programs(self) -> list[str]:
        found = ["unknown"]
        deadline = time.monotonic() + _PATIENCE
        while found and time.monotonic() < deadline:
            found = self.run("sh", "-c", "pgrep -l '^(cat|dd|qemu-nbd)$' || true").split()
        return found

    @classmethod
    @contextmanager
    def opened(cls, folder: Path) -> Iterator[Way]:
        """The way, and all that it needs."""
        with HypervisorHost(folder) as host, closing(libvirt.open(SSH)) as connection:
            yield cls(folder, connection, host)


class OverTls(OverSsh):
    """The same over TLS alone."""

    def __init__(self, folder: Path, connection: Any, host: HypervisorHost) -> None:
        super().__init__(folder, connection, host)
        self.uri = host.tls
        self.options = {"nbd_tls": str(host.pki)}


class Bare(Way):
    """A QEMU without libvirt."""

    machine: BareMachine
    begin = (FleecedDisks, "_freeze")
    end = (FleecedDisks, "_end")

    def __init__(self, folder: Path, machine: BareMachine) -> None:
        super().__init__(folder)
        self.machine = machine
        self.uri = machine.uri

    def run(self, *words: str) -> str:
        return subprocess.run(words, check=True, capture_output=True, text=True).stdout

    def scratch(self) -> Path:
        return self.folder

    def flush(self) -> None:
        for disk in DISKS:
            line = f'qemu-io -d /machine/peripheral/{disk.target}/virtio-backend "flush"'
            self.machine.monitor("human-monitor-command", command_line=line)

    def checkpoints(self) -> set[str]:
        return set().union(*self.machine.bitmaps().values())

    def remains(self) -> list[str]:
        return self.machine.remains()

    @classmethod
    @contextmanager
    def opened(cls, folder: Path) -> Iterator[Way]:
        """The way, and all that it needs."""
        with BareMachine(NAME, folder, DISKS) as machine:
            yield cls(folder, machine)


WAYS: dict[str, type[Pulled] | type[OverSsh] | type[Bare]] = {
    "pull": Pulled,
    "push": Pushed,
    "tls": OverTls,
    "ssh": OverSsh,
    "qmp": Bare,
}
