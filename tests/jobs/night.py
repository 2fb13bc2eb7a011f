"""A job of several real domains on a libvirtd of its own, whose backups are in processes or in threads."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import libvirt

import puller
from benchmarks.host import Host
from puller.units import MIB
from tests.lab.daemon import has_job

PASSWORD = "the moon is up"
PATIENCE = 180.0
SIZE = 4 * MIB
JOB = f"night{os.getpid()}"
"""Test processes run at the same time, but no two runs of a job do."""

NAMES = ("many0", "many1", "many2")

_PROGRAM = """\
import sys
from puller.jobs import ways
ways.CORES = int(sys.argv.pop(1))
from puller.cli import main
main()
"""

_CONFIGURATION = """\
[jobs.{job}]
repository = "{folder}/repository"
domains = {domains}
parallel = 3
pace = {pace}
metrics-file = "{folder}/metrics.prom"
"""


class Place:
    """The daemon with its domains, in a process of their own, which answers questions about them.

    A process in which another test has opened ``qemu:///embed`` can open no other libvirt of QEMU.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.jobs.night", str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.variables: dict[str, str] = self._answer()

    def ask(self, question: str) -> Any:
        """Return the answer to ``jobs``, ``checkpoints``, ``uuid`` or ``clear``."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{question}\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        self._process.communicate(timeout=PATIENCE)


class Night:
    """Three domains of 4 MiB of noise each, and a fresh repository in ``folder``."""

    def __init__(self, place: Place, folder: Path) -> None:
        self.place = place
        self.folder = folder
        self.environment = {
            **os.environ,
            **place.variables,
            "PULLER_PASSWORD": PASSWORD,
            "PULLER_CACHE_DIR": str(folder / "cache"),
            "PULLER_CONFIG": str(folder / "puller.toml"),
        }
        self.configure()
        subprocess.run(self._words("init", "-r", self.url), env=self.environment, check=True)

    @property
    def url(self) -> str:
        return str(self.folder / "repository")

    def configure(self, *, pace: str = "full", domains: tuple[str, ...] = NAMES) -> None:
        text = _CONFIGURATION.format(
            job=JOB, folder=self.folder, pace=json.dumps(pace), domains=json.dumps(list(domains))
        )
        (self.folder / "puller.toml").write_text(text)

    def _words(self, *arguments: str, processes: bool = True) -> list[str]:
        return [sys.executable, "-c", _PROGRAM, "0" if processes else "1000000", *arguments]

    def begin(self, *options: str, processes: bool = True) -> subprocess.Popen[str]:
        """Start a run of the job."""
        return subprocess.Popen(
            [
                "env",
                "--default-signal=HUP,INT,TERM",
                *self._words("--json", *options, "run", JOB, processes=processes),
            ],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *options: str, processes: bool = True) -> tuple[int, dict[str, Any], str]:
        """Run the job to its end: exit code, document, stderr."""
        return self.end(self.begin(*options, processes=processes))

    def end(self, running: subprocess.Popen[str]) -> tuple[int, dict[str, Any], str]:
        out, err = running.communicate(timeout=PATIENCE)
        return running.returncode, json.loads(out), err

    def jobs(self) -> list[str]:
        """Names of the domains with an open backup job."""
        return list(self.place.ask("jobs"))

    def left(self) -> list[str]:
        """What a run should not leave: jobs, scratch images, checkpoints without a point, workers."""
        points = {point.checkpoint for point in self.points()}
        found = [name for name in self.place.ask("checkpoints") if name not in points and self.mark in name]
        scratch = [str(path) for path in self.place.folder.glob("*puller-*")]
        return [*self.jobs(), *found, *scratch, *map(str, self.workers())]

    @property
    def mark(self) -> str:
        """What the names of this repository's checkpoints contain."""
        return self.opened().id[:8]

    def opened(self) -> puller.Repository:
        return puller.open_repository(self.url, password=PASSWORD)

    def points(self) -> list[puller.Point]:
        return puller.list_points(self.opened())

    def workers(self, parent: int | None = None) -> list[int]:
        """Processes that are workers of this test's jobs."""
        return [number for number in _processes(str(self.folder)) if parent in {None, _parent(number)}]


def make_images(folder: Path) -> list[Path]:
    """Noise that is the same in each run."""
    noise = random.Random(1)
    images = []
    for name in NAMES:
        raw, image = folder / f"{name}.raw", folder / f"{name}.qcow2"
        raw.write_bytes(noise.randbytes(SIZE))
        subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(raw), str(image)], check=True)
        images.append(image)
    return images


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _processes(folder: str) -> Iterator[int]:
    """Numbers of the workers whose environment names ``folder``."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes()
            if (
                b"puller.jobs import worker" in words
                and folder.encode() in (process / "environ").read_bytes()
            ):
                yield int(process.name)
        except OSError:  # it has ended
            continue


def _parent(number: int) -> int:
    try:
        fields = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return -1
    return int(fields[1])


def main(folder: Path) -> None:
    """Serve a :class:`Place`: a line of JSON for each question on stdin."""
    images = make_images(folder)
    with Host(folder / "host") as host:
        for image in images:
            host.domain(image.stem, image)
        with closing(libvirt.open(host.uri)) as connection:
            domains = [connection.lookupByName(name) for name in NAMES]
            questions = {
                "jobs": lambda: [domain.name() for domain in domains if has_job(domain)],
                "checkpoints": lambda: [each.getName() for each in _checkpoints(domains)],
                "uuid": domains[1].UUIDString,
                "clear": lambda: [each.delete() for each in _checkpoints(domains)],
            }
            _say(host.variables())
            for question in sys.stdin:
                _say(questions[question.strip()]())


def _say(answer: object) -> None:
    sys.stdout.write(f"{json.dumps(answer)}\n")
    sys.stdout.flush()


def _checkpoints(domains: list[Any]) -> list[Any]:
    return [each for domain in domains for each in domain.listAllCheckpoints()]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
