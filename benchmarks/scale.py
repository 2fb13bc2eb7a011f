"""Cost follows change, not size: a table of what is measured, what is wanted, and whether it holds.

    python benchmarks/scale.py                 # 300,000 changes: some minutes and 30 GiB of room in --folder
    python benchmarks/scale.py --many 30000

Times are of the backup alone; the processes that make it also take some 0.3 s to start.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.scattered import Case, Cost, measure, prepare
from puller.repository.format.compression import frame
from puller.repository.format.packname import ID
from puller.repository.format.pages import PackTable, Refs, encode_page
from puller.repository.format.sealing import TAG
from puller.units import CHUNK, GIB, KIB, MIB, PAGE_CHUNKS, TIB

SMALL, LARGE = 4 * GIB, 4 * TIB
FULL = GIB
GROWTH = 1.2
MEMORY = 256
SHARE = 0.10
PER_PAGE = 20.0
OF_LOGICAL = 0.0015
REPEATS = 3


def case(folder: str, size: int, count: int, kind: str) -> Cost:
    """Prepare and measure, each in a fresh process."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        for step in ("prepare", "measure"):
            command = [sys.executable, "-m", "benchmarks.scale", "--step", step, "--folder", scratch]
            command += ["--case", str(size), str(count), kind]
            answer = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
    cost = Cost(**json.loads(answer))
    print(f"{size} bytes, {count} chunks, {kind}: {dataclasses.asdict(cost)}", file=sys.stderr, flush=True)
    return cost


def step(name: str, case: Case) -> None:
    """One half of a case, in this process."""
    if name == "prepare":
        prepare(case)
    else:
        print(json.dumps(dataclasses.asdict(measure(case))))


def quickest(folder: str, size: int, count: int) -> Cost:
    """Some times over, as what else the machine does can only add to the time; all else is the same."""
    costs = [case(folder, size, count, "data") for _ in range(REPEATS)]
    return dataclasses.replace(
        costs[0], seconds=min(cost.seconds for cost in costs), cpu=min(cost.cpu for cost in costs)
    )


def line(name: str, figure: str, target: str, holds: bool | None) -> None:
    verdict = {True: "holds", False: "MISSED", None: ""}[holds]
    print(f"{name:<58} {figure:>24}  {target:<14} {verdict}", flush=True)


def compare(small: Cost, large: Cost) -> None:
    """The same number of changes on a small and a large disk."""
    rows = [
        ("seconds", small.seconds, large.seconds, ".2f"),
        ("CPU-seconds", small.cpu, large.cpu, ".2f"),
        ("requests", small.requests, large.requests, "d"),
        ("peak MiB", small.peak / MIB, large.peak / MIB, ".0f"),
        ("metadata KiB", small.metadata / KIB, large.metadata / KIB, ".1f"),
        (
            "metadata KiB per touched page",
            small.metadata / KIB / small.pages,
            large.metadata / KIB / large.pages,
            ".3f",
        ),
    ]
    for name, one, other, form in rows:
        figure = f"{one:{form}} -> {other:{form}}: {other / one:.2f}"
        line(f"4 GiB -> 4 TiB, {name}", figure, f"<= {GROWTH}", other <= GROWTH * one)
    each = large.metadata / KIB / large.pages
    line("4 TiB, metadata KiB per touched page", f"{each:.3f}", f"< {PER_PAGE:.0f}", each < PER_PAGE)


def aged(packs: int, seed: int = 1) -> Refs:
    """A page that later generations have changed twice over, each in order and out of a pack of its own."""
    rng = np.random.default_rng(seed)
    refs = Refs(np.zeros(PAGE_CHUNKS, np.int64), np.arange(PAGE_CHUNKS, dtype=np.uint16))
    for pack in range(1, packs):
        changed = np.sort(rng.choice(PAGE_CHUNKS, 2 * PAGE_CHUNKS // packs, replace=False))
        refs.packs[changed], refs.slots[changed] = pack, rng.integers(0, 1000) + np.arange(len(changed))
    return refs


def worst() -> Refs:
    """A page of which each chunk is in a pack of its own, anywhere in it."""
    slots = np.random.default_rng(1).integers(0, 65536, PAGE_CHUNKS).astype(np.uint16)
    return Refs(np.arange(PAGE_CHUNKS), slots)


def stored(refs: Refs) -> float:
    """KiB that a page takes, with its seal and its rows in footer and index."""
    table = PackTable()
    for number in range(PAGE_CHUNKS):
        table.number(random.Random(number).randbytes(ID))
    return (len(frame(encode_page(refs, table))) + TAG + 2 * (ID + 5)) / KIB


def old_pages() -> None:
    """Pages of disks with many generations."""
    for packs in (8, 50, 200):
        size = stored(aged(packs))
        line(f"page of {packs} packs, metadata KiB", f"{size:.2f}", f"< {PER_PAGE:.0f}", size < PER_PAGE)
    size = stored(worst())
    line("worst page, metadata KiB", f"{size:.2f}", f"< {PER_PAGE:.0f}", size < PER_PAGE)


def bounded(name: str, cost: Cost) -> None:
    """Many changes: memory and the share of map and index."""
    line(f"{name}, peak MiB", f"{cost.peak / MIB:.0f}", f"< {MEMORY}", cost.peak < MEMORY * MIB)
    line(f"{name}, map and index of the CPU", f"{cost.share:.1%}", f"< {SHARE:.0%}", cost.share < SHARE)
    work = cost.share * cost.cpu / cost.pages * 1e6
    line(f"{name}, map and index, us of CPU per touched page", f"{work:.0f}", "", None)
    line(f"{name}, seconds, CPU-seconds", f"{cost.seconds:.1f}, {cost.cpu:.1f}", "", None)
    line(f"{name}, metadata KiB per touched page", f"{cost.metadata / KIB / cost.pages:.3f}", "", None)
    asked = cost.map_reads / cost.pages
    line(f"{name}, map reads per touched page", f"{cost.map_reads} / {cost.pages}", "< 0.1", asked < 0.1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", default="/var/tmp")
    parser.add_argument("--few", type=int, default=100)
    parser.add_argument("--many", type=int, default=300_000)
    parser.add_argument("--step", choices=["prepare", "measure"], help=argparse.SUPPRESS)
    parser.add_argument("--case", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        size, count, kind = options.case
        step(options.step, Case(Path(options.folder), int(size), int(count), kind))
        return
    compare(quickest(options.folder, SMALL, options.few), quickest(options.folder, LARGE, options.few))
    old_pages()
    described = case(options.folder, FULL, FULL // CHUNK, "full")
    share = described.metadata / described.logical
    line("full, metadata of the logical bytes", f"{share:.4%}", f"< {OF_LOGICAL:.2%}", share < OF_LOGICAL)
    for kind in ("zero", "data"):
        cost = case(options.folder, LARGE, options.many, kind)
        bounded(f"{options.many:,} of 4 TiB as {kind}", cost)


if __name__ == "__main__":
    main()
