"""Schedule of a check: the packs that it reads, their order, and the end of its budget."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import takewhile

from puller.errors import UsageError
from puller.units import GIB

HOUR = 3600.0
"""Packs that were verified within one hour count as equally old: each check then has its own order."""

BATCH = 8 * GIB
"""Bytes after which a check records its progress and reads that of others: a minute or two."""

BATCH_PACKS = 2048
"""The same for small packs."""


@dataclass(frozen=True, slots=True)
class Reading:
    """The stored data that a check reads.

    ``percent`` selects the least recently verified packs, by size; ``max_age`` omits packs that were verified
    more recently; ``budget``, a time or a number of bytes, ends the reading. Without any, nothing is read.
    """

    percent: float = 0.0
    max_age: timedelta | None = None
    budget: timedelta | int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.percent <= 100:
            raise UsageError(f"invalid percentage {self.percent}: use a number from 0 to 100")
        if self.max_age is not None and self.max_age < timedelta(0):
            raise UsageError("the maximum age cannot be negative")
        amount = self.budget.total_seconds() if isinstance(self.budget, timedelta) else self.budget
        if amount is not None and amount <= 0:
            raise UsageError("the budget of a check must be greater than zero")

    @property
    def is_selective(self) -> bool:
        """Whether packs that are not read are not opened either."""
        return self.max_age is not None or self.budget is not None

    @property
    def reads(self) -> bool:
        """Whether the check reads any data."""
        return self.percent > 0 or self.is_selective


@dataclass(frozen=True, slots=True)
class Candidate:
    """A pack that could be read: ``size`` in bytes, ``verified`` by the store's clock, None if never."""

    pack_id: bytes
    size: int
    verified: float | None

    @property
    def age_order(self) -> tuple[float, bytes]:
        """Return the sort key that puts the oldest verification, or none, first."""
        return (-1.0 if self.verified is None else self.verified), self.pack_id


def due(candidates: Iterable[Candidate], reading: Reading, now: float) -> list[Candidate]:
    """Return the packs to read, the least recently verified first. ``now`` is the store's time."""
    ordered = sorted(candidates, key=lambda candidate: candidate.age_order)
    if reading.max_age is not None:
        limit = now - reading.max_age.total_seconds()
        ordered = [item for item in ordered if item.verified is None or item.verified <= limit]
    if reading.percent:
        ordered = list(_first(ordered, sum(item.size for item in ordered) * reading.percent / 100))
    return ordered


def _first(ordered: Sequence[Candidate], size: float) -> Iterator[Candidate]:
    """Yield candidates of at least ``size`` bytes together: four checks of a quarter read everything."""
    total = 0
    for candidate in ordered:
        if total and total >= size:
            return
        total += candidate.size
        yield candidate


def shuffled(ordered: Iterable[Candidate], chance: Callable[[], float]) -> list[Candidate]:
    """Return the candidates, those verified within one hour in an order of this check's own.

    So two checks at once begin at different places, and each finds what the other has recorded.
    """
    return sorted(ordered, key=lambda item: (item.age_order[0] // HOUR, chance()))


def batch(queue: Sequence[Candidate]) -> list[Candidate]:
    """Return the packs to read before the next record is written."""
    return list(_first(queue[:BATCH_PACKS], BATCH))


class Allowance:
    """The rest of the budget of a ``reading``, at least enough for one pack. ``clock`` returns seconds."""

    def __init__(self, reading: Reading, clock: Callable[[], float] = time.monotonic) -> None:
        budget = reading.budget
        self.reading = reading
        self._clock = clock
        self._end = clock() + budget.total_seconds() if isinstance(budget, timedelta) else None
        self._bytes = budget if isinstance(budget, int) else None
        self._spent = 0

    def take(self, candidates: Iterable[Candidate]) -> Iterator[Candidate]:
        """Yield candidates, each checked against the rest of the budget at the time of its request."""
        for candidate in takewhile(lambda _: not self.is_spent, candidates):
            self._spent += candidate.size
            yield candidate

    def at_most(self, queue: Sequence[Candidate]) -> int:
        """Return how many packs of the queue the budget allows. A time may allow all of them."""
        return len(queue if self._bytes is None else list(_first(queue, self._bytes)))

    @property
    def is_spent(self) -> bool:
        """Whether the budget is used up."""
        if not self._spent:
            return False
        if self._bytes is not None:
            return self._spent >= self._bytes
        return self._end is not None and self._clock() >= self._end
