"""Lets simulated fleets live through a quarter of a year each, and prints what happened to them."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.fleet.fleet import Fleet, live
from tests.fleet.hosts import QUARTER, SHORT, Size
from tests.fleet.planted import PLANTED

TRIED = 8
"""Seeds that are tried for each planted fault."""


def main() -> int:
    """Play; the exit status is 0 if nothing went wrong, or if each planted fault was found."""
    arguments = _arguments()
    memory = Path("/dev/shm")  # caches are synced to disk otherwise
    with tempfile.TemporaryDirectory(
        prefix="puller-fleet-", dir=memory if memory.is_dir() else None
    ) as folder:
        if arguments.planted:
            return _find_planted(Path(folder))
        size = replace(QUARTER, days=arguments.days, lost_on=arguments.days * 3 // 4)
        seeds = range(arguments.seed, arguments.seed + arguments.runs)
        return max(_live(size, Path(folder), seed) for seed in seeds)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/soak-quarter", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, metavar="S", help="the first one, default 1")
    parser.add_argument("--runs", type=int, default=1, metavar="N", help="default 1")
    parser.add_argument("--days", type=int, default=QUARTER.days, metavar="D", help="default 91")
    parser.add_argument("--planted", action="store_true", help="look for the planted faults instead")
    return parser.parse_args()


def _live(size: Size, folder: Path, seed: int) -> int:
    begun = time.monotonic()
    fleet = live(size, folder / "hosts", seed)
    _print(fleet, seed, time.monotonic() - begun)
    return int(bool(fleet.found))


def _print(fleet: Fleet, seed: int, seconds: float) -> None:
    size = fleet.size
    print(
        f"seed {seed}: {size.days} days of {size.domains} machines on {size.hosts} hosts in {seconds:.0f} s"
    )
    for name, count in sorted(fleet.counts.items()):
        print(f"  {name:<28}{count:>7}")
    print(f"  {'what went wrong':<28}{len(fleet.found):>7}", flush=True)
    for fault in fleet.found[:50]:
        print(f"    {fault}")


def _find_planted(folder: Path) -> int:
    missed = 0
    for name, plant in PLANTED.items():
        seed, fault = 0, None
        while fault is None and seed < TRIED:
            seed += 1
            with pytest.MonkeyPatch.context() as patch:
                plant(patch)
                fault = next(iter(live(SHORT, folder / "hosts", seed).found), None)
        missed += fault is None
        print(f"{name}: {'MISSED' if fault is None else f'seed {seed}: {fault}'}", flush=True)
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
