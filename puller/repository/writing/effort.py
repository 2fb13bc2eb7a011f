"""Compression level of a run: fixed, or adapted to the bottleneck."""

from __future__ import annotations

import time
from collections.abc import Callable

LOWEST, HIGHEST = 1, 19

LADDER = (1, 3, 4, 5, 6, 10)
"""Levels that AutoLevel uses: higher ones cost far more than they save."""

UP, DOWN = 0.10, 0.01
"""Shares of its time that a run waits for the store, above and below which the level changes.

Far apart, so that a level that fits is kept."""


class Effort:
    """Provides the compression ``level``: here a fixed one."""

    def __init__(self, level: int) -> None:
        self.level = level

    def pack_began(self, waited: float) -> None:
        """Note a new pack, begun after waiting ``waited`` seconds for a buffer that was being uploaded."""

    def summary(self) -> str | None:
        """Return a summary at the end, if there is one."""
        return None


class AutoLevel(Effort):
    """Raises the level while the store is the bottleneck, and lowers it again otherwise.

    Many threads read the level, one at a time updates it. ``clock`` returns seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began: float | None = None
        self._packs = [0] * len(LADDER)
        self._rung = 0
        super().__init__(LADDER[0])

    def pack_began(self, waited: float) -> None:
        """See Effort. The share of ``waited`` in the time since the last pack decides."""
        now = self._clock()
        if self._began is not None and now > self._began:
            share = waited / (now - self._began)
            step = (share > UP) - (share < DOWN)
            self._rung = min(max(self._rung + step, 0), len(LADDER) - 1)
        self._began = now
        self._packs[self._rung] += 1
        self.level = LADDER[self._rung]

    def summary(self) -> str | None:
        """Return the number of packs by level, unless all had the lowest."""
        if sum(self._packs[1:]) == 0:
            return None
        used = [f"{count} at {level}" for level, count in zip(LADDER, self._packs, strict=True) if count]
        return f"the store was slower than compression, so levels were raised: {', '.join(used)} (packs)"
