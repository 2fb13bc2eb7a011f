"""Kills backups at random moments, and sees that each next one succeeds unaided and is exact.

A guest writes all the while; libvirt's daemon, QEMU and the S3 server are real. Run it in a mount namespace
of its own, as scripts/soak does.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import libvirt

import puller
from puller.hypervisor.connection import prepare_library
from puller.hypervisor.locking.lock import DomainLock, lock_directory
from puller.upkeep.retention.policy import Policy
from tests.lab.daemon import URI, PrivateLibvirt, has_job
from tests.lab.guest import Agent, Guest, running_guest
from tests.lab.one_backup import PASSWORD, digest
from tests.lab.seaweed import Seaweed

DOMAIN = "soak"
STOPPED = 130
"""Exit code of a run that was asked to stop."""
PATIENCE = 120.0
"""Seconds for anything that takes a few."""
KEPT = 6
"""Points that stay in the repository; older ones are pruned now and then."""


@dataclass
class Scene:
    """The guest, its repository, and what each committed point must be."""

    url: str
    folder: Path
    server: Seaweed
    guest: Guest
    repository: puller.Repository
    truths: dict[str, dict[str, str]] = field(default_factory=dict)
    runs: int = 0
    typical: dict[bool, float] = field(default_factory=lambda: {True: 4.0, False: 3.0})

    def start(self, *options: str) -> tuple[subprocess.Popen[str], Path]:
        """Begin a backup in a process of its own."""
        self.runs += 1
        truth = self.folder / f"truth-{self.runs}.json"
        command = [sys.executable, "-m", "tests.lab.one_backup", self.url, DOMAIN, URI, str(truth)]
        process = subprocess.Popen(
            [*command, *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return process, truth

    def kill_one(self, chance: random.Random) -> str:
        """Kill a run at a random moment, or ask it to stop; say where it was."""
        full, push, asked = chance.random() < 0.4, chance.random() < 0.1, chance.random() < 0.1
        process, truth = self.start(*["--full"] * full, *["--push"] * push)
        said = process.stdout
        assert said is not None
        first = said.readline()
        time.sleep(chance.uniform(0, self.typical[full] * 1.1))
        process.send_signal(signal.SIGTERM if asked else signal.SIGKILL)
        steps = re.findall(r"step (\w+)", first + said.read())
        code = process.wait()
        self.learn(truth)
        if code == STOPPED:
            see_no_remains(self)
        how = "asked to stop" if asked else "killed"
        state = "done" if code == 0 else f"{how} in {steps[-1] if steps else 'start'}"
        return f"{'full' if full else 'incremental'}{' push' if push else ''} {state}"

    def finish_one(self) -> puller.Point:
        """A run that must succeed unaided."""
        process, truth = self.start()
        assert process.stdout is not None
        output = process.stdout.readline()
        began = time.monotonic()
        output += process.communicate(timeout=PATIENCE)[0]
        seconds = time.monotonic() - began
        if process.returncode:
            raise SystemExit(f"the next run failed with exit code {process.returncode}:\n{output}")
        point = self.learn(truth)
        if point is None:
            raise SystemExit(f"the next run made no point:\n{output}")
        self.typical[point.kind == "full"] = seconds
        return point

    def learn(self, truth: Path) -> puller.Point | None:
        """The point that a run has committed, if it has; its truth is remembered."""
        for point in reversed(puller.list_points(self.repository)):
            if point.point not in self.truths:
                self.truths[point.point] = json.loads(truth.read_text())
                self._compare(point)
                truth.unlink()
                return point
        truth.unlink(missing_ok=True)
        return None

    def _compare(self, point: puller.Point) -> None:
        output = self.folder / "restored"
        puller.restore(self.repository, point.point, output=str(output), format="raw")
        found = {path.stem: digest(path) for path in output.glob("*.raw")}
        shutil.rmtree(output)
        if self.truths[point.point] and found != self.truths[point.point]:
            raise SystemExit(f"point {point.point} differs: {found} instead of {self.truths[point.point]}")


def main() -> int:
    """Play; the exit status is 0 if nothing was wrong."""
    arguments = _arguments()
    chance = random.Random(arguments.seed)
    with scene_of_a_writing_guest() as scene:
        scene.finish_one()
        began = time.monotonic()
        for number in range(1, arguments.kills + 1):
            generation = scene.guest.console.generation()
            killed = scene.kill_one(chance)
            point = scene.finish_one()
            see_clean(scene)
            see_guest(scene, generation)
            if number % 10 == 0:
                puller.prune(scene.repository, Policy(last=KEPT))
                _see_points(scene)
            seconds = (time.monotonic() - began) / number
            print(f"{number}: {killed}; next: {point.kind}, exact; {seconds:.1f} s a turn", flush=True)
    print(f"{arguments.kills} kills, seed {arguments.seed}: sound", flush=True)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/soak --kills", description=__doc__)
    parser.add_argument("--kills", type=int, default=200, metavar="N", help="default 200")
    parser.add_argument("--seed", type=int, default=1, metavar="S", help="default 1")
    return parser.parse_args()


@contextmanager
def scene_of_a_writing_guest() -> Iterator[Scene]:
    """A guest on a private libvirt, and a repository on an S3 server."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="puller-kills-")))
        os.environ["PULLER_CACHE_DIR"] = str(folder / "cache")
        server = stack.enter_context(Seaweed(folder / "seaweed"))
        os.environ.update(server.environment())
        server.make_bucket("backups")
        prepare_library()
        stack.enter_context(PrivateLibvirt(folder))
        home = folder / "guest"
        home.mkdir()
        guest = stack.enter_context(running_guest(URI, DOMAIN, home, Agent.SOUND))
        guest.console.wait_ready(PATIENCE)
        url = "s3://backups/kills"
        yield Scene(url, folder, server, guest, puller.create_repository(url, password=PASSWORD))


def see_clean(scene: Scene) -> None:
    """Nothing is left, and there is one checkpoint."""
    if (count := see_no_remains(scene)) != 1:
        raise SystemExit(f"{count} checkpoints are left")


def see_no_remains(scene: Scene) -> int:
    """No checkpoint without a point, no job, scratch, socket or held lock; how many checkpoints there are."""
    with closing(libvirt.open(URI)) as connection:
        domain = connection.lookupByName(DOMAIN)
        points = {point.checkpoint for point in puller.list_points(scene.repository)}
        found = {checkpoint.getName() for checkpoint in domain.listAllCheckpoints()}
        if not found <= points:
            raise SystemExit(f"checkpoints {found} are left")
        if has_job(domain):
            raise SystemExit("a job is left")
        left = [
            *scene.folder.glob("guest/*.scratch"),
            *Path("/var/lib/libvirt/qemu").glob("domain-*/puller-*"),
        ]
        if left:
            raise SystemExit(f"{left} are left")
        with DomainLock(domain.UUIDString(), DOMAIN, lock_directory()):
            return len(found)


def see_guest(scene: Scene, generation: int) -> None:
    """The guest writes on and has seen no error."""
    console = scene.guest.console
    console.wait_generation(max(generation, console.generation()) + 1, PATIENCE)
    if complaint := re.search(r".*\berror\b.*", console.text(), re.IGNORECASE):
        raise SystemExit(f"the guest says: {complaint[0]}")


def _see_points(scene: Scene) -> None:
    """Prune has kept what it should, and every kept point is exact."""
    points = puller.list_points(scene.repository)
    if len(points) != KEPT:
        raise SystemExit(f"{len(points)} points are left, not {KEPT}")
    for point in points:
        scene._compare(point)


if __name__ == "__main__":
    sys.exit(main())
