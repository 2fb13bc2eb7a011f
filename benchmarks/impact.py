"""What a guest feels: the latency of its requests of 4 KiB while it is backed up, and while it is not.

A real guest (without KVM: its processor is emulated, which is the same in all phases) writes to random
places of the disk by ``ioping``, or reads from them, past its own page cache, through virtio and QEMU's block
layer. So nearly every write during a backup is the first one to its cluster, and QEMU has to copy the old
content first.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from benchmarks import ours, peers
from benchmarks.host import Boot, Domain
from benchmarks.stage import Stage
from tests.lab.guest import Console, build_initramfs
from tests.lab.kernel import Kernel

INIT = Path(__file__).parent / "guest-init"
BOOT_SECONDS = 120.0
IDLE_SECONDS = 6.0
RATE = "200M"
"""Bytes a second: about a third of what puller reads on two cores."""

_LATENCY = re.compile(r"request=\d+ time=([\d.]+) (ns|us|ms|s)\b")
_UNITS = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0}


@dataclass(frozen=True, slots=True)
class Scene:
    """What the guest does, and where its image is: in the page cache, or on the disk, past the cache."""

    writes: bool
    cached: bool

    @property
    def name(self) -> str:
        """For tables and plots."""
        return (
            f"{'writes' if self.writes else 'reads'}, {'image in cache' if self.cached else 'image on disk'}"
        )


SCENES = [Scene(writes, cached) for cached in (True, False) for writes in (True, False)]


@dataclass(frozen=True, slots=True)
class Latencies:
    """Of the requests that ended in one phase, in seconds; the phase itself took ``wall`` seconds."""

    wall: float
    requests: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Guest:
    """The guest whose requests are timed."""

    domain: Domain
    console: Console

    def answered(self) -> list[float]:
        """Latencies of all requests up to now, in seconds."""
        text = self.console.text()
        found = _LATENCY.findall(text[: text.rfind("\n") + 1])
        return [float(number) * _UNITS[unit] for number, unit in found]

    @contextmanager
    def timed(self, phases: list[Latencies]) -> Iterator[None]:
        """Append the latencies of the requests that end within the context."""
        before, began = len(self.answered()), time.monotonic()
        yield
        wall = time.monotonic() - began
        phases.append(Latencies(wall, tuple(self.answered()[before:])))


_numbers = count()


@contextmanager
def busy_guest(stage: Stage, scene: Scene) -> Iterator[Guest]:
    """A guest that writes or reads; on a disk of its own, which its writes destroy."""
    name = f"guest-{next(_numbers)}"
    kernel_place, initramfs, console = (
        stage.place(f"{name}.{part}") for part in ("kernel", "initramfs", "console")
    )
    boot = Boot(kernel_place, initramfs, console, "ioping=writes" if scene.writes else "ioping=reads")
    kernel = Kernel.find()
    shutil.copyfile(kernel.image, boot.kernel)
    build_initramfs(kernel, boot.initramfs, init=INIT, programs=_programs())
    domain = stage.start(name, boot, cached=scene.cached)
    try:
        domain.resume()
        guest = Guest(domain, Console(boot.console))
        _wait_for_requests(guest)
        yield guest
    finally:
        stage.host.remove(domain)


def measure(stage: Stage, guest: Guest, phase: str) -> Latencies:
    """Time the requests of ``guest`` during the last command of a phase, which is the backup itself."""
    found: list[Latencies] = []
    stage.beside = lambda: guest.timed(found)
    try:
        PHASES[phase](stage, guest.domain)
    finally:
        stage.beside = nullcontext
    return found[-1]


def _nothing(stage: Stage, domain: Domain) -> None:
    stage.meter().run(["sleep", str(IDLE_SECONDS)])


def _at_full_pace(stage: Stage, domain: Domain) -> None:
    ours.full_of(stage, domain, "--pace", "full")


def _limited(stage: Stage, domain: Domain) -> None:
    ours.full_of(stage, domain, "--pace", RATE)


def _virtnbdbackup(stage: Stage, domain: Domain) -> None:
    folder = stage.place("impact")
    stage.meter().run(peers.virtnbdbackup_command(stage, domain.name, folder, "copy"))
    shutil.rmtree(folder)


def _convert(stage: Stage, domain: Domain) -> None:
    output = stage.place("impact.qcow2")
    with domain.export(stage.place(".")) as uri:
        stage.meter().run(peers.convert_command(uri, output))
    output.unlink()


QUIET, GENTLE, VIRTNBDBACKUP = "no backup", "puller", "virtnbdbackup"

PHASES: dict[str, Callable[[Stage, Domain], object]] = {
    QUIET: _nothing,
    GENTLE: ours.full_of,
    "puller --pace full": _at_full_pace,
    f"puller --pace {RATE}": _limited,
    VIRTNBDBACKUP: _virtnbdbackup,
    "qemu-img convert -c": _convert,
}


def _programs() -> dict[str, Path]:
    """ioping and the libraries that it is linked to, by their places in the guest."""
    ioping = shutil.which("ioping")
    if ioping is None:
        raise RuntimeError("ioping is not installed")
    linked = subprocess.run(["ldd", ioping], check=True, capture_output=True, text=True).stdout
    libraries = [Path(path) for path in re.findall(r"(/\S+) \(", linked)]
    # The loader looks in /lib and /lib64 whatever the distribution's own folders are.
    places = {f"{'lib64' if 'ld-linux' in path.name else 'lib'}/{path.name}": path for path in libraries}
    return {"bin/ioping": Path(ioping)} | places


def _wait_for_requests(guest: Guest) -> None:
    deadline = time.monotonic() + BOOT_SECONDS
    while len(guest.answered()) < 10:
        if time.monotonic() > deadline or "failed" in guest.console.text():
            raise RuntimeError(f"the guest sends no requests: {guest.console.text()[-500:]}")
        time.sleep(0.1)
