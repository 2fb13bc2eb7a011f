"""An exercise of a store, from its start to the empty folder, and its report."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from puller.diagnosis.exercise import consistency, large, many, races
from puller.diagnosis.exercise.consistency import Named
from puller.diagnosis.exercise.ground import Ground
from puller.diagnosis.exercise.plan import Plan
from puller.diagnosis.exercise.speed import (
    Latency,
    Throughput,
    judge_latency,
    judge_throughput,
    measure_latency,
    measure_throughput,
)
from puller.diagnosis.finding import Answer, Finding, Status, fail, ok, warn
from puller.errors import PullerError, StoreDenied, StoreUnavailable
from puller.store.base import Store

if TYPE_CHECKING:
    from puller.store.s3.bucket import Bucket

NAMES = (
    "exercise",
    *("exercise-read", "exercise-replace", "exercise-list-put", "exercise-delete", "exercise-list-delete"),
    *("exercise-list-long", "exercise-small", "exercise-delete-many", "exercise-races"),
    *("exercise-large", "exercise-ranges", "exercise-tail", "exercise-if-match"),
    *("exercise-latency", "exercise-pieces", "exercise-throughput", "exercise-left"),
)
"""The names of all checks, in their order; ``exercise-if-match`` is for buckets only."""


@dataclass(frozen=True, slots=True)
class ExerciseReport:
    """Result of an exercise of a store.

    Attributes:
        findings: All findings, including those without a fault.
        latencies: Times of small requests, by operation; empty if it did not get that far.
        throughputs: Rates by the number of connections; empty if it did not get that far.
        requests: The number of requests, including repeated ones.
        written: Bytes put.
        read: Bytes read.
        seconds: How long it took.
    """

    findings: tuple[Finding, ...]
    latencies: tuple[Latency, ...] = ()
    throughputs: tuple[Throughput, ...] = ()
    requests: int = 0
    written: int = 0
    read: int = 0
    seconds: float = 0.0


_PRUNING = "Exercise the store with the credentials that prune: they may put and delete under locks/."


def exercise(
    store: Store, bucket: Bucket | None, plan: Plan, tell: Callable[[str], object]
) -> ExerciseReport:
    """Exercise ``store`` under load, in a folder of its own that is always deleted at the end.

    ``bucket`` is that of the store, if it has one. ``tell`` gets the plan before the first request.
    """
    ground = Ground(store, plan.seconds)
    running = _Exercise(ground, bucket, plan)
    tell(f"exercising {store.url} under {ground.folder}: {plan.text}; nothing will be left")
    try:
        with ground:
            running.run()
    except BaseException:
        if ground.left is not None:
            tell(ground.left)
        raise
    return running.report(store.url)


class _Exercise:
    """The running exercise: its answers by name, and its figures."""

    def __init__(self, ground: Ground, bucket: Bucket | None, plan: Plan) -> None:
        self._ground = ground
        self._bucket = bucket
        self._plan = plan
        self._answers: dict[str, Answer] = {}
        self._latencies: tuple[Latency, ...] = ()
        self._throughputs: list[Throughput] = []

    def run(self) -> None:
        """Run the sections; stop after one that makes the others pointless."""
        ground = self._ground
        sections: tuple[tuple[str, Callable[[], Iterator[Named]]], ...] = (
            ("exercise", self._begin),
            ("exercise-read", partial(consistency.examine, ground)),
            ("exercise-list-long", partial(many.examine, ground)),
            ("exercise-races", partial(races.examine, ground)),
            ("exercise-large", partial(large.examine, ground, self._plan, self._bucket)),
            ("exercise-latency", self._time),
            ("exercise-throughput", self._transfer),
        )
        for name, act in sections:
            if not self._run_section(name, act):
                return

    def report(self, url: str) -> ExerciseReport:
        """Return the report, after the ground was cleared."""
        if self._ground.was_used:
            self._answers["exercise-left"] = _left(self._ground, self._bucket, url)
        found = [(name, self._answers[name]) for name in NAMES if name in self._answers]
        return ExerciseReport(
            tuple(Finding(name, url, answer.status, answer.text, answer.advice) for name, answer in found),
            self._latencies,
            tuple(self._throughputs),
            self._ground.requests,
            *self._ground.transferred,
            self._ground.lasted,
        )

    def _run_section(self, name: str, act: Callable[[], Iterator[Named]]) -> bool:
        """Run a section, and return whether to continue."""
        try:
            for found, answer in act():
                self._answers[found] = answer
                if found == "exercise" and answer.status is not Status.OK:
                    return False
        except PullerError as error:
            # What the section has found before it failed is worth more than the failure.
            self._answers["exercise" if name in self._answers else name] = self._failed(error)
            return not isinstance(error, StoreUnavailable) and name != "exercise"
        return True

    def _failed(self, error: PullerError) -> Answer:
        if not (isinstance(error, StoreUnavailable) and self._ground.is_over):
            return fail(error.message, error.advice)
        return warn(
            f"the time of {self._plan.seconds:.0f} s ended before all checks were done",
            "Run it again with a smaller SIZE, or at a time with less load.",
        )

    def _begin(self) -> Iterator[Named]:
        """Refuse before the first put where objects could not be deleted again. Raises StoreError."""
        if retention := _retention(self._bucket):
            yield (
                "exercise",
                warn(
                    f"not tried, because Object Lock would keep its objects ({retention})",
                    "Exercise a bucket of the same server that has no default retention.",
                ),
            )
            return
        try:
            self._ground.sweep()
        except StoreDenied as error:
            yield "exercise", fail(error.message, _PRUNING)
            return
        yield "exercise", ok(f"tried under {self._ground.folder}")

    def _time(self) -> Iterator[Named]:
        self._latencies = measure_latency(self._ground)
        yield "exercise-latency", judge_latency(self._latencies)

    def _transfer(self) -> Iterator[Named]:
        outcomes: list[str] = []
        for rates, read in measure_throughput(self._ground, self._plan):
            self._throughputs.append(rates)
            outcomes += read
            yield "exercise-pieces", large.judge(outcomes, "objects read at once with others")
            yield "exercise-throughput", judge_throughput(self._throughputs)


def _retention(bucket: Bucket | None) -> str | None:
    try:
        return None if bucket is None else bucket.default_retention()
    except StoreUnavailable:
        raise
    except PullerError:  # the server has no such setting, or these credentials may not read it
        return None


def _keeps_versions(bucket: Bucket | None) -> bool:
    try:
        return bucket is not None and bucket.keeps_versions()
    except PullerError:  # the server has no such setting, or these credentials may not read it
        return False


def _left(ground: Ground, bucket: Bucket | None, url: str) -> Answer:
    if ground.left is None and _keeps_versions(bucket):
        return ok("all objects are deleted; the bucket keeps hidden versions of them")
    if ground.left is None:
        return ok("nothing is left behind")
    return fail(ground.left, f"Delete what begins with {ground.folder} in {url}.")
