"""Runs the tests against random mutants of the modules on which right data depends.

Each mutant is put into a copy of the tree. Its module's own tests run first; the slower ones run only
against the mutants that the quicker ones let pass. A mutant is caught if a test fails, or if a test runs for
ten times as long as the slowest one takes without a mutant.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import TypeVar

from mutant_tree import Limits, Outcome, Tree, Verdict, tracked
from mutants import ROOT, Mutant, draw

from puller.cancelling import CancelScope
from puller.store.parallel import each

A = TypeVar("A")
B = TypeVar("B")

OWN = {
    "puller/nbd/extents.py": ("tests/nbd/test_extents.py",),
    "puller/nbd/reader.py": ("tests/nbd/test_reader.py",),
    "puller/repository/format/pages.py": (
        "tests/repository/test_diskmap.py",
        "tests/repository/test_mapreader.py",
        "tests/repository/test_codecs.py",
        "tests/repository/test_packing.py",
    ),
    "puller/repository/writing/diskmap.py": ("tests/repository/test_diskmap.py",),
    "puller/repository/reading/image.py": (
        "tests/repository/test_window.py",
        "tests/upkeep/test_bad_objects.py",
        "tests/upkeep/test_check.py",
    ),
    "puller/backups/bases/bases.py": ("tests/backups/test_bases.py",),
    "puller/backups/bases/probe.py": ("tests/backups/test_probe.py", "tests/backups/test_bases.py"),
    "puller/repository/writing/packing.py": ("tests/repository/test_packing.py",),
    "puller/repository/format/chunk_slot.py": (
        "tests/repository/test_packing.py",
        "tests/repository/test_codecs.py",
    ),
    "puller/repository/format/footer.py": (
        "tests/repository/test_packing.py",
        "tests/repository/test_codecs.py",
    ),
    "puller/repository/writing/pending.py": (
        "tests/repository/test_pending.py",
        "tests/upkeep/test_prune.py",
    ),
    "puller/repository/writing/claims.py": (
        "tests/repository/test_condemned.py",
        "tests/upkeep/test_prune.py",
    ),
    "puller/repository/records/condemned.py": (
        "tests/repository/test_condemned.py",
        "tests/upkeep/test_prune.py",
    ),
    "puller/upkeep/pruning/survey.py": ("tests/upkeep/test_prune.py", "tests/upkeep/test_check.py"),
    "puller/upkeep/retention/policy.py": ("tests/upkeep/test_retention.py", "tests/backups/test_clock.py"),
    "puller/store/wrapping/retrying.py": ("tests/store/test_retrying.py", "tests/store/test_silence.py"),
}
"""The modules, and the tests that are run first against a mutant of each: its own, which catch most."""

MODULES = tuple(OWN)

_SLOW = ("tests/repository/test_run.py", "tests/upkeep/test_prune_interleaved.py")
_SLOWER = ("tests/upkeep/test_simulation.py",)
_QUICK = ("tests/test_house.py", "tests/nbd", "tests/repository", "tests/upkeep", "tests/backups")

STAGES = (
    (*_QUICK, *(f"--ignore={path}" for path in _SLOW + _SLOWER)),
    _SLOW,
    (*_SLOWER, "tests/cli/test_prune.py", "tests/cli/test_check.py"),
    ("tests/integration/test_generations.py", "tests/integration/test_faults.py"),
)
"""What is run against the mutants that their module's own tests let pass: the dearer, the later."""

BAR = 0.95


def main() -> int:
    """Draw, test and report; the exit status is 0 if enough are caught."""
    arguments = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # ends the tests under way, too
    modules = [name for name in MODULES if any(part in name for part in arguments.module or [""])]
    drawn = draw(modules, arguments.mutants, arguments.seed)
    print(f"{len(drawn.mutants)} mutants drawn, {drawn.without_effect} passed over", flush=True)
    with tempfile.TemporaryDirectory(prefix="puller-mutants-") as folder, Known(arguments.resume) as known:
        trees = [Tree(Path(folder) / str(number)) for number in range(os.cpu_count() or 1)]
        trial = Trial(trees, known)
        try:
            survivors = trial.run(drawn.mutants, arguments.stages + 1)
        finally:
            for tree in trees:
                tree.end()
    return _report(drawn.mutants, survivors, trial.outcomes)


