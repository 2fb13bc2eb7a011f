"""Plays random histories in batches, each of one seed, and tells of each batch how to repeat it.

Instead it can look for the planted bugs, let real machines be backed up beside a prune, or mutate objects.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import pytest

import puller
from tests import fuzz
from tests.lab.machine import DiskSpec, EmbeddedLibvirt
from tests.lab.rivals import SIZE, Rivals
from tests.lab.seaweed import Seaweed
from tests.upkeep.histories import Batch, found_by
from tests.upkeep.planted import PLANTED
from tests.upkeep.power_history import LINKED, UNLINKED, cuts, found_fault, recorded

BATCH = 100
"""Histories of one seed."""

TRIED = 50
"""Seeds that are tried for each planted bug."""

ROUNDS = 20
"""Backups of each machine between two comparisons of all points with what they should hold."""


def main() -> int:
    """Play; the exit status is 0 if no invariant failed, or if each planted bug was found."""
    arguments = _arguments()
    if arguments.fuzz:
        return fuzz.main(["--mutations", str(arguments.fuzz), "--seed", str(arguments.seed)])
    memory = Path("/dev/shm")  # caches are synced to disk otherwise
    with tempfile.TemporaryDirectory(
        prefix="puller-soak-", dir=memory if memory.is_dir() else None
    ) as folder:
        if arguments.planted:
            return _find_planted(Path(folder), arguments.seed)
        if arguments.power is not None:
            return _cut_power(Path(folder), arguments.seed, arguments.power)
        if arguments.prune:
            return _prune_beside(Path(folder), arguments.seed, arguments.prune)
        return _soak(Path(folder), arguments.seed, arguments.histories)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/soak", description=__doc__)
    parser.add_argument("--histories", type=int, default=10_000, metavar="N", help="default 10000")
    parser.add_argument("--seed", type=int, default=1, metavar="S", help="the first one, default 1")
    parser.add_argument("--planted", action="store_true", help="look for the planted bugs instead")
    parser.add_argument("--prune", type=int, metavar="N", help="instead, N backups beside a prune on S3")
    parser.add_argument("--power", type=int, metavar="N", help="instead, power cuts, N mixtures a call")
    parser.add_argument("--fuzz", type=int, metavar="N", help="instead, N mutated objects")
    return parser.parse_args()


def _soak(folder: Path, first: int, histories: int) -> int:
    begun, played, number = time.monotonic(), 0, first
    while played < histories:
        batch = Batch(number, folder / "caches")
        wanted = min(BATCH, histories - played)
        try:
            batch.run(wanted)
        except BaseException:
            print(f"FAILED; repeat: scripts/soak --seed {number} --histories {wanted}", flush=True)
            raise
        played += wanted
        rate = played / (time.monotonic() - begun)
        print(f"seed {number}: sound; {played} of {histories} histories, {rate:.1f} a second", flush=True)
        number += 1
    return 0


def _find_planted(folder: Path, first: int) -> int:
    missed = 0
    for name, plant in PLANTED.items():
        with pytest.MonkeyPatch.context() as patch:
            plant(patch)
            batch = found_by(folder / "caches", range(first, first + TRIED), BATCH)
        missed += batch is None
        found = "NOT FOUND" if batch is None else f"seed {batch.seed}, history {batch.played}"
        print(f"{name:34} {found}", flush=True)
    return min(missed, 1)


def _cut_power(folder: Path, first: int, mixtures: int) -> int:
    """Every power cut, with and without hard links; after each the repository is worked with."""
    faults = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PULLER_CACHE_DIR", str(folder / "caches"))
        for name, refused in (("hard links", LINKED), ("no hard links", UNLINKED)):
            history, log = recorded(folder / name.replace(" ", "-"), refused)
            played = 0
            for cut in cuts(history, log, first, mixtures):
                played += 1
                fault = found_fault(history, cut, folder / "state", goes_on=True)
                if fault is not None:
                    faults += 1
                    print(f"FAILED: {fault}", flush=True)
            print(f"{name}: {len(log)} calls, {played} states, {faults} faults", flush=True)
    return min(faults, 1)


def _prune_beside(folder: Path, number: int, backups: int) -> int:
    """Two real machines, and a prune and a check that never rest, on a real S3 server."""
    with Seaweed(folder) as seaweed, pytest.MonkeyPatch.context() as patch:
        seaweed.use(patch)
        patch.setenv("PULLER_CACHE_DIR", str(folder / "caches"))
        seaweed.make_bucket("soak")
        puller.create_repository("s3://soak/kvm", password=None)
        libvirt = EmbeddedLibvirt(folder / "l")
        with (
            libvirt.machine("one", folder, [DiskSpec("vda", SIZE)]) as one,
            libvirt.machine("two", folder, [DiskSpec("vda", SIZE)]) as two,
        ):
            rivals = Rivals("s3://soak/kvm", libvirt.uri, folder, number)
            while rivals.counts["committed"] < backups:
                rivals.seed, number = number, number + 1
                rivals.play([one, two], ROUNDS)
                told = ", ".join(f"{name} {count}" for name, count in rivals.counts.items())
                print(f"seed {rivals.seed}: {rivals.verify()} points are whole; {told}", flush=True)
        libvirt.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
