"""Runs the tests against random mutants of the modules on which right data depends.

A mutant is one small change of the source, made by an operator of Cosmic Ray: another comparison, another
number, a negated condition, a loop that is not entered. Each is put into a copy of the tree. The quick tests
run first; the slow ones run only against the mutants that the quick ones let pass.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor  # noqa: TID251
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

ROOT = Path(__file__).resolve().parent.parent

MODULES = {
    "puller/nbd/extents.py": ("tests/nbd/test_extents.py", "tests/nbd/test_export.py"),
    "puller/nbd/reader.py": ("tests/nbd/test_reader.py",),
    "puller/repository/format/pages.py": (
        "tests/repository/test_codecs.py",
        "tests/repository/test_diskmap.py",
    ),
    "puller/repository/writing/diskmap.py": ("tests/repository/test_diskmap.py",),
    "puller/repository/reading/image.py": ("tests/repository/test_window.py", "tests/upkeep/test_repair.py"),
    "puller/backups/bases/bases.py": ("tests/backups/test_bases.py",),
    "puller/backups/bases/probe.py": ("tests/backups/test_probe.py",),
    "puller/repository/writing/packing.py": ("tests/repository/test_packing.py",),
    "puller/repository/format/chunk_slot.py": ("tests/repository/test_codecs.py",),
    "puller/repository/format/footer.py": ("tests/repository/test_codecs.py",),
    "puller/repository/writing/pending.py": ("tests/upkeep/test_prune.py",),
    "puller/repository/writing/claims.py": ("tests/upkeep/test_prune.py",),
    "puller/repository/records/condemned.py": ("tests/repository/test_condemned.py",),
    "puller/upkeep/survey.py": ("tests/upkeep/test_prune.py",),
    "puller/upkeep/retention.py": ("tests/upkeep/test_retention.py",),
    "puller/store/retrying.py": ("tests/store/test_retrying.py",),
}
"""The modules that decide what is read, stored, found, kept and removed, and the tests nearest to each."""

_SLOW = ("tests/repository/test_run.py", "tests/upkeep/test_prune_interleaved.py")
_SLOWER = ("tests/upkeep/test_simulation.py", "tests/repository/test_index.py")
_QUICK = (
    "tests/repository",
    "tests/upkeep",
    "tests/backups",
    "tests/nbd/test_extents.py",
    "tests/nbd/test_reader.py",
)

STAGES = (
    (*_QUICK, *(f"--ignore={path}" for path in _SLOW + _SLOWER)),
    (*_SLOW, "tests/nbd", "tests/store/test_retrying.py"),
    (*_SLOWER, "tests/cli/test_prune.py", "tests/cli/test_check.py"),
)
"""What is run one after the other until a test fails, after the nearest tests: the dearer, the later."""

LIMITS = (120, 300, 600, 900)
"""Seconds for the nearest tests and for each stage; a mutant that makes them hang is caught."""

BAR = 0.95

_LOG = "pytest.log"
"""In each copy of the tree: what the last run of the tests printed."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change of one module: the ``number``-th place where the operator fits."""

    module: str
    operator: str
    number: int

    def source(self, original: str) -> str:
        """The changed module."""
        return mutate_code(original, get_operator(self.operator)(), self.number) or original


def main() -> int:
    """Draw, test and report; the exit status is 0 if enough are caught."""
    arguments = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # ends the tests under way, too
    modules = [name for name in MODULES if any(part in name for part in arguments.module or [""])]
    drawn = draw(modules, arguments.mutants, arguments.seed)
    with tempfile.TemporaryDirectory(prefix="puller-mutants-") as folder:
        survivors = _run(drawn, [Path(folder) / str(number) for number in range(os.cpu_count() or 1)])
    caught = len(drawn) - len(survivors)
    print(f"\n{caught} of {len(drawn)} mutants caught, {caught / len(drawn):.1%}")
    for mutant in survivors:
        print(f"\nsurvived: {mutant}\n{_difference(mutant)}")
    return 0 if caught >= BAR * len(drawn) else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/soak-mutants", description=__doc__)
    parser.add_argument("--mutants", type=int, default=200, metavar="N", help="default 200")
    parser.add_argument("--seed", type=int, default=1, metavar="S", help="default 1")
    parser.add_argument("--module", action="append", metavar="NAME", help="only modules whose path has NAME")
    return parser.parse_args()