def _report(drawn: Sequence[Mutant], survivors: Sequence[Mutant], outcomes: Counter[Outcome]) -> int:
    caught = len(drawn) - len(survivors)
    print(
        f"\n{caught} of {len(drawn)} mutants caught, {caught / len(drawn):.1%}: a test failed with", end=" "
    )
    print(f"{outcomes[Outcome.FAILED]}, and did not end with {outcomes[Outcome.NO_END]}")
    for mutant in survivors:
        print(f"\nsurvived: {mutant}\n{mutant.difference}")
    return 0 if caught >= BAR * len(drawn) else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/soak-mutants", description=__doc__)
    parser.add_argument("--mutants", type=int, default=200, metavar="N", help="default 200")
    parser.add_argument("--seed", type=int, default=1, metavar="S", help="default 1")
    parser.add_argument(
        "--stages",
        type=int,
        default=len(STAGES),
        choices=range(len(STAGES) + 1),
        metavar="N",
        help="end after stage N; 0 runs only the modules' own tests; default all",
    )
    parser.add_argument("--module", action="append", metavar="NAME", help="only modules whose path has NAME")
    parser.add_argument("--resume", type=Path, metavar="FILE", help="note results in FILE, and go on from it")
    return parser.parse_args()


class Known:
    """Results by mutated source and stage, one JSON line each in a file, if there is one.

    What was caught stays caught; what passed counts only as long as the tests are the same.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path or Path(os.devnull)
        self._tests = _digest(
            *((ROOT / name).read_bytes() for name in tracked() if name.startswith("tests/"))
        )
        self._results: dict[tuple[str, int], Outcome] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> Known:
        self._file = self._path.open("a+")
        self._file.seek(0)
        for source, stage, outcome, tests in map(json.loads, self._file):
            if outcome != Outcome.PASSED or tests == self._tests:
                self._results[source, stage] = Outcome(outcome)
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def get(self, mutant: Mutant, stage: int) -> Outcome | None:
        """The result of an earlier run."""
        return self._results.get((_name(mutant), stage))

    def note(self, mutant: Mutant, stage: int, outcome: Outcome) -> None:
        """Append a result."""
        line = json.dumps([_name(mutant), stage, outcome, self._tests])
        with self._lock:
            print(line, file=self._file, flush=True)


def _name(mutant: Mutant) -> str:
    return _digest(mutant.module.encode(), mutant.source.encode())


def _digest(*contents: bytes) -> str:
    return hashlib.sha256(b"\0".join(contents)).hexdigest()[:32]


class Trial:
    """Runs stages of tests in copies of the tree, one run at a time in each."""

    def __init__(self, trees: Sequence[Tree], known: Known) -> None:
        self._free: SimpleQueue[Tree] = SimpleQueue()
        for tree in trees:
            self._free.put(tree)
        self._threads = len(trees)
        self._known = known
        self._limits: dict[tuple[str, ...], Limits] = {}
        self.outcomes: Counter[Outcome] = Counter()

    def run(self, drawn: Sequence[Mutant], stages: int) -> list[Mutant]:
        """Those that the tests of all stages let pass: the modules' own first."""
        alive = list(drawn)
        for stage in range(stages):
            fresh = [mutant for mutant in alive if self._known.get(mutant, stage) is None]
            suites = list(dict.fromkeys(_tests(mutant, stage) for mutant in fresh))
            self._limits |= dict(zip(suites, self._each(self._measured, suites), strict=True))
            outcomes = list(self._each(partial(self._outcome, stage), alive))
            self.outcomes.update(outcomes)
            alive = [mutant for mutant, out in zip(alive, outcomes, strict=True) if out is Outcome.PASSED]
            print(f"after stage {stage}: {len(drawn) - len(alive)} of {len(drawn)} caught", flush=True)
        return alive

    def _each(self, work: Callable[[A], B], items: Sequence[A]) -> Iterator[B]:
        return each(CancelScope(), lambda _scope, item: work(item), items, self._threads)

    def _measured(self, tests: tuple[str, ...]) -> Limits:
        with self._tree() as tree:
            return tree.measure(tests)

    def _outcome(self, stage: int, mutant: Mutant) -> Outcome:
        if (known := self._known.get(mutant, stage)) is not None:
            return known
        with self._tree() as tree:
            verdict = self._verdict(tree, mutant, _tests(mutant, stage))
        print(f"stage {stage}: {verdict.outcome}: {mutant} {verdict.test}", flush=True)
        if verdict.outcome is Outcome.PASSED:
            print(mutant.difference, flush=True)
        self._known.note(mutant, stage, verdict.outcome)
        return verdict.outcome

    def _verdict(self, tree: Tree, mutant: Mutant, tests: tuple[str, ...]) -> Verdict:
        """A test that did not end proves nothing if the machine has become that much slower meanwhile."""
        while True:
            limits = self._limits[tests]
            verdict = tree.test(mutant, tests, limits)
            if verdict.outcome is not Outcome.NO_END:
                return verdict
            self._limits[tests] = tree.measure(tests)
            if self._limits[tests].wall <= 1.5 * limits.wall:
                return verdict

    @contextmanager
    def _tree(self) -> Iterator[Tree]:
        tree = self._free.get()
        try:
            yield tree
        finally:
            self._free.put(tree)


def _tests(mutant: Mutant, stage: int) -> tuple[str, ...]:
    return (OWN[mutant.module], *STAGES)[stage]


if __name__ == "__main__":
    sys.exit(main())
