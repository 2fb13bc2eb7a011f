"""Plays random histories in batches, each of one seed, and tells of each batch how to repeat it."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tests.agent.histories import Batch, found_by
from tests.agent.planted import PLANTED

BATCH = 100
"""Histories of one seed."""

TRIED = 50
"""Seeds that are tried for each planted bug."""


def main() -> int:
    """Play; the exit status is 0 if no invariant failed, or if each planted bug was found."""
    arguments = _arguments()
    memory = Path("/dev/shm")  # caches are synced to disk otherwise
    with tempfile.TemporaryDirectory(
        prefix="puller-soak-", dir=memory if memory.is_dir() else None
    ) as folder:
        if arguments.planted:
            return _find_planted(Path(folder), arguments.seed)
        return _soak(Path(folder), arguments.seed, arguments.histories)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/soak", description=__doc__)
    parser.add_argument("--histories", type=int, default=10_000, metavar="N", help="default 10000")
    parser.add_argument("--seed", type=int, default=1, metavar="S", help="the first one, default 1")
    parser.add_argument("--planted", action="store_true", help="look for the planted bugs instead")
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


if __name__ == "__main__":
    sys.exit(main())
