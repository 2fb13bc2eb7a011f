"""Several domains at once: in threads of one process, and in a process for each.

    python -m benchmarks.many                        # two and four domains of 512 MiB, three rounds
    python -m benchmarks.many --domains 4 --size 256 --rounds 5 --equal

Each domain has other data, a part of a tar archive of ``/usr``. With ``--equal`` all have the same, which
shows what backups that run together store twice. In turn, each into a fresh repository in a directory: a job
with ``parallel`` in threads, and the same in processes. Then ``py-spy`` (``pip install py-spy``) samples one
full: how long is the interpreter's lock held? A model for more cores follows.

Beside other work, run it with ``nice -n -20``: a thread that waits for a core holds the lock meanwhile.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.cost import Cost, Meter, cpu_seconds, folder_size
from benchmarks.host import Domain, Host
from puller.units import GIB, MIB

PULLER = f"{sys.executable} -m puller.cli"
THREADS, PROCESSES = "threads", "processes"
MODELLED = (2, 4, 8, 16, 32)
_ENOUGH = 0.9
_RATE = 500
"""Samples of the lock a second."""

_MOVING = re.compile(r"thread \(\d+\): (codec|read|upload|request)")
"""Samples of threads that move data. The others load modules, and do what each backup does once."""

_FORCED = (
    "import sys; from puller.jobs import ways; ways.CORES = {cores}; from puller.cli import main; main()"
)
"""A program that is ``puller``, but takes processes with more than so many cores."""

_CONFIGURATION = """\
[jobs.many]
repository = "{repository}"
domains = [{names}]
parallel = {count}
pace = "full"
"""


@dataclass(frozen=True, slots=True)
class Inputs:
    """What the model is made of, as measured: seconds for each GiB of disk, and for each process.

    ``cpu`` are CPU-seconds of puller, ``qemu`` those of QEMU, ``lock`` seconds under the interpreter's lock;
    ``start`` CPU-seconds of a backup in which nothing has changed; ``memory`` bytes of one process.
    """

    cpu: float
    qemu: float
    lock: float
    start: float
    memory: int

    def rate(self, cores: int, processes: int) -> float:
        """Return GiB/s if the processes share the cores evenly.

        A thread works without the lock, waits for it, and works with it. That is a closed network with one
        queue, whose throughput follows by mean value analysis (Reiser and Lavenberg, 1980).
        """
        free = self.cpu + self.qemu - self.lock
        waiting = found = 0.0
        for threads in range(1, cores // processes + 1):
            held = self.lock * (1 + waiting)
            found = threads / (free + held)
            waiting = found * held
        return processes * found

    def ideal(self, cores: int) -> float:
        """Return GiB/s without a lock."""
        return cores / (self.cpu + self.qemu)


class Bench:
    """The domains on their host, and fresh repositories. ``folder`` needs a short path."""

    def __init__(self, folder: Path, host: Host, domains: Sequence[Domain], size: int) -> None:
        self._folder = folder
        self._host = host
        self._domains = domains
        self._repository = folder / "repository"
        self.size = size

    def run(self, way: str, count: int) -> Cost:
        """Back up the first ``count`` domains, each in full."""
        domains = self._domains[:count]
        meter = self._fresh(domains)
        program = _FORCED.format(cores=0 if way == PROCESSES else 1_000_000)
        cost = meter.run([sys.executable, "-c", program, "-q", "run", "many"])
        return Cost(
            cost.wall,
            cost.cpu,
            _qemu(domains) - self._before,
            0.0,
            cost.peak,
            0,
            folder_size(self._repository),
        )

    def unchanged(self) -> Cost:
        """A backup of the first domain after one, with nothing changed."""
        return self._meter().shell(self._one(self._domains[0]))

    def locked(self) -> float:
        """Return the seconds in which the threads that move data hold the interpreter's lock in a full."""
        meter, found = self._fresh(self._domains[:1]), self._folder / "samples"
        sampler = Path(sys.executable).with_name("py-spy")
        options = f"record --gil --nonblocking --threads --format raw --rate {_RATE} --output {found}"
        meter.shell(f"{sampler} {options} -- {self._one(self._domains[0])}")
        samples = (line for line in found.read_text().splitlines() if _MOVING.match(line))
        return sum(int(line.rpartition(" ")[2]) for line in samples) / _RATE

    def _one(self, domain: Domain) -> str:
        return f"{PULLER} -q backup -r {self._repository} --pace full {domain.name}"

    def _fresh(self, domains: Sequence[Domain]) -> Meter:
        """Return what measures a run into a fresh repository."""
        shutil.rmtree(self._repository, ignore_errors=True)
        shutil.rmtree(self._folder / "cache", ignore_errors=True)
        names = ", ".join(f'"{domain.name}"' for domain in domains)
        configuration = _CONFIGURATION.format(repository=self._repository, names=names, count=len(domains))
        (self._folder / "puller.toml").write_text(configuration)
        meter = self._meter()
        meter.shell(f"{PULLER} -q init -r {self._repository}")
        self._before = _qemu(domains)
        return meter

    def _meter(self) -> Meter:
        return Meter(self._folder, self._environment())

    def _environment(self) -> dict[str, str]:
        own = {"PULLER_PASSWORD": "benchmark", "PULLER_CACHE_DIR": str(self._folder / "cache")}
        own["PULLER_CONFIG"] = str(self._folder / "puller.toml")
        return os.environ | self._host.variables() | own


