"""A copy of the tree, in which tests run against a mutant."""

from __future__ import annotations

import contextlib
import enum
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mutants import ROOT, Mutant, text

SLACK = 10
LEAST_CPU, LEAST_WALL = 60.0, 120.0
"""A test may take this many times as long as the slowest one without a mutant, and these seconds anyway."""

_MEMORY = 6 << 30
"""Bytes for the tests' process: a mutant that asks for all of the machine's must not get it."""

_STOPWATCH = '''
"""Ends a run whose test takes far too long, and notes how long the slowest one took and which one failed."""

import faulthandler, json, os, pathlib, resource, signal, time
import pytest
from hypothesis import Phase, settings

# The first example that fails is enough; to make it smaller takes longest.
settings.register_profile("unshrunk", phases=[Phase.explicit, Phase.generate], database=None, deadline=None)
settings.load_profile("unshrunk")

memory, cpu, wall = json.loads(os.environ["MUTANT_LIMITS"])
resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
stacks = open("stacks", "w")
folder = pathlib.Path().absolute()
slowest = [0.0, 0.0]
failed = []

def watch():
    signal.setitimer(signal.ITIMER_PROF, cpu)  # its signal ends the process
    faulthandler.dump_traceback_later(wall, exit=True, file=stacks)

def times():
    return time.process_time(), time.monotonic()

watch()  # the tests are imported, too

@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol():
    began = times()
    watch()
    try:
        return (yield)
    finally:
        slowest[:] = (max(old, now - before) for old, now, before in zip(slowest, times(), began))

def pytest_runtest_logreport(report):
    if report.failed:
        failed.append(report.nodeid)

def pytest_sessionfinish():
    (folder / "slowest").write_text(json.dumps(slowest))
    (folder / "failed").write_text(json.dumps(failed))
'''
"""A plug-in for pytest. Processor time does not depend on what else the machine does; a test that waits for
what never comes uses none, so the time on the wall is limited too."""


class Outcome(enum.StrEnum):
    """What the tests of one stage say of a mutant."""

    PASSED = "passed"
    FAILED = "failed"
    NO_END = "no end"


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds that one test may take: of the processors, and on the wall."""

    cpu: float
    wall: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """What tests say of a mutant; ``test`` is the first that fails, empty if they cannot even be imported."""

    outcome: Outcome
    test: str = ""


_NO_LIMITS = Limits(3600, 3600)


class Tree:
    """Runs tests in a copy of all tracked files, one run at a time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._output = folder.with_suffix(".log")
        self._process: subprocess.Popen[bytes] | None = None
        for name in tracked():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
        (folder / "stopwatch.py").write_text(_STOPWATCH)
        if (kernel := ROOT / "build/guest-kernel").is_dir():
            shutil.copytree(kernel, folder / "build/guest-kernel", symlinks=True)

    def measure(self, tests: Sequence[str]) -> Limits:
        """Limits by what these tests take without a mutant; ends everything if they fail so, and again."""
        verdict = self._verdict(tests, _NO_LIMITS)
        if verdict.outcome is not Outcome.PASSED:
            print(f"failed without a mutant: {self._output.read_text()}", flush=True)
            if self._verdict(tests, _NO_LIMITS).outcome is not Outcome.PASSED:
                sys.exit(f"the tests fail without a mutant: {' '.join(tests)}")
        cpu, wall = json.loads((self._folder / "slowest").read_text())
        return Limits(max(LEAST_CPU, SLACK * cpu), max(LEAST_WALL, SLACK * wall))

    def test(self, mutant: Mutant, tests: Sequence[str], limits: Limits) -> Verdict:
        """What these tests say of ``mutant``. One that fails has to fail twice: it may do so by chance."""
        path = self._folder / mutant.module
        path.write_text(mutant.source)
        try:
            verdict = self._verdict(tests, limits)
            if verdict.test:
                again = self._verdict([verdict.test], limits)
                return verdict if again.outcome is Outcome.FAILED else self._verdict(tests, limits)
            return verdict
        finally:
            path.write_text(text(mutant.module))

    def _verdict(self, tests: Sequence[str], limits: Limits) -> Verdict:
        note = self._folder / "failed"
        note.unlink(missing_ok=True)
        outcome = self._run(tests, limits)
        failed = json.loads(note.read_text()) if outcome is Outcome.FAILED and note.exists() else []
        return Verdict(outcome, failed[0] if failed else "")

    def _run(self, tests: Sequence[str], limits: Limits) -> Outcome:
        with self._started(tests, limits) as process:
            status = process.wait()
        if status in {4, 5, -signal.SIGKILL}:
            sys.exit(f"pytest was killed, or found no tests in {' '.join(tests)}")
        if status == 0:
            return Outcome.PASSED
        took_too_long = status == -signal.SIGPROF or (self._folder / "stacks").stat().st_size
        return Outcome.NO_END if took_too_long else Outcome.FAILED

    @contextlib.contextmanager
    def _started(self, tests: Sequence[str], limits: Limits) -> Iterator[subprocess.Popen[bytes]]:
        """pytest with the ``puller`` of this tree, which comes before the installed one."""
        options = ["-qx", "-p", "no:cacheprovider", "-p", "stopwatch", f"--basetemp={self._folder}.tmp"]
        environment = os.environ | {
            "PYTHONPATH": str(self._folder),
            "PYTHONDONTWRITEBYTECODE": "1",
            "MUTANT_LIMITS": json.dumps([_MEMORY, limits.cpu, limits.wall]),
        }
        with self._output.open("w") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "pytest", *options, *tests],
                cwd=self._folder,
                env=environment,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        try:
            yield self._process
        finally:
            self.end()

    def end(self) -> None:
        """End the tests under way, and what they have left behind."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


def tracked() -> list[str]:
    """All files that git knows."""
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True)
    return [name for name in listing.stdout.split("\0") if name]
