"""One clock for all stores and hosts of a simulated fleet: it stands still until somebody works or waits."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime, tzinfo
from typing import Any

import pytest

from tests.lab.simulated import World

_DATES = (
    "api.overview",
    "backups.clock",
    "repository.points",
    "upkeep.retention.keep",
    "upkeep.retention.delete",
)
_SECONDS = ("jobs.job", "upkeep.pruning.prune", "upkeep.checking.verification", "repository.writing.run")
_UPTIMES = ("repository.writing.claims", "repository.collecting.lease")


class Clock:
    """The time of all ``worlds``."""

    def __init__(self, worlds: Sequence[World], begin: datetime) -> None:
        self._worlds = worlds
        for world in worlds:
            world.now = begin.timestamp()

    @property
    def seconds(self) -> float:
        return self._worlds[0].now

    @property
    def moment(self) -> datetime:
        return datetime.fromtimestamp(self.seconds, UTC)

    def advance(self, seconds: float) -> None:
        """Let time pass; what is late takes effect meanwhile."""
        for world in self._worlds:
            world.advance(seconds)

    def reach(self, moment: datetime) -> None:
        """Wait until ``moment``, if it is not past."""
        self.advance(max(0.0, moment.timestamp() - self.seconds))

    def rule(self, patch: pytest.MonkeyPatch) -> None:
        """Give puller this time in place of the real one."""
        for module in _DATES:
            patch.setattr(f"puller.{module}.datetime", _Dates(self))
        for module in _SECONDS:
            patch.setattr(f"puller.{module}.time", _Seconds(self))
        for module in _UPTIMES:
            patch.setattr(f"puller.{module}._now", lambda: self.seconds)
        patch.setattr("puller.cancelling.CancelScope.pause", lambda _, seconds: self.advance(seconds))


class _Dates:
    """``datetime``, with another now."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def now(self, zone: tzinfo) -> datetime:
        return datetime.fromtimestamp(self._clock.seconds, zone)

    def __getattr__(self, name: str) -> Any:
        return getattr(datetime, name)


class _Seconds:
    """``time``, with other seconds."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def time(self) -> float:
        return self._clock.seconds

    monotonic = time

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)
