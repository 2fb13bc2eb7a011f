"""``./benchmarks/run``: puller and its peers on the same disk in one run, interleaved, some rounds."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks import facts, impact, ours, plot, report, roofline
from benchmarks.cost import CommandFailed
from benchmarks.disk import FULL, QUICK, Layout
from benchmarks.results import Results, Round, machine
from benchmarks.stage import Stage
from benchmarks.works import Work, all_works

ROOFLINE, IMPACT, VERIFY = "roofline", "impact", "verify"
RESULTS = "results.json"


def main() -> int:
    """Run; 0 if everything worked, however fast it was."""
    options = _options()
    layout = QUICK if options.quick else FULL
    works = [work for work in all_works(layout) if _chosen(options.only, work.name)]
    extras = [extra for extra in (ROOFLINE, IMPACT, VERIFY) if _chosen(options.only, extra)]
    options.output.mkdir(parents=True, exist_ok=True)
    try:
        with _folders(options.work_dir) as (folder, kept), Stage(folder, kept, layout) as stage:
            allocated = stage.disk.stat().st_blocks * 512
            results = Results(layout, allocated, machine(), _facts(stage))
            if options.add:
                results.rounds = _rounds_before(options.output, layout)
            begun = len(results.rounds)
            for number in range(options.rounds):
                _say(f"round {number + 1} of {options.rounds}")
                results.add(_round(stage, begun + number, works, extras))
                _save(results, options.output)
    except CommandFailed as error:
        print(f"benchmark: {error}", file=sys.stderr)
        return 1
    print("\n" + report.markdown(results))
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks/run", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a disk with 1 GiB of files instead of 5")
    parser.add_argument("--rounds", type=int, metavar="N", help="default 3, with --quick 1")
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="NAME",
        help=f"only works whose names contain one of these; also {ROOFLINE}, {IMPACT}, {VERIFY}",
    )
    parser.add_argument(
        "--add", action="store_true", help="add to the results that are in --output, made on the same disk"
    )
    parser.add_argument("--work-dir", type=Path, metavar="DIR", help="keep the disk there for the next run")
    parser.add_argument(
        "--output", type=Path, default=Path("build/benchmarks"), metavar="DIR", help="for results and plot"
    )
    options = parser.parse_args()
    options.rounds = options.rounds or (1 if options.quick else 3)
    return options


def _chosen(only: list[str] | None, name: str) -> bool:
    return only is None or any(word in name for word in only)


def _rounds_before(output: Path, layout: Layout) -> list[Round]:
    """What earlier runs have found, of a disk of the same layout."""
    path = output / RESULTS
    if not path.exists():
        return []
    before = Results.load(path)
    if before.layout != layout:
        raise CommandFailed(f"{path} has results of another disk")
    return before.rounds


@contextmanager
def _folders(work: Path | None) -> Iterator[tuple[Path, Path]]:
    """A folder for the run, gone afterwards, and the one that keeps the disk: the same, if none is named."""
    if work is not None:
        work.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="pb-", dir=work or _roomy()))
    try:
        yield folder, (work or folder).absolute()
    finally:
        shutil.rmtree(folder)


def _roomy() -> str:
    """``/tmp`` is in memory on some systems, ``/var/tmp`` never is; both have short paths for sockets."""
    return os.environ.get("TMPDIR", "/var/tmp")


def _facts(stage: Stage) -> facts.Facts:
    with stage.round(0):
        found = facts.measure(stage)
    for step, (one, all_) in found.items():
        _say(f"  {step}: {one:.0f} MB/s on one thread, {all_:.0f} on all cores")
    return found


def _round(stage: Stage, number: int, works: list[Work], extras: list[str]) -> Round:
    found = Round()
    with stage.round(number):
        for work in works:
            work.prepare(stage)
            found.costs[work.name] = costs = {}
            for name, play in work.order(number):
                costs[name] = play(stage)
                _say(f"  {work.name}: {name} {costs[name].wall:.1f} s")
        if VERIFY in extras:
            _verify(stage)
        if ROOFLINE in extras:
            found.roofline = roofline.measure(stage)
            _say(f"  roofline: {found.roofline.wall('folder'):.1f} s")
        if IMPACT in extras:
            found.impact = _impact(stage, number)
    return found


def _verify(stage: Stage) -> None:
    """See that the last point restores to what the disk holds: fast and wrong would be no result."""
    if not stage.cloud.urls("puller/points/"):
        ours.full_to_s3(stage)
    ours.verify(stage, stage.bucket)
    _say("  the newest point restores to exactly what the disk holds")


def _impact(stage: Stage, number: int) -> dict[str, dict[str, impact.Latencies]]:
    return {scene.name: _impact_in(stage, scene, number) for scene in impact.SCENES}


def _impact_in(stage: Stage, scene: impact.Scene, number: int) -> dict[str, impact.Latencies]:
    phases = list(impact.PHASES)
    found = {}
    with impact.busy_guest(stage, scene) as guest:
        for phase in phases[number % len(phases) :] + phases[: number % len(phases)]:
            found[phase] = impact.measure(stage, guest, phase)
            _say(f"  guest's {scene.name}, {phase}: {len(found[phase].requests)} requests")
    return {phase: found[phase] for phase in phases}


def _save(results: Results, output: Path) -> None:
    results.save(output / RESULTS)
    (output / "results.md").write_text(report.markdown(results))
    plot.save(results, output / "results.svg")
    plot.save_impact(results, output / "impact.svg")


def _say(text: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
