"""Latency of small requests, and throughput by the number of connections."""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from puller.cancelling import CancelScope
from puller.diagnosis.exercise.ground import Ground, numbered
from puller.diagnosis.exercise.large import compare
from puller.diagnosis.exercise.plan import CONNECTIONS, LATENCIES, Plan
from puller.diagnosis.finding import Answer, ok, warn
from puller.store.parallel import each
from puller.units import KIB, MIB

SLOW = 1.0
"""Median seconds of a request that are worth a warning: a backup waits for several dozen of them."""


@dataclass(frozen=True, slots=True)
class Latency:
    """Seconds of one ``operation`` on objects of 4 KiB, one request at a time.

    Attributes:
        operation: ``put``, ``read``, ``lookup`` or ``list``.
        minimum: The shortest.
        median: Half took no longer.
        p99: 99 of 100 took no longer; of fewer than 100, the longest.
    """

    operation: str
    minimum: float
    median: float
    p99: float


@dataclass(frozen=True, slots=True)
class Throughput:
    """Bytes per second with so many ``connections`` at once.

    Attributes:
        connections: The number of connections.
        upload: Bytes put per second.
        download: Bytes read per second.
    """

    connections: int
    upload: float
    download: float


def measure_latency(ground: Ground) -> tuple[Latency, ...]:
    """Time small requests, one after the other. Raises StoreError."""
    store, body = ground.store, os.urandom(4 * KIB)
    keys = numbered(f"{ground.folder}latency/", LATENCIES)
    timed: dict[str, Callable[[str], object]] = {
        "put": lambda key: store.put(key, body),
        "read": lambda key: store.get(key, max_size=len(body)),
        "lookup": store.stat,
        "list": lambda key: next(store.list(f"{ground.folder}latency/"), None),
    }
    return tuple(_latency(name, [_seconds(act, key) for key in keys]) for name, act in timed.items())


def judge_latency(latencies: Sequence[Latency]) -> Answer:
    """Return the answer about the medians."""
    text = ", ".join(f"{found.operation} {found.median * 1000:.1f} ms" for found in latencies)
    if max(found.median for found in latencies) < SLOW:
        return ok(f"median time of small requests: {text}")
    return warn(f"small requests are slow: {text}", "Use a nearer endpoint or a faster connection.")


def _seconds(act: Callable[[str], object], key: str) -> float:
    began = time.perf_counter()
    act(key)
    return time.perf_counter() - began


def _latency(operation: str, seconds: list[float]) -> Latency:
    ordered = sorted(seconds)
    return Latency(
        operation,
        ordered[0],
        statistics.median(ordered),
        ordered[math.ceil(0.99 * len(ordered)) - 1],
    )


def measure_throughput(ground: Ground, plan: Plan) -> Iterator[tuple[Throughput, list[str]]]:
    """Yield the rates for each number of connections, and the result of each read. Raises StoreError."""
    source = memoryview(os.urandom(2 * plan.piece))
    for connections in CONNECTIONS:
        stage = _Stage(ground, plan, source, connections)
        upload = stage.upload()
        download, outcomes = stage.download()
        yield Throughput(connections, upload, download), outcomes


class _Stage:
    """The transfers of one number of connections."""

    def __init__(self, ground: Ground, plan: Plan, source: memoryview, connections: int) -> None:
        self._ground = ground
        self._plan = plan
        self._source = source
        self._connections = connections
        keys = numbered(f"{ground.folder}pieces-{connections:02}/", plan.pieces)
        # No two objects are the same, so that one in place of another is noticed.
        self._bodies = {key: self._body(number) for number, key in enumerate(keys)}
        self._stored: list[str] = []

    def _body(self, number: int) -> memoryview:
        start = (number * 4099 + self._connections) % self._plan.piece
        return self._source[start : start + self._plan.piece]

    def upload(self) -> float:
        """Put objects until the time of the stage is over; return the bytes per second."""

        def put(scope: CancelScope, key: str) -> str:
            self._ground.store.within(scope).put(key, self._bodies[key])
            return key

        began = time.perf_counter()
        self._stored = list(each(self._ground.scope, put, self._timed(self._bodies), self._connections))
        return len(self._stored) * self._plan.piece / (time.perf_counter() - began)

    def download(self) -> tuple[float, list[str]]:
        """Read them again; return the bytes per second, and what came of each read."""

        def read(scope: CancelScope, key: str) -> str:
            return compare(self._ground.store.within(scope), key, self._bodies[key])

        began = time.perf_counter()
        outcomes = list(each(self._ground.scope, read, self._timed(self._stored), self._connections))
        return len(outcomes) * self._plan.piece / (time.perf_counter() - began), outcomes

    def _timed(self, keys: Sequence[str] | dict[str, memoryview]) -> Iterator[str]:
        """Yield the keys while the stage has time, and the first ones in any case."""
        end = time.monotonic() + self._plan.stage_seconds
        for number, key in enumerate(keys):
            if number >= self._connections and time.monotonic() > end:
                return
            yield key


def judge_throughput(rates: Sequence[Throughput]) -> Answer:
    """Return the answer about the best rates."""
    return ok(f"{_best(rates, 'upload')}; {_best(rates, 'download')}")


def _best(rates: Sequence[Throughput], way: str) -> str:
    best = max(rates, key=lambda rate: float(getattr(rate, way)))
    one = float(getattr(rates[0], way)) / MIB
    reached = f"{way}s reach {float(getattr(best, way)) / MIB:.1f} MiB/s with"
    if best.connections == 1:
        return f"{reached} 1 connection, and not more with more"
    return f"{reached} {best.connections} connections ({one:.1f} with 1)"
