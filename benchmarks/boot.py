"""How long it takes until a guest runs from a bucket, against a start of the same guest from a local image.

    python -m benchmarks.boot               # as root; a private libvirtd and a SeaweedFS
    python -m benchmarks.boot --delay 40    # with a wire that is 40 ms long

The clock runs from the start of the command (``puller boot``, ``virsh start``) until the guest has mounted
its file system, which its console says. Each figure is the median of ``--rounds``.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import libvirt

import puller
from benchmarks.delay import wire
from benchmarks.scale import line
from puller.hypervisor.connection import prepare_library
from puller.units import KIB, MIB
from tests.lab.booted import Terminal, processes
from tests.lab.daemon import URI, PrivateLibvirt, in_own_namespace
from tests.lab.guest import READY, running_guest
from tests.lab.seaweed import Seaweed

DOMAIN, MACHINE = "local", "local-boot"
RATIO, MORE = 1.5, 1.0
MEMORY = 256
PATIENCE = 120.0


class Bench:
    """A guest with a local image, and a point of it in a bucket."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.connection = libvirt.open(URI)

    def local(self) -> float:
        """Seconds of a start from the local image."""
        return self._timed(["virsh", "-q", "-c", URI, "start", DOMAIN], DOMAIN)

    def booted(self) -> float:
        """Seconds of a boot from the bucket."""
        command = [sys.executable, "-m", "puller.cli", "boot", f"{DOMAIN}@latest", "--json"]
        seconds = self._timed(command, MACHINE)
        self.memory = max(map(resident, self._servers()))
        puller.discard_booted(MACHINE)
        return seconds

    def _servers(self) -> list[int]:
        storage = json.dumps(str(puller.find_booted(MACHINE).storage)).strip('"')
        return [number for number, text in processes(storage).items() if "qemu-system" not in text]

    def _timed(self, command: list[str], name: str) -> float:
        began = time.monotonic()
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            terminal = self._terminal(name)
            _wait(lambda: READY in terminal.text())
            seconds = time.monotonic() - began
            _, error = process.communicate()
        assert process.returncode == 0, error
        if name == DOMAIN:
            self.connection.lookupByName(name).destroy()
        return seconds

    def _terminal(self, name: str) -> Terminal:
        """As soon as the guest has one."""
        found: list[str] = []

        def look() -> bool:
            try:
                xml = self.connection.lookupByName(name).XMLDesc(0)
            except libvirt.libvirtError:
                return False
            if "tty=" in xml:
                found.append(xml)
            return bool(found)

        _wait(look)
        return Terminal(found[0])


def _wait(reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def resident(number: int) -> int:
    """The highest resident memory of a process, in bytes."""
    (text,) = (
        text for text in Path(f"/proc/{number}/status").read_text().splitlines() if text.startswith("VmHWM")
    )
    return int(text.split()[1]) * KIB


def measure(folder: Path, rounds: int, delay: float) -> None:
    prepare_library()
    for name in ("daemon", "store", "machine"):
        (folder / name).mkdir()
    with PrivateLibvirt(folder / "daemon"), Seaweed(folder / "store") as seaweed:
        seaweed.make_bucket("boot")
        os.environ.update(seaweed.variables())
        os.environ.update(
            PULLER_REPOSITORY="s3://boot/kvm",
            PULLER_PASSWORD="boot",
            PULLER_STATE_DIR=str(folder / "state"),
            PULLER_CACHE_DIR=str(folder / "cache"),
        )
        repository = puller.create_repository("s3://boot/kvm", password="boot")
        with running_guest(URI, DOMAIN, folder / "machine") as guest:
            guest.console.wait_generation(4, PATIENCE)
            puller.backup(repository, DOMAIN, connect=URI)
            with closing(libvirt.open(URI)) as connection:
                domain = connection.lookupByName(DOMAIN)
                domain.destroy()
                connection.defineXML(_with_terminal(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)))
            with wire(seaweed.endpoint, delay) as endpoint:
                os.environ["AWS_ENDPOINT_URL_S3"] = endpoint
                bench = Bench(folder)
                # In turn, so that other work on the host slows down both.
                pairs = [(bench.local(), bench.booted()) for _ in range(rounds)]
                local, booted = (statistics.median(figures) for figures in zip(*pairs, strict=True))
    allowed = RATIO * local + MORE
    line("start from a local image, until the guest runs", f"{local:.2f} s", "", None)
    line(
        f"boot from S3, wire of {delay:.0f} ms",
        f"{booted:.2f} s",
        f"<= {allowed:.2f} s",
        booted <= allowed,
    )
    memory = bench.memory / MIB
    line("memory of the server, MiB", f"{memory:.0f}", f"< {MEMORY}", memory < MEMORY)


def _with_terminal(xml: str) -> str:
    """The guest's console on a terminal, as that of a booted machine is."""
    root = ET.fromstring(xml)
    for kind in ("serial", "console"):
        for device in root.findall(f"./devices/{kind}"):
            for source in device.findall("./source"):
                device.remove(source)
            device.set("type", "pty")
    return ET.tostring(root, encoding="unicode")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", default="/var/tmp")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--delay", type=float, default=0, metavar="MS", help="length of the wire, there and back"
    )
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.here:
        os.execv(in_own_namespace("")[0], in_own_namespace("benchmarks.boot", [*sys.argv[1:], "--here"]))
    with tempfile.TemporaryDirectory(prefix="pb-", dir=options.folder) as folder:
        measure(Path(folder), options.rounds, options.delay)


if __name__ == "__main__":
    main()
