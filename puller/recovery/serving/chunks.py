"""Decrypted chunks in bounded memory, each fetched by one thread at a time."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import NamedTuple

from puller.repository.reading.damage import Damage


class Place(NamedTuple):
    """Where a chunk is stored, by the number of its pack; ``length`` because a disk's last chunk is cut."""

    pack: int
    slot: int
    length: int


Content = bytes | Damage


@dataclass(frozen=True, slots=True)
class Claim:
    """``found`` is in memory, ``awaited`` is fetched by other threads, ``mine`` is for the caller to fetch.

    Each of ``mine`` has to be passed to ``deliver`` or ``abandon``: other threads may wait for it by then.
    """

    found: dict[Place, bytes]
    awaited: dict[Place, Future[Content]]
    mine: dict[Place, Future[Content]]


class ChunkCache:
    """The chunks that were fetched last, up to ``capacity`` bytes. Safe for many threads.

    Reads do not renew a chunk: what a sequential reader has read would else outlive what is fetched ahead.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._kept: OrderedDict[Place, bytes] = OrderedDict()
        self._pending: dict[Place, Future[Content]] = {}
        self._memory = 0
        self._lock = threading.Lock()

    def claim(self, places: Iterable[Place]) -> Claim:
        """Say of each place who has it. Those that nobody has become the caller's."""
        claim = Claim({}, {}, {})
        with self._lock:
            for place in places:
                self._claim(place, claim)
        return claim

    def _claim(self, place: Place, claim: Claim) -> None:
        content = self._kept.get(place)
        if content is not None:
            claim.found[place] = content
        elif place in claim.mine:
            return
        elif place in self._pending:
            claim.awaited[place] = self._pending[place]
        else:
            self._pending[place] = claim.mine[place] = Future()

    def deliver(self, contents: Mapping[Place, Content]) -> None:
        """Hand the contents to all that wait for them, and keep them. Damage is not kept: it may be repaired.

        Several at a time, since each time wakes those that wait. It may be late: a thread whose request has
        failed can still bring what was abandoned, and what another thread has claimed since.
        """
        with self._lock:
            futures = [
                (self._pending.pop(place), content)
                for place, content in contents.items()
                if place in self._pending
            ]
            for place, content in contents.items():
                if isinstance(content, bytes) and place not in self._kept:
                    self._keep(place, content)
        for future, content in futures:
            future.set_result(content)

    def abandon(self, places: Iterable[Place], error: BaseException) -> None:
        """Fail all that wait for those of the places that were not delivered."""
        with self._lock:
            futures = [self._pending.pop(place) for place in places if place in self._pending]
        for future in futures:
            future.set_exception(error)

    def _keep(self, place: Place, content: bytes) -> None:
        self._kept[place] = content
        self._memory += len(content)
        while self._memory > self.capacity:
            _, dropped = self._kept.popitem(last=False)
            self._memory -= len(dropped)
