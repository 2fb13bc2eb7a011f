"""The reads in flight that leave a disk's storage to its guest: a control law that is fed with latencies.

::

    latency
      │                 ·         above one and a half baselines: fewer reads
  1.5×│- - - - - - -·- - -
      │         ·                 below: more
      │·  ·  ·                    the baseline: a read while no other is in flight
      └────────────────────
       1  2  4  8  16   reads in flight

It knows neither clocks nor threads, so tests feed it as they like. docs/architecture.md, "Reads that leave
the storage to the guest", explains it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from statistics import median

MOST_READS = 16
"""Most reads in flight: QEMU serves as many requests of a connection at once (MAX_NBD_REQUESTS)."""

SLACK = 0.001
"""Seconds of additional latency that never count as too much: waking up takes as long."""

PROBE = 5
"""Reads of a probe, one in flight at a time, of which the median counts."""

_PROBES = 12
"""Probes that the baseline remembers."""

BEARABLE = 0.5
"""Excess that the law aims at: a guest waits half a read longer than beside a single one."""

_GAIN = 0.5
"""Reads by which the limit grows in a round of reads that are as fast as a lone one."""

_ROUND = 8
"""Fewest reads between two changes of the limit."""

_LARGEST_CUT = 0.5
"""Largest share of the limit that one round takes away."""

_SPARE_CUT = 0.25
"""Share of the limit that goes in a round in which the codecs, not the storage, made the reads wait."""


@dataclass(frozen=True, slots=True)
class Baseline:
    """The latency of reads of one size and disk when no other read is in flight, in seconds.

    The least of the last probes' medians, so that a guest that is busy for a while does not count as slow
    storage, while a storage that gets slower for good counts as such after some probes.
    """

    medians: tuple[float, ...] = ()
    fresh: tuple[float, ...] = ()

    @property
    def seconds(self) -> float | None:
        """The baseline; None before the first probe is complete."""
        return min(self.medians, default=None)

    def note(self, seconds: float) -> Baseline:
        """Add a read that was in flight alone; a probe takes no more than it needs."""
        if len(self.fresh) == PROBE:
            return self
        fresh = (*self.fresh, seconds)
        if len(fresh) < PROBE:
            return replace(self, fresh=fresh)
        return Baseline((*self.medians, median(fresh))[-_PROBES:], fresh)

    def renew(self) -> Baseline:
        """Begin the next probe; one that has too few reads yet goes on, as its disk shares the gate."""
        return replace(self, fresh=()) if len(self.fresh) == PROBE else self

    def excess(self, seconds: float) -> float | None:
        """How much longer than the baseline a read took, in baselines, 1 being twice as long."""
        if self.seconds is None:
            return None
        return max(0.0, seconds - self.seconds) / max(self.seconds, SLACK)


@dataclass(frozen=True, slots=True)
class ReadLaw:
    """How many reads may be in flight, by the latencies of a round of them.

    The limit grows while their median is below one and a half baselines, the slower the nearer; above, up to
    half of it goes. A limit that the codecs do not let the readers use falls too, since nothing is known
    about it.
    """

    level: float = 1.0
    round: tuple[float | None, ...] = ()

    @property
    def limit(self) -> int:
        """Reads that may be in flight, at least one."""
        return int(self.level)

    def observe(self, excess: float | None) -> ReadLaw:
        """Take in one read; ``excess`` as of its baseline, None if its reader waited for the codecs."""
        seen = (*self.round, excess)
        if len(seen) < max(_ROUND, self.limit):
            return replace(self, round=seen)
        return ReadLaw(min(float(MOST_READS), max(1.0, self.level + self._change(seen))))

    def _change(self, seen: tuple[float | None, ...]) -> float:
        measured = [excess for excess in seen if excess is not None]
        if 2 * len(measured) < len(seen):
            return -_SPARE_CUT * self.level
        excess = median(measured)
        if excess <= BEARABLE:
            return _GAIN * (1 - excess / BEARABLE)
        return -self.level * min(_LARGEST_CUT, (excess - BEARABLE) / 2)
