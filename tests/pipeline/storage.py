"""A storage of arithmetic, with a clock of its own, and those who use it: a backup and a guest."""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable
from functools import partial
from itertools import count

from puller.pipeline.latency import MOST_READS
from puller.pipeline.readgate import ReadGate
from puller.units import KIB

READ = 512 * KIB


class Storage:
    """Serves ``parallel`` requests at once, the others in the order in which they came."""

    def __init__(self, parallel: int) -> None:
        self.now = 0.0
        self._free = parallel
        self._queue: deque[tuple[float, Callable[[], None]]] = deque()
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = count()
        self._random = random.Random(1)

    def clock(self) -> float:
        return self.now

    def after(self, seconds: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now + seconds, next(self._numbers), what))

    def serve(self, seconds: float, done: Callable[[], None]) -> None:
        """Call ``done`` once a request is served that takes about so many ``seconds`` alone."""
        self._queue.append((seconds * self._random.uniform(0.8, 1.2), done))
        self._start()

    def _start(self) -> None:
        while self._free and self._queue:
            seconds, done = self._queue.popleft()
            self._free -= 1
            self.after(seconds, partial(self._end, done))

    def _end(self, done: Callable[[], None]) -> None:
        self._free += 1
        self._start()
        done()

    def run(self, until: float) -> None:
        while self._events and self._events[0][0] <= until:
            self.now, _, what = heapq.heappop(self._events)
            what()
        self.now = until


class Backup:
    """Reads as ``puller.nbd.reader`` does, each read in ``seconds`` if it is alone."""

    def __init__(self, storage: Storage, gate: ReadGate, seconds: float) -> None:
        self.seconds = seconds
        self.read = 0
        self._storage = storage
        self._gate = gate
        self._flying = 0
        self._go_on()

    def _go_on(self) -> None:
        while self._may_send():
            lone, sent = not self._flying, self._storage.now
            self._flying += 1
            self._storage.serve(self.seconds, partial(self._answer, sent, lone))

    def _may_send(self) -> bool:
        if self._flying:
            return self._flying < MOST_READS and self._gate.try_enter((self._flying + 1) * READ)
        self._gate.enter()
        return True

    def _answer(self, sent: float, lone: bool) -> None:
        self._flying -= 1
        self.read += 1
        self._gate.leave("vda", READ, self._storage.now - sent, lone=lone)
        self._go_on()

    def rate(self, seconds: float) -> float:
        """Reads per second during the next ``seconds``."""
        before = self.read
        self._storage.run(self._storage.now + seconds)
        return (self.read - before) / seconds


class Guest:
    """Writes again ``pause`` seconds after each answer, one write at a time."""

    def __init__(self, storage: Storage, seconds: float, pause: float) -> None:
        self.latencies: list[float] = []
        self._storage = storage
        self._seconds = seconds
        self._pause = pause
        self._ended = False
        self._write()

    def _write(self) -> None:
        sent = self._storage.now
        self._storage.serve(self._seconds, lambda: self._answer(sent))

    def _answer(self, sent: float) -> None:
        self.latencies.append(self._storage.now - sent)
        if not self._ended:
            self._storage.after(self._pause, self._write)

    def end(self) -> None:
        self._ended = True
