"""Backups of several running machines, and a prune and a check that never rest, at once in one repository.

Each machine is written to and backed up by a thread of its own; a further one prunes all the while, with
hardly any grace time and few points to keep, so that packs go and are compacted under everybody's hands;
and another one reads and verifies what there is.
What a point should hold is copied from its open job by a reader that is not puller's.
"""

from __future__ import annotations

import filecmp
import os
import random
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Protocol

import puller
from puller.errors import Locked, Overtaken
from puller.units import CHUNK, MIB
from puller.upkeep.pruning.prune import prune
from puller.upkeep.retention.policy import Policy
from tests.lab.machine import Machine, reference

SIZE = 16 * MIB
"""Bytes of each machine's disk."""

REGION = 6 * MIB
"""Bytes at its beginning that the writes go to: packs soon have more dead slots than live ones."""

EXPECTED = ("removed", "deleted", "compacted", "checks")
"""What has to have happened beside the backups: points and packs gone, packs compacted, checks made."""

PATIENCE = 6
"""Times as many backups as wanted are made at most for that."""

TRIES = 20
"""Times that a backup which prune overtakes is begun again."""


class Export(Protocol):
    """What the backup shows of a frozen disk."""

    @property
    def target(self) -> str: ...

    @property
    def uri(self) -> str: ...


@dataclass
class Rivals:
    """``expected`` maps each committed point to a copy of its disk; ``counts`` tells what happened."""

    url: str
    connect: str
    folder: Path
    seed: int
    expected: dict[str, Path] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def play(self, machines: Sequence[Machine], rounds: int) -> None:
        """Back up each machine this many times, and prune and check until all is done.

        Backups go on beyond that, as long as the others have not done all they should. Raises what any does.
        """
        done = threading.Event()
        with ThreadPoolExecutor(len(machines) + 2) as pool:
            others = [pool.submit(self._prune_until, done), pool.submit(self._check_until, done)]
            runs = [pool.submit(self._back_up, machine, rounds) for machine in machines]
            _wait(runs, done)
            for other in others:
                other.result()

    def verify(self) -> int:
        """Prune once more and compare each point that stands; return how many. Raises AssertionError."""
        repository = puller.open_repository(self.url)
        prune(repository, Policy(), timedelta(0))
        assert puller.check(repository, read_data=100).errors == ()
        points = puller.list_points(repository)
        for point in points:
            output = self.folder / "restored"
            puller.restore(repository, point.point, output=str(output), format="raw")
            same = filecmp.cmp(output / "vda.raw", self.expected[point.point], shallow=False)
            assert same, f"{point.point} of {point.domain} does not restore"
            shutil.rmtree(output)
        return len(points)

    # --- the guests and their backups ---------------------------------------------------------

    def _back_up(self, machine: Machine, rounds: int) -> None:
        rng = random.Random(f"{self.seed} {machine.name}")
        repository = puller.open_repository(self.url)
        for number in range(rounds * PATIENCE):
            if number >= rounds and all(self.counts[name] for name in EXPECTED):
                break
            self._write(machine, rng)
            self._commit(machine, repository)

    def _write(self, machine: Machine, rng: random.Random) -> None:
        with self._noise(rng, machine.name) as noise:
            for _ in range(4):
                length = rng.randrange(1, 20) * CHUNK
                offset = rng.randrange(0, REGION - length, CHUNK // 2)
                act: Callable[[str, int, int], None] = rng.choice([machine.discard, machine.write_zeroes])
                if rng.random() < 0.8:
                    machine.copy_in("vda", noise, offset, length)
                else:
                    act("vda", offset, length)

    @contextmanager
    def _noise(self, rng: random.Random, name: str) -> Iterator[Path]:
        path = self.folder / f"noise-{name}"
        path.write_bytes(rng.randbytes(20 * CHUNK))
        yield path
        path.unlink()

    def _commit(self, machine: Machine, repository: puller.Repository) -> None:
        image = self.folder / f"truth-{machine.name}-{os.urandom(4).hex()}"

        def copy(exports: Sequence[Export]) -> None:
            reference(exports[0].uri, image)

        for _ in range(TRIES):
            try:
                point = puller.backup(repository, machine.name, connect=self.connect, on_frozen=copy)
            except Overtaken:
                self._count(overtaken=1)
                continue
            self.expected[point.point] = image
            self._count(committed=1, incremental=point.kind == "incremental")
            return
        raise AssertionError(f"{machine.name}: prune overtook {TRIES} runs in a row")

    # --- the prune and the check ---------------------------------------------------------------

    def _prune_until(self, done: threading.Event) -> None:
        rng = random.Random(f"{self.seed} prune")
        while not done.is_set():
            repository = puller.open_repository(self.url)
            grace = timedelta(seconds=rng.choice([0, 0, 0, 1]))
            try:
                report = prune(repository, Policy(last=rng.choice([1, 1, 2])), grace)
            except Locked:
                self._count(locked=1)
                continue
            self._count(
                prunes=1,
                removed=len(report.removed),
                deleted=report.packs_deleted,
                compacted=report.packs_compacted,
            )
            for point in report.removed:
                self.expected.pop(point).unlink()

    def _check_until(self, done: threading.Event) -> None:
        while not done.is_set():
            report = puller.check(puller.open_repository(self.url), read_data=100)
            assert report.errors == (), "a check beside a prune tells of damage"
            self._count(checks=1, chunks_checked=report.chunks_read)

    def _count(self, **numbers: int) -> None:
        with self._lock:
            self.counts.update(numbers)


def _wait(runs: Sequence[Future[None]], done: threading.Event) -> None:
    try:
        for run in runs:
            run.result()
    finally:
        done.set()
