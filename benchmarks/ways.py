"""What each way to another host's disks costs: the figures of docs/measurements.md.

    python -m benchmarks.ways         # 1 GiB of random data, three reads and three empty runs by each way

Both hosts are on this computer, in a network namespace each (tests/lab/two_hosts.py), so they share its
processors. ``nbdcopy`` reads the disk while a backup holds it frozen. Needs root.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import libvirt

import puller
from puller.hypervisor.connection import prepare_library
from puller.hypervisor.job.frozen import DiskExport
from tests.integration.remote_stage import NAME, Stage
from tests.lab.hypervisor_host import IMAGES
from tests.lab.two_hosts import SSH, HypervisorHost, in_own_network

READS = 3
_INSIDE = "--inside"


def fill(stage: Stage) -> None:
    """Put random data on the disk."""
    machine = stage.machine
    machine.handle.destroy()
    image, raw = machine.image("vda"), IMAGES / "random"
    stage.host.run("sh", "-c", f"head -c 1G /dev/urandom >{raw}")
    stage.host.run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(raw), str(image))
    stage.host.run("rm", str(raw))
    machine.handle.createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED)


def rates(read: Callable[[], object]) -> list[int]:
    """Read some times, in MiB/s."""
    found = []
    for _ in range(READS):
        began = time.monotonic()
        read()
        found.append(round(1024 / (time.monotonic() - began)))
    return found


def measure(stage: Stage) -> dict[str, Any]:
    """Read by each way."""
    fill(stage)
    found: dict[str, Any] = {"load": os.getloadavg()[0]}

    def here(way: str) -> Callable[[Sequence[DiskExport]], None]:
        def read(exports: Sequence[DiskExport]) -> None:
            words = ["nbdcopy", exports[0].uri, "null:"]
            found[way] = rates(lambda: subprocess.run(words, check=True))
            if way == "ssh":
                sockets = "ls /var/lib/libvirt/qemu/domain-*/puller-*.sock"
                uri = f"nbd+unix:///vda?socket={stage.host.run('sh', '-c', sockets).strip()}"
                found["on the host itself"] = rates(lambda: stage.host.run("nbdcopy", uri, "null:"))

        return read

    ways: tuple[tuple[str, dict[str, Any]], ...] = (
        ("ssh", {}),
        ("TLS", {"nbd_tls": str(stage.host.pki)}),
        ("clear text", {"insecure_nbd": True}),
    )
    for way, options in ways:
        puller.backup(
            stage.repository, NAME, connect=SSH, disks=["vda"], full=True, on_frozen=here(way), **options
        )
    found["seconds of a run without changes"] = runs(stage)
    found["load at the end"] = os.getloadavg()[0]
    return found


def runs(stage: Stage) -> dict[str, list[float]]:
    """Take points of a disk that nothing has changed, by each way in turn; seconds."""
    tls = {"nbd_tls": str(stage.host.pki)}
    command = [sys.executable, "-m", "puller.cli", "-r", str(stage.folder / "repository"), "--json"]
    ways: dict[str, Callable[[], object]] = {
        "ssh": lambda: empty_run(stage, SSH, {}),
        "ssh, disks over TLS": lambda: empty_run(stage, SSH, tls),
        "TLS alone": lambda: empty_run(stage, stage.host.tls, tls),
        "on the host itself": lambda: stage.host.run(*command, "backup", NAME, "--disk", "vda"),
    }
    found: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(READS):
        for way, run in ways.items():
            found[way].append(seconds(run))
    return found


def empty_run(stage: Stage, uri: str, options: dict[str, Any]) -> None:
    puller.backup(stage.repository, NAME, connect=uri, disks=["vda"], **options)


def seconds(work: Callable[[], object]) -> float:
    began = time.monotonic()
    work()
    return round(time.monotonic() - began, 1)


def main() -> int:
    """Measure, as the backup host in a network of its own."""
    if _INSIDE not in sys.argv:
        with tempfile.TemporaryDirectory(prefix="puller-ways-") as folder:
            command = in_own_network("benchmarks.ways", [_INSIDE, folder])
            return subprocess.run(command, check=False).returncode
    folder_ = Path(sys.argv[2])
    os.environ["PULLER_CACHE_DIR"] = str(folder_ / "cache")
    prepare_library()
    with HypervisorHost(folder_) as host, closing(libvirt.open(SSH)) as connection:
        print(json.dumps(measure(Stage(folder_, host, connection)), indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
