"""What puller has to reach, and whether it does: medians over the rounds of ratios within a round."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from benchmarks.impact import GENTLE, SCENES
from benchmarks.impact import VIRTNBDBACKUP as BESIDE
from benchmarks.results import Results, Round, Spread, percentile, spread
from benchmarks.works import (
    FULL_FOLDER,
    FULL_S3,
    GETS,
    INCREMENTAL,
    PULLER,
    RCLONE,
    RESTORE,
    VIRTNBDBACKUP,
    VIRTNBDRESTORE,
    ZSTD,
    ZSTD_RCAT,
)
from puller.units import MIB

Found = Callable[[Round], float]
RESTORE_FOLDER = RESTORE.format(place="a directory", format="raw")
RESTORE_QCOW2 = RESTORE.format(place="a directory", format="qcow2")
RESTORE_S3 = RESTORE.format(place="S3", format="raw")
UNCHANGED = INCREMENTAL.format(change="nothing changed") + ", to a directory"
FEW = INCREMENTAL.format(change="100 scattered chunks")


@dataclass(frozen=True, slots=True)
class Target:
    """``found`` raises KeyError where a round does not have what it needs. ``unit`` follows figures."""

    work: str
    against: str
    bound: float
    found: Found
    unit: str = " times"
    at_most: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """A target and what came of it."""

    target: Target
    rounds: tuple[float, ...]

    @property
    def spread(self) -> Spread:
        """Median and extremes over the rounds."""
        found = spread(self.rounds)
        assert found is not None
        return found

    @property
    def reached(self) -> bool:
        """Whether the median is good enough."""
        value, bound = self.spread.median, self.target.bound
        return value <= bound if self.target.at_most else value >= bound


def verdicts(results: Results) -> Iterator[Verdict]:
    """Of the targets that the run has figures for."""
    for target in TARGETS:
        if found := tuple(_found(target, results)):
            yield Verdict(target, found)


def _found(target: Target, results: Results) -> Iterator[float]:
    for round_ in results.rounds:
        try:
            yield target.found(round_)
        except KeyError:
            continue


def _wall(round_: Round, work: str, contestant: str) -> float:
    return round_.costs[work][contestant].wall


def _faster(work: str, contestant: str, round_: Round) -> float:
    return _wall(round_, work, contestant) / _wall(round_, work, PULLER)


def _cpu_ratio(round_: Round) -> float:
    costs = round_.costs[FULL_FOLDER]
    own, theirs = costs[PULLER], costs[ZSTD]
    return (own.cpu + own.qemu) / (theirs.cpu + theirs.qemu)


def _over_steps(round_: Round) -> float:
    """CPU-seconds of a full, over those of its steps alone."""
    if round_.roofline is None:
        raise KeyError("roofline")
    cost = round_.costs[FULL_FOLDER][PULLER]
    return (cost.cpu + cost.qemu) / (sum(round_.roofline.steps.values()) + round_.roofline.to_folder)


def _slower_than_raw(round_: Round) -> float:
    return _wall(round_, RESTORE_QCOW2, PULLER) / _wall(round_, RESTORE_FOLDER, PULLER)


def _through_rclone(round_: Round) -> float:
    theirs = _wall(round_, FULL_FOLDER, VIRTNBDBACKUP) + _wall(round_, FULL_S3, RCLONE)
    return theirs / _wall(round_, FULL_S3, PULLER)


def _efficiency(work: str, place: str, round_: Round) -> float:
    if round_.roofline is None:
        raise KeyError("roofline")
    return round_.roofline.wall(place) / _wall(round_, work, PULLER) * 100


def _size(round_: Round) -> float:
    costs = round_.costs[FULL_FOLDER]
    return (costs[PULLER].stored / costs[ZSTD].stored - 1) * 100


def _get_rate(round_: Round) -> float:
    return _wall(round_, RESTORE_S3, GETS) / _wall(round_, RESTORE_S3, PULLER) * 100


def _peak(round_: Round) -> float:
    if not round_.costs:
        raise KeyError("costs")
    return max(costs[PULLER].peak for costs in round_.costs.values()) / MIB


def _felt(round_: Round) -> float:
    """The guest's slowest writes beside puller, over those beside virtnbdbackup."""
    found = round_.impact[SCENES[0].name]
    ours, theirs = (percentile(found[phase].requests, 99) for phase in (GENTLE, BESIDE))
    return ours / theirs


def _longer(round_: Round) -> float:
    found = round_.impact[SCENES[0].name]
    return found[GENTLE].wall / found[BESIDE].wall


TARGETS = (
    Target(FULL_FOLDER, VIRTNBDBACKUP, 2.8, partial(_faster, FULL_FOLDER, VIRTNBDBACKUP)),
    Target(FULL_FOLDER, ZSTD, 1.7, partial(_faster, FULL_FOLDER, ZSTD)),
    Target("CPU-s of that, with QEMU's", ZSTD, 0.60, _cpu_ratio, at_most=True),
    Target("CPU-s of that, with QEMU's", "the steps alone", 1.20, _over_steps, at_most=True),
    Target(FULL_FOLDER, "roofline", 85, partial(_efficiency, FULL_FOLDER, "folder"), " %"),
    Target(FULL_S3, ZSTD_RCAT, 2, partial(_faster, FULL_S3, ZSTD_RCAT)),
    Target(FULL_S3, "virtnbdbackup, then rclone copy", 3.5, _through_rclone),
    Target("stored bytes of a full", "the stream of zstd -1", 10, _size, " % more", at_most=True),
    Target(UNCHANGED, VIRTNBDBACKUP, 2, partial(_faster, UNCHANGED, VIRTNBDBACKUP)),
    Target(FEW, "virtnbdbackup, to a directory", 1, partial(_faster, FEW, VIRTNBDBACKUP)),
    Target(RESTORE_FOLDER, VIRTNBDRESTORE, 3, partial(_faster, RESTORE_FOLDER, VIRTNBDRESTORE)),
    Target(RESTORE_QCOW2, VIRTNBDRESTORE, 3, partial(_faster, RESTORE_QCOW2, VIRTNBDRESTORE)),
    Target(RESTORE_QCOW2, "the same to raw", 1.15, _slower_than_raw, at_most=True),
    Target(RESTORE_S3, "the server's own GET rate", 80, _get_rate, " %"),
    Target("99th percentile of a guest's writes", "beside virtnbdbackup", 1, _felt, at_most=True),
    Target("time of that backup", "virtnbdbackup", 1, _longer, at_most=True),
    Target("peak memory of any of these", "", 256, _peak, " MiB", at_most=True),
)