def draw(modules: Sequence[str], count: int, seed: int) -> list[Mutant]:
    """``count`` mutants at random, all equally likely, that change more than annotations."""
    every = [mutant for module in modules for mutant in _mutants(module)]
    drawn: list[Mutant] = []
    for mutant in random.Random(seed).sample(every, len(every)):
        if len(drawn) == count:
            break
        if _changes_behaviour(mutant):
            drawn.append(mutant)
    return drawn


def _mutants(module: str) -> Iterator[Mutant]:
    nodes = list(ast_nodes(get_ast(_text(module))))
    for name in sorted(operator_names()):
        if get_operator(name).arguments():
            continue  # such as renaming a variable that the caller has to choose
        operator = get_operator(name)()
        places = sum(1 for node in nodes for _ in operator.mutation_positions(node))
        yield from (Mutant(module, name, number) for number in range(places))


def _changes_behaviour(mutant: Mutant) -> bool:
    original = _text(mutant.module)
    try:
        return _bare(mutant.source(original)) != _bare(original)
    except SyntaxError:
        return False


def _bare(source: str) -> str:
    """The program without its annotations, which are not evaluated."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            node.returns = None
        elif isinstance(node, ast.arg):
            node.annotation = None
        elif isinstance(node, ast.AnnAssign):
            node.annotation = ast.Constant(None)
    return ast.dump(tree)


def _run(drawn: Sequence[Mutant], trees: Sequence[Path]) -> list[Mutant]:
    """Those that all tests let pass, tested in as many copies of the tree at a time."""
    free: SimpleQueue[Path] = SimpleQueue()
    for tree in trees:
        _copy_to(tree)
        free.put(tree)
    _refuse_broken(trees[0])

    def survives(mutant: Mutant) -> bool:
        tree = free.get()
        try:
            stage = _caught_by(mutant, tree)
        finally:
            free.put(tree)
        print(f"{'SURVIVED' if stage is None else f'caught by stage {stage}'}: {mutant}", flush=True)
        return stage is None

    with ThreadPoolExecutor(len(trees)) as pool:
        return [mutant for mutant, survived in zip(drawn, pool.map(survives, drawn), strict=True) if survived]


def _refuse_broken(tree: Path) -> None:
    """Exit if the tests fail without a mutant: all of them would seem to be caught."""
    for tests in (tuple(path for paths in MODULES.values() for path in paths), *STAGES):
        if not _pass(tree, tests, LIMITS[-1]):
            print((tree / _LOG).read_text())
            sys.exit(f"the tests fail without a mutant: {' '.join(tests)}")


def _copy_to(tree: Path) -> None:
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True)
    for name in filter(None, listing.stdout.split("\0")):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, tree / name)
    if (kernel := ROOT / "build/guest-kernel").is_dir():
        shutil.copytree(kernel, tree / "build/guest-kernel", symlinks=True)


def _caught_by(mutant: Mutant, tree: Path) -> int | None:
    path = tree / mutant.module
    path.write_text(mutant.source(_text(mutant.module)))
    try:
        return _first_failing(tree, (MODULES[mutant.module], *STAGES))
    finally:
        path.write_text(_text(mutant.module))


def _first_failing(tree: Path, stages: Sequence[Sequence[str]]) -> int | None:
    """The number of the first stage whose tests do not pass in ``tree``, or None."""
    limited = enumerate(zip(stages, LIMITS, strict=False))
    return next((number for number, (tests, limit) in limited if not _pass(tree, tests, limit)), None)


def _pass(tree: Path, tests: Sequence[str], limit: float) -> bool:
    """Whether the tests pass within ``limit`` seconds, with the ``puller`` of ``tree``."""
    command = [sys.executable, "-m", "pytest", "-qx", "-p", "no:cacheprovider", *tests]
    environment = os.environ | {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    with (tree / _LOG).open("w") as log:
        process = subprocess.Popen(
            command, cwd=tree, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        return process.wait(limit) == 0
    except subprocess.TimeoutExpired:
        return False
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _difference(mutant: Mutant) -> str:
    original = _text(mutant.module)
    lines = difflib.unified_diff(
        original.splitlines(), mutant.source(original).splitlines(), mutant.module, "mutant", lineterm=""
    )
    return "\n".join(lines)


def _text(module: str) -> str:
    return (ROOT / module).read_text()


if __name__ == "__main__":
    sys.exit(main())
