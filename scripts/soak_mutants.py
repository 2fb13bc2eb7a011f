"""Runs the tests against random mutants of the modules on which right data depends.

A mutant is one small change of the source, made by an operator of Cosmic Ray: another comparison, another
number, a negated condition, a loop that is not entered. Each is put into a copy of the tree. Its module's own
tests run first; the slower ones run only against the mutants that the quicker ones let pass.
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
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor  # noqa: TID251
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import SimpleQueue

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

ROOT = Path(__file__).resolve().parent.parent

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
    "puller/repository/writing/pending.py": ("tests/upkeep/test_prune.py",),
    "puller/repository/writing/claims.py": (
        "tests/repository/test_condemned.py",
        "tests/upkeep/test_prune.py",
    ),
    "puller/repository/records/condemned.py": (
        "tests/repository/test_condemned.py",
        "tests/upkeep/test_prune.py",
    ),
    "puller/upkeep/survey.py": ("tests/upkeep/test_prune.py", "tests/upkeep/test_check.py"),
    "puller/upkeep/retention.py": ("tests/upkeep/test_retention.py", "tests/backups/test_clock.py"),
    "puller/store/retrying.py": ("tests/store/test_retrying.py",),
}
"""The modules, and the tests that are run first against a mutant of each: its own, which catch most."""

MODULES = tuple(OWN)

_SLOW = ("tests/repository/test_run.py", "tests/upkeep/test_prune_interleaved.py")
_SLOWER = ("tests/upkeep/test_simulation.py",)
_QUICK = ("tests/nbd", "tests/repository", "tests/upkeep", "tests/backups")

STAGES = (
    (*_QUICK, *(f"--ignore={path}" for path in _SLOW + _SLOWER)),
    (*_SLOW, "tests/store"),
    (*_SLOWER, "tests/cli/test_prune.py", "tests/cli/test_check.py"),
    ("tests/integration/test_generations.py", "tests/integration/test_faults.py"),
)
"""What is run against the mutants that their module's own tests let pass: the dearer, the later."""

_UNSTEADY = ("--deselect=tests/upkeep/test_prune.py::test_requests_grow_with_points_and_packs_only",)
"""Fails at times on a loaded machine without a mutant, and would count as caught what it does not catch."""

_UNSHRUNK = """
from hypothesis import Phase, settings
settings.register_profile("unshrunk", phases=[Phase.explicit, Phase.generate], database=None)
settings.load_profile("unshrunk")
"""
"""A plug-in for pytest: the first example that fails is enough; to make it smaller takes longest."""

SLACK = 10
"""A mutant that makes the tests take as many times as long as without it is caught, for it hangs."""

BAR = 0.95


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
        survivors = _run(
            drawn, [Path(folder) / str(number) for number in range(os.cpu_count() or 1)], arguments.stages + 1
        )
    caught = len(drawn) - len(survivors)
    print(f"\n{caught} of {len(drawn)} mutants caught, {caught / len(drawn):.1%}")
    for mutant in survivors:
        print(f"\nsurvived: {mutant}\n{_difference(mutant)}")
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


def _run(drawn: Sequence[Mutant], trees: Sequence[Path], stages: int) -> list[Mutant]:
    """Those that the tests of all stages let pass: the modules' own first."""
    free: SimpleQueue[Path] = SimpleQueue()
    for tree in trees:
        _copy_to(tree)
        free.put(tree)
    alive = list(drawn)
    with ThreadPoolExecutor(len(trees)) as pool:
        for stage in range(stages):
            suites = dict.fromkeys(_tests(mutant, stage) for mutant in alive)
            limits = dict(zip(suites, pool.map(partial(_limit, free), suites), strict=True))
            survived = pool.map(partial(_survives, free, limits, stage), alive)
            alive = [mutant for mutant, lives in zip(alive, survived, strict=True) if lives]
            print(f"after stage {stage}: {len(drawn) - len(alive)} of {len(drawn)} caught", flush=True)
    return alive


def _tests(mutant: Mutant, stage: int) -> tuple[str, ...]:
    return (OWN[mutant.module], *STAGES)[stage]


def _limit(free: SimpleQueue[Path], tests: tuple[str, ...]) -> float:
    """Seconds for these tests, measured without a mutant; ends everything if they fail so."""
    tree, began = free.get(), time.monotonic()
    try:
        if not _pass(tree, tests, 3600):
            sys.exit(f"the tests fail without a mutant: {' '.join(tests)}")
    finally:
        free.put(tree)
    return SLACK * (time.monotonic() - began)


def _survives(
    free: SimpleQueue[Path], limits: dict[tuple[str, ...], float], stage: int, mutant: Mutant
) -> bool:
    tree, tests = free.get(), _tests(mutant, stage)
    path = tree / mutant.module
    path.write_text(mutant.source(_text(mutant.module)))
    try:
        survives = _pass(tree, tests, limits[tests])
    finally:
        path.write_text(_text(mutant.module))
        free.put(tree)
    print(f"{'passed' if survives else 'caught by'} stage {stage}: {mutant}", flush=True)
    if survives:
        print(_difference(mutant), flush=True)
    return survives


def _copy_to(tree: Path) -> None:
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True)
    for name in filter(None, listing.stdout.split("\0")):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, tree / name)
    (tree / "unshrunk.py").write_text(_UNSHRUNK)
    if (kernel := ROOT / "build/guest-kernel").is_dir():
        shutil.copytree(kernel, tree / "build/guest-kernel", symlinks=True)


def _pass(tree: Path, tests: Sequence[str], limit: float) -> bool:
    """Whether the tests pass with the ``puller`` of ``tree``, which comes before the installed one."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-qx",
        "-p",
        "no:cacheprovider",
        "-p",
        "unshrunk",
        *_UNSTEADY,
        *tests,
    ]
    environment = os.environ | {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    process = subprocess.Popen(
        command,
        cwd=tree,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
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
