"""A gate before the disks of a domain: as many reads pass at once as a law allows, which the gate feeds."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

from puller.pipeline.lane import Closed
from puller.pipeline.latency import PROBE, Baseline, ReadLaw

PROBE_EVERY = 5.0
"""Fewest seconds between two probes of the baseline."""

PROBE_SHARE = 0.05
"""Largest share of the time that probes take, however far away the storage is."""


class ReadGate(Protocol):
    """Passed by each read before it is sent, and told how long it took."""

    def enter(self) -> None:
        """Pass with the only read of a reader. Waits for the turn; raises Closed."""
        ...

    def try_enter(self, total: int) -> bool:
        """Pass, if there is room, with one more read of a reader that has ``total`` bytes in flight then.

        It cannot wait here: nobody but itself takes the answers that it waits for.
        """
        ...

    def leave(self, disk: str, length: int, seconds: float | None, *, lone: bool) -> None:
        """Note the answer to a read of ``length`` bytes of ``disk``, ``seconds`` after it was sent.

        ``seconds`` is None if the reader was elsewhere meanwhile, so that nobody knows when the answer came.
        ``lone``: whether it was its reader's only one when it was sent.
        """
        ...

    def drop(self, count: int) -> None:
        """Note that nobody waits for ``count`` reads any more."""
        ...

    def close(self) -> None:
        """Make every current and later ``enter`` raise Closed."""
        ...


class OpenGate:
    """Lets each reader have ``window`` bytes in flight."""

    def __init__(self, window: int) -> None:
        self._window = window

    def enter(self) -> None:
        """See ReadGate."""

    def try_enter(self, total: int) -> bool:
        """See ReadGate."""
        return total <= self._window

    def leave(self, disk: str, length: int, seconds: float | None, *, lone: bool) -> None:
        """See ReadGate."""

    def drop(self, count: int) -> None:
        """See ReadGate."""

    def close(self) -> None:
        """See ReadGate."""


class GentleGate:
    """Lets as many reads of all readers together pass as their latency allows.

    A reader has at most ``window`` bytes in flight. ``clock`` returns seconds.
    """

    def __init__(self, window: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._window = window
        self._clock = clock
        self._law = ReadLaw()
        self._baselines: dict[tuple[str, int], Baseline] = {}
        self._flying = 0
        self._probing = PROBE
        self._probe_began = clock()
        self._next_probe = 0.0
        self._closed = False
        self._waiting: deque[object] = deque()
        self._changed = threading.Condition()

    @property
    def limit(self) -> int:
        """Reads that may be in flight at present: one while the baseline is probed."""
        return 1 if self._probing else self._law.limit

    def enter(self) -> None:
        """See ReadGate. Readers pass in turn, as a thread that wakes up is later than one that runs."""
        turn = object()
        with self._changed:
            self._waiting.append(turn)
            try:
                while (self._flying >= self.limit or self._waiting[0] is not turn) and not self._closed:
                    self._changed.wait()
                if self._closed:
                    raise Closed
                self._flying += 1
            finally:
                self._waiting.remove(turn)
                self._changed.notify_all()

    def try_enter(self, total: int) -> bool:
        """See ReadGate."""
        with self._changed:
            admitted = total <= self._window and self._flying < self.limit and not self._waiting
            self._flying += admitted
            return admitted

    def leave(self, disk: str, length: int, seconds: float | None, *, lone: bool) -> None:
        """See ReadGate."""
        with self._changed:
            self._flying -= 1
            if self._probing:
                self._probe(disk, length, seconds, lone=lone)
            else:
                self._observe(disk, length, seconds, lone=lone)
            self._probe_in_time()
            self._changed.notify_all()

    def drop(self, count: int) -> None:
        """See ReadGate."""
        with self._changed:
            self._flying -= count
            self._changed.notify_all()

    def close(self) -> None:
        """See ReadGate."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _probe(self, disk: str, length: int, seconds: float | None, *, lone: bool) -> None:
        """The law learns nothing from reads that are alone because of the probe."""
        if lone and seconds is not None:
            self._note(disk, length, seconds)
            self._probing -= 1
            now = self._clock()
            self._next_probe = now + max(PROBE_EVERY, (now - self._probe_began) / PROBE_SHARE)

    def _observe(self, disk: str, length: int, seconds: float | None, *, lone: bool) -> None:
        if seconds is None:
            self._law = self._law.observe(None)
            return
        if lone and self._law.limit == 1:
            self._note(disk, length, seconds)
        excess = self._baseline(disk, length).excess(seconds)
        if excess is not None:
            self._law = self._law.observe(excess)

    def _baseline(self, disk: str, length: int) -> Baseline:
        """Return the baseline of reads of about this length: a large one takes longer than a small one.

        Each disk may be on another storage.
        """
        return self._baselines.get((disk, length.bit_length()), Baseline())

    def _note(self, disk: str, length: int, seconds: float) -> None:
        self._baselines[disk, length.bit_length()] = self._baseline(disk, length).note(seconds)

    def _probe_in_time(self) -> None:
        if self._probing or (now := self._clock()) < self._next_probe:
            return
        self._probe_began, self._probing = now, PROBE
        self._baselines = {kind: baseline.renew() for kind, baseline in self._baselines.items()}
