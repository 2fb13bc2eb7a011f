"""The exit code of a job, which its command 'after' gets, is that of ``puller run``."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

import puller
from puller.cli.commands.run import _failure
from puller.cli.signals import Stopped

POINT = puller.Point(
    "20261123T000000Z-00000000", "web1", "", datetime(2026, 11, 23, tzinfo=UTC), "pull", "full", ()
)
SIGNAL = Stopped(15)
FAILED = ("db1", puller.HypervisorError("away"))
DAMAGED = puller.CheckReport(1, 1, 1, (puller.CheckError("a hole"),))
LOCKED = ("prune", puller.Locked("another"))

REPORTS = {
    "all well": (0, puller.JobReport("j", puller.Taken([POINT]))),
    "one of two domains": (3, puller.JobReport("j", puller.Taken([POINT], [FAILED]))),
    "no domain": (15, puller.JobReport("j", puller.Taken([], [FAILED, ("web1", puller.Locked("x"))]))),
    "a job left open": (
        17,
        puller.JobReport("j", puller.Taken([POINT], left=[("web1", puller.JobLeftOpen("stuck"))])),
    ),
    "prune": (11, puller.JobReport("j", puller.Taken([POINT]), failures=[LOCKED])),
    "damage": (13, puller.JobReport("j", puller.Taken([POINT]), check=DAMAGED)),
    "prune and damage": (3, puller.JobReport("j", puller.Taken([POINT]), check=DAMAGED, failures=[LOCKED])),
    "damage, and nothing stored": (
        13,
        puller.JobReport("j", puller.Taken([], [FAILED]), check=DAMAGED, failures=[LOCKED]),
    ),
    "before": (
        1,
        puller.JobReport("j", failures=[("after", OSError()), ("before", puller.CommandFailed("no"))]),
    ),
    "a bug": (1, puller.JobReport("j", puller.Taken([], [("web1", KeyError())]))),
    "a signal": (130, puller.JobReport("j", puller.Taken([POINT], [FAILED], SIGNAL), interruption=SIGNAL)),
    "a signal in a thread": (
        130,
        puller.JobReport("j", puller.Taken([POINT], [("db1", puller.Interrupted("stopped by a signal"))])),
    ),
}


@pytest.mark.parametrize("name", REPORTS)
def test_the_exit_code_is_that_of_the_command(name: str) -> None:
    code, report = REPORTS[name]
    assert report.exit_code == code
    assert getattr(_failure(report), "exit_code", 0) == code