def main() -> None:
    """Measure, and print the table and the model."""
    parser = argparse.ArgumentParser(prog="benchmarks.many", description=__doc__.partition("\n")[0])
    parser.add_argument("--domains", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--size", type=int, default=512, metavar="MIB", help="of each domain; default 512")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--equal", action="store_true", help="give all domains the same data")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pm-", dir=os.environ.get("TMPDIR", "/var/tmp")) as name:
        folder = Path(name)
        images = _images(folder, max(options.domains), options.size * MIB, options.equal)
        with Host(folder / "host") as host:
            domains = [host.domain(image.stem, image) for image in images]
            bench = Bench(folder, host, domains, options.size * MIB)
            for count in options.domains:
                _compare(bench, count, options.rounds)
            _model(_inputs(bench, options.rounds))


def _images(folder: Path, count: int, size: int, equal: bool) -> list[Path]:
    """Make qcow2 images of consecutive parts of an archive of ``/usr``, or all of its first part."""
    images = [folder / f"many{number}.qcow2" for number in range(count)]
    archive = subprocess.Popen(["tar", "-cf", "-", "/usr"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert archive.stdout is not None
    for number, image in enumerate(images):
        raw = folder / "part.raw"
        if number == 0 or not equal:
            with raw.open("wb") as file:
                for _ in range(size // MIB):
                    file.write(archive.stdout.read(MIB))
        subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(raw), str(image)], check=True)
    archive.kill()
    archive.wait()
    raw.unlink()
    return images


def _compare(bench: Bench, count: int, rounds: int) -> None:
    """Print a line for each run; then the ratio of processes to threads, of each round and in the median."""
    ratios: dict[str, list[float]] = {"wall": [], "CPU": [], "stored": []}
    for number in range(rounds):
        ways = (THREADS, PROCESSES) if number % 2 == 0 else (PROCESSES, THREADS)
        costs = {way: bench.run(way, count) for way in ways}
        for way, cost in costs.items():
            processes = count if way == PROCESSES else 1
            print(
                f"{count} domains, {way}: {cost.wall:.2f} s, {cost.cpu:.2f} CPU-s, QEMU {cost.qemu:.2f}, "
                f"{processes} x {cost.peak / MIB:.0f} MiB, stored {cost.stored / MIB:.0f} MiB, "
                f"{count * bench.size / MIB / cost.wall:.0f} MiB/s, load {os.getloadavg()[0]:.1f}",
                flush=True,
            )
        one, other = costs[THREADS], costs[PROCESSES]
        ratios["wall"].append(other.wall / one.wall)
        ratios["CPU"].append(other.cpu / one.cpu)
        ratios["stored"].append(other.stored / one.stored)
    found = ", ".join(f"{name} {statistics.median(each):.2f}" for name, each in ratios.items())
    print(f"{count} domains, processes over threads, medians: {found}", flush=True)


def _inputs(bench: Bench, rounds: int) -> Inputs:
    """Measure one domain alone."""
    size = bench.size / GIB
    full, still, lock = [], [], []
    for _ in range(rounds):
        full.append(bench.run(THREADS, 1))
        still.append(bench.unchanged())
        lock.append(bench.locked())
    start = statistics.median(cost.cpu for cost in still)
    return Inputs(
        (statistics.median(cost.cpu for cost in full) - start) / size,
        statistics.median(cost.qemu for cost in full) / size,
        statistics.median(lock) / size,
        start,
        max(cost.peak for cost in full),
    )


def _model(inputs: Inputs) -> None:
    print(
        f"inputs, for each GiB: {inputs.cpu:.2f} CPU-s, QEMU {inputs.qemu:.2f}, lock {inputs.lock:.2f} s; "
        f"for each process: {inputs.start:.2f} CPU-s, {inputs.memory / MIB:.0f} MiB"
    )
    print("cores | GiB/s without a lock | one process | processes for 90 % | GiB/s | their memory, GiB")
    for cores in MODELLED:
        ideal, one = inputs.ideal(cores), inputs.rate(cores, 1)
        counts = [count for count in range(1, cores + 1) if cores % count == 0]
        need = next(count for count in counts if inputs.rate(cores, count) >= _ENOUGH * ideal)
        memory = need * inputs.memory / GIB
        print(f"{cores} | {ideal:.2f} | {one:.2f} | {need} | {inputs.rate(cores, need):.2f} | {memory:.1f}")


def _qemu(domains: Sequence[Domain]) -> float:
    return sum(cpu_seconds(domain.pid) for domain in domains)


if __name__ == "__main__":
    main()
