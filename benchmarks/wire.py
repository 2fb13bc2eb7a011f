"""Work over a slow network: puller, an earlier puller and a shell pipeline through one proxy, in one run.

    python -m benchmarks.wire --against DIR          # DIR holds the package of an earlier puller
    python -m benchmarks.wire --rounds 3 --only full restore
    python -m benchmarks.wire --outage 3600          # for an hour, a fifth of the requests fails

All contestants use the same SeaweedFS behind the same proxy, which has a round trip and a rate per
connection (benchmarks/delay.py). They take turns, and another one begins each round. Round trips are the time
that a command takes with a wire of 120 ms without a limit of the rate, less its time without a wire, in units
of 120 ms. The load of the machine stands beside each round.

An outage is measured with one run that stores noise all the time, for as long undisturbed before. A third of
the requests that fail get a 503, a third a reset, a third no answer.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks import tools
from benchmarks.change import Change
from benchmarks.cloud import BUCKET
from benchmarks.cost import Cost, Meter
from benchmarks.delay import proxy
from benchmarks.disk import Layout
from benchmarks.stage import Stage
from puller.units import CHUNK, GIB, MIB

LAYOUT = Layout(512 * MIB, 1 * GIB, 48 * MIB, 64 * MIB, 2 * GIB)
"""Some 250 MiB stored."""

MILLISECONDS = 120.0
RATE = 8.0 * MIB
FAULTS = 0.2
SCATTERED = Change("100 scattered chunks", 100, CHUNK)

NOW, BEFORE, RCAT = "puller", "puller before", "nbdcopy | zstd -1 -T2 | rclone rcat, 8 connections"


@dataclass(frozen=True)
class Way:
    """The stage as seen through one wire."""

    stage: Stage
    endpoint: str

    def meter(self, package: Path | None = None) -> Meter:
        """A meter whose commands use this wire, and the puller in ``package``."""
        made = self.stage.meter(self.stage.ours)
        places = {name: self.endpoint for name in made.environment if name.endswith("_ENDPOINT")}
        places |= {name: self.endpoint for name in made.environment if name.startswith("AWS_ENDPOINT")}
        code = {} if package is None else {"PYTHONPATH": str(package)}
        return Meter(made.folder, {**made.environment, **places, **code}, made.qemu, made.cloud)


class Puller:
    """One version of puller, with a repository of its own in the bucket."""

    def __init__(self, name: str, package: Path | None) -> None:
        self.name = name
        self._package = package
        self.bucket = f"s3://{BUCKET}/{name.replace(' ', '-')}"

    def run(self, way: Way, command: str, *options: str) -> Cost:
        """Run a command on the repository."""
        # -P: the directory in which the benchmark runs must not hide another package.
        words = [sys.executable, "-P", "-m", "puller.cli", "--json", command, "-r", self.bucket]
        return way.meter(self._package).run([*words, *options])

    def full(self, way: Way) -> Cost:
        """Take a full into a new prefix of the bucket."""
        self.bucket = f"s3://{BUCKET}/{self.name.replace(' ', '-')}-{time.monotonic_ns()}"
        self.run(way, "init")
        return self.run(way, "backup", "--full", way.stage.ours.name)

    def backup(self, way: Way) -> Cost:
        """Take an incremental."""
        return self.run(way, "backup", way.stage.ours.name)

    def restore(self, way: Way) -> Cost:
        """Restore the newest point."""
        output = way.stage.place("restored")
        try:
            return self.run(way, "restore", f"{way.stage.ours.name}@latest", "-o", str(output))
        finally:
            shutil.rmtree(output, ignore_errors=True)


def rcat(way: Way) -> Cost:
    """Stream the disk into one object by a multipart upload with 8 connections."""
    with way.stage.ours.export(way.stage.place(".")) as uri:
        options = "--s3-no-check-bucket --s3-upload-concurrency 8"
        upload = f"{tools.path('rclone')} rcat {options} cloud:{BUCKET}/disk.zst"
        return way.meter().shell(f"nbdcopy '{uri}' - | zstd -1 -T2 -q | {upload}")


class Table:
    """Costs of each round by work and program."""

    def __init__(self) -> None:
        self._costs: dict[str, dict[str, list[Cost]]] = defaultdict(lambda: defaultdict(list))

    def note(self, work: str, name: str, cost: Cost) -> None:
        """Add a cost and print it."""
        self._costs[work][name].append(cost)
        load = os.getloadavg()[0]
        say(
            f"{work}: {name} {cost.wall:.1f} s, {cost.cpu:.1f} CPU-s, {cost.peak // MIB} MiB, "
            f"{cost.requests} requests, {cost.stored // MIB} MiB stored (load {load:.1f})"
        )

    def lines(self) -> Iterator[str]:
        """The medians, and for each contestant the median of the ratios to puller in the same round."""
        yield "| work | contestant | s | CPU-s | peak MiB | requests | s / puller's s |"
        yield "|---|---|---|---|---|---|---|"
        for work, found in self._costs.items():
            for name, costs in found.items():
                ours = found.get(NOW, costs)
                ratio = statistics.median(
                    other.wall / own.wall for other, own in zip(costs, ours, strict=False)
                )
                wall = statistics.median(cost.wall for cost in costs)
                cpu = statistics.median(cost.cpu for cost in costs)
                peak = max(cost.peak for cost in costs) // MIB
                requests = statistics.median(cost.requests for cost in costs)
                yield f"| {work} | {name} | {wall:.1f} | {cpu:.1f} | {peak} | {requests:.0f} | {ratio:.2f} |"


def say(text: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


Play = Callable[[Way], Cost]


class Benchmark:
    """All works of one round. ``pullers`` begins with today's."""

    def __init__(self, stage: Stage, pullers: list[Puller], table: Table, only: list[str] | None) -> None:
        self._stage = stage
        self._pullers = pullers
        self._table = table
        self._only = only

    def round(self, number: int) -> None:
        """Do each work once."""
        with self._wire(0.0, 0.0) as near, self._wire(MILLISECONDS, RATE) as far:
            for title, way in (("no wire", near), ("120 ms, 8 MiB/s", far)):
                plays: dict[str, Play] = {puller.name: puller.full for puller in self._pullers}
                self._play(f"full, {title}", way, {**plays, RCAT: rcat}, number)
                self._play(
                    f"restore, {title}",
                    way,
                    {puller.name: puller.restore for puller in self._pullers},
                    number,
                )
        if self._chosen("round trips"):
            self._round_trips()

    def outage(self, seconds: float) -> None:
        """One long run undisturbed, and one while a share of the requests fails."""
        for share in (0.0, FAULTS):
            steady = Puller(f"steady {share}", None)
            steady.run(Way(self._stage, self._endpoint), "init")
            with proxy(self._endpoint, MILLISECONDS, RATE, share) as found:
                meter = Way(self._stage, found.endpoint).meter()
                command = [sys.executable, "-m", "benchmarks.steady", steady.bucket, str(seconds)]
                cost = meter.run(command)
                say(
                    f"{share:.0%} of requests fail: {cost.stored / MIB / cost.wall:.1f} MiB/s stored, "
                    f"{cost.wall:.0f} s, {cost.peak // MIB} MiB, load {os.getloadavg()[0]:.1f}"
                )
                self._table.note(f"{seconds:.0f} s of a run, {share:.0%} of requests fail", NOW, cost)

    @property
    def _endpoint(self) -> str:
        return self._stage.cloud.environment()["RCLONE_CONFIG_CLOUD_ENDPOINT"]

    @contextmanager
    def _wire(self, milliseconds: float, rate: float) -> Iterator[Way]:
        if not milliseconds:
            yield Way(self._stage, self._endpoint)
            return
        with proxy(self._endpoint, milliseconds, rate) as found:
            yield Way(self._stage, found.endpoint)

    def _chosen(self, work: str) -> bool:
        return self._only is None or any(word in work for word in self._only)

    def _play(self, work: str, way: Way, plays: dict[str, Play], number: int) -> None:
        if not self._chosen(work):
            return
        pairs = list(plays.items())
        begin = number % len(pairs)
        for name, play in pairs[begin:] + pairs[:begin]:
            self._table.note(work, name, play(way))

    def _round_trips(self) -> None:
        """Ten points, then each command near and far; the far one takes so many round trips longer."""
        with self._wire(0.0, 0.0) as near, self._wire(MILLISECONDS, 0.0) as far:
            for puller in self._pullers:
                puller.full(near)
                for _ in range(9):
                    self._stage.change(SCATTERED)
                    puller.backup(near)
                for title, command in (
                    ("points", ("points",)),
                    ("check", ("check",)),
                    ("prune", ("prune", "--keep-last", "9")),
                ):
                    self._compare(puller, title, near, far, command)
                self._compare(puller, "incremental of 100 chunks", near, far, None)

    def _compare(
        self, puller: Puller, title: str, near: Way, far: Way, command: tuple[str, ...] | None
    ) -> None:
        walls = []
        for way in (near, far):
            if command is None:
                self._stage.change(SCATTERED)
                cost = puller.backup(way)
            else:
                cost = puller.run(way, *command)
            walls.append(cost.wall)
            self._table.note(f"{title}, {'no wire' if way is near else '120 ms'}", puller.name, cost)
        say(f"{title}: {puller.name}: {(walls[1] - walls[0]) / (MILLISECONDS / 1000):.1f} round trips")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.wire", description=__doc__)
    parser.add_argument("--against", type=Path, metavar="DIR", help="the directory of another puller package")
    parser.add_argument("--rounds", type=int, default=3, metavar="N")
    parser.add_argument(
        "--only", nargs="+", metavar="WORD", help="only works whose names contain one of these"
    )
    parser.add_argument("--outage", type=float, metavar="SECONDS", help="only the outage, for so long")
    parser.add_argument("--work-dir", type=Path, metavar="DIR", help="keep the disk there for the next run")
    options = parser.parse_args()
    pullers = [Puller(NOW, None)]
    if options.against is not None:
        pullers.append(Puller(BEFORE, options.against.absolute()))
    table = Table()
    if options.work_dir is not None:
        options.work_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="pw-", dir=options.work_dir or "/var/tmp") as folder:
        kept = (options.work_dir or Path(folder)).absolute()
        with Stage(Path(folder).absolute(), kept, LAYOUT) as stage:
            for number in range(options.rounds):
                with stage.round(number):
                    benchmark = Benchmark(stage, pullers, table, options.only)
                    if options.outage is None:
                        benchmark.round(number)
                    else:
                        benchmark.outage(options.outage)
    print("\n".join(table.lines()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
