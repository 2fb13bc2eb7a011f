"""What a command costs: time, processor, memory, requests and stored bytes."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.cloud import Cloud
from puller.units import KIB

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one command, or pipeline of commands.

    ``wall`` in seconds; ``cpu``, ``qemu`` and ``store`` in CPU-seconds of the command with its children, of
    the domain's QEMU and of the S3 server; ``peak`` resident bytes of its largest process; ``requests`` to
    the S3 server; ``stored`` bytes.
    """

    wall: float
    cpu: float = 0.0
    qemu: float = 0.0
    store: float = 0.0
    peak: int = 0
    requests: int = 0
    stored: int = 0

    @property
    def total_cpu(self) -> float:
        """CPU-seconds of all that took part."""
        return self.cpu + self.qemu + self.store


def cpu_seconds(pid: int) -> float:
    """CPU-seconds that a process has used until now, its living and dead threads."""
    fields = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


class CommandFailed(Exception):
    """A command of the benchmark did not do its work; the message has the end of what it said."""


@dataclass(frozen=True, slots=True)
class Meter:
    """Measures commands, with the processes that serve them: the domain's QEMU and the S3 server."""

    folder: Path
    environment: Mapping[str, str]
    qemu: int | None = None
    cloud: Cloud | None = None
    beside: Callable[[], AbstractContextManager[None]] = nullcontext
    """Entered when the command starts and left when it has ended."""

    def run(self, command: Sequence[str]) -> Cost:
        """Run ``command`` and wait for it. Raises :class:`CommandFailed`.

        GNU time measures memory, because the kernel counts what a child had from its parent's before it
        became another program: the parent has to be small. Everything dirty is written out before, so
        that no command pays for the one before it.
        """
        os.sync()
        report, said = self.folder / "time", self.folder / "said"
        before = self._counters()
        began = time.monotonic()
        with said.open("wb") as output, self.beside():
            done = subprocess.run(
                ["/usr/bin/time", "--quiet", "-f", "%U %S %M", "-o", str(report), *command],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                check=False,
            )
        wall = time.monotonic() - began
        if done.returncode:
            tail = said.read_text(errors="replace")[-2000:]
            raise CommandFailed(f"{' '.join(command)} ended with {done.returncode}:\n{tail}")
        user, system, peak = report.read_text().split()
        served = [now - then for now, then in zip(self._counters(), before, strict=True)]
        qemu, store, requests, received = served
        return Cost(
            wall, float(user) + float(system), qemu, store, int(peak) * KIB, int(requests), int(received)
        )

    def shell(self, pipeline: str) -> Cost:
        """Run a pipeline of bash, which fails if any part of it fails."""
        return self.run(["bash", "-o", "pipefail", "-c", pipeline])

    def said(self) -> str:
        """What the last command said."""
        return (self.folder / "said").read_text(errors="replace")

    def _counters(self) -> tuple[float, float, int, int]:
        qemu = 0.0 if self.qemu is None else cpu_seconds(self.qemu)
        if self.cloud is None:
            return qemu, 0.0, 0, 0
        traffic = self.cloud.traffic()
        return qemu, cpu_seconds(self.cloud.pid), traffic.requests, traffic.received


def folder_size(folder: Path) -> int:
    """Bytes of all files in ``folder``, without the holes in them."""
    total = 0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):
            status = path.stat()
            total += min(status.st_size, status.st_blocks * 512) if path.is_file() else 0
    return total
