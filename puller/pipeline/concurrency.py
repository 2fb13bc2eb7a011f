"""The number of simultaneous transfers that fits the network: a control law that is fed with samples.

::

    rate
     │            ·───·───·      more connections bring no more: back to the fewest that brought this much
     │        ·
     │    ·                      each further connection brings its share: twice as many
     └────────────────────────
          2   4   8   16

It knows neither clocks nor threads, so tests can feed it any samples. docs/architecture.md, "Concurrency that
fits the network", explains it.
"""

from __future__ import annotations

from dataclasses import dataclass

FAR_AWAY = 0.03
"""A store whose fastest answer takes this many seconds is distant, and needs more transfers at first."""

GAIN = 0.4
"""Share of a proportional gain that justifies more transfers at once."""

LOSS = 0.1
"""Share of the rate that fewer transfers at once may cost."""

CALM = 2
"""Consecutive samples without demand after which the number falls."""

LONGEST_REST = 32
"""Most samples between two trials: the network may change."""


@dataclass(frozen=True, slots=True)
class Sample:
    """``moved`` bytes in ``seconds``; ``demand``: whether work waited for a transfer to end."""

    seconds: float
    moved: int
    demand: bool

    @property
    def rate(self) -> float:
        """Bytes per second."""
        return self.moved / self.seconds if self.seconds > 0 else 0.0


@dataclass(frozen=True, slots=True)
class _Trial:
    """The number and the rate before a trial."""

    limit: int
    rate: float


class Concurrency:
    """``limit`` transfers at once: at least ``least``, at most ``most``, at first ``first``.

    While work waits, it tries twice as many, and keeps that number if the rate grows enough. Otherwise it
    goes back, and tries a few less, which it keeps if they are about as fast. It pauses between trials,
    longer after each failed one. If no work waits, the limit falls.
    """

    def __init__(self, least: int, most: int, first: int) -> None:
        if not 1 <= least <= first <= most:
            raise ValueError(f"not a range of transfers: {least} to {most} from {first}")
        self.least = least
        self.most = most
        self.limit = first
        self._trial: _Trial | None = None
        self._calm = 0
        self._rest = 0
        self._pause = 1
        self._upwards = True

    @classmethod
    def fixed(cls, count: int) -> Concurrency:
        """Return a law that never changes its limit."""
        return cls(count, count, count)

    def observe(self, sample: Sample) -> int:
        """Return the limit after ``sample``, which was taken since the last change."""
        if not sample.demand:
            self._note_calm()
        elif self._trial is not None:
            self._calm = 0
            self._judge(self._trial, sample.rate)
        else:
            self._calm = 0
            self._consider(sample.rate)
        return self.limit

    def _note_calm(self) -> None:
        self._trial = None
        self._calm += 1
        if self._calm >= CALM:
            self._calm = 0
            self.limit = max(self.least, self.limit - max(1, self.limit // 4))

    def _consider(self, rate: float) -> None:
        if self._rest > 0:
            self._rest -= 1
        else:
            self._try(rate)

    def _try(self, rate: float) -> None:
        """Begin a trial in the direction that is due, or in the other one at an end of the range."""
        up, down = min(self.most, self.limit * 2), max(self.least, self.limit * 3 // 4)
        chosen = up if (self._upwards and up > self.limit) or down == self.limit else down
        if chosen != self.limit:
            self._trial = _Trial(self.limit, rate)
            self.limit = chosen

    def _judge(self, before: _Trial, rate: float) -> None:
        self._trial = None
        up = self.limit > before.limit
        needed = 1 + GAIN * (self.limit / before.limit - 1) if up else 1 - LOSS
        if rate >= needed * before.rate:
            self._pause = 1
            self._upwards = up
            self._try(rate)
            return
        self.limit = before.limit
        self._upwards = not up
        self._rest = self._pause
        self._pause = min(2 * self._pause, LONGEST_REST)
