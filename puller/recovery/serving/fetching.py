"""Fetching of chunks: by the thread that needs them, or ahead by a crew."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress
from itertools import groupby, islice

import numpy as np

from puller.cancelling import CancelScope
from puller.recovery.serving.chunks import ChunkCache, Content, Place
from puller.repository.format.pages import PackTable
from puller.repository.reading.damage import Damage
from puller.repository.reading.image import DiskImage, PackJob
from puller.store.parallel import each
from puller.units import CHUNK

AT_ONCE = 4
"""Packs that are read at once for one request."""

_CREW = 6
"""Threads that fetch ahead: so many segments are under way, which a store far away needs."""

_TOGETHER = 16
"""Chunks that are delivered at once."""

_WAITING = 8
"""Segments that wait for the crew. What does not fit is not fetched ahead."""

_REQUESTS = 8
"""Threads that fetch for requests at the same time. With the crew they use all connections to the store."""

Wanted = dict[Place, int]
"""The chunks to fetch, by the places that were claimed for them."""


class Fetcher:
    """Fetches into ``cache`` what was claimed in it. Safe for many threads."""

    def __init__(self, cache: ChunkCache, table: PackTable, scope: CancelScope) -> None:
        self._cache = cache
        self._table = table
        self._scope = scope
        self._slots = threading.BoundedSemaphore(_REQUESTS)
        self._waiting: queue.Queue[tuple[DiskImage, Wanted]] = queue.Queue(_WAITING)
        for number in range(_CREW):
            threading.Thread(target=self._run, name=f"ahead-{number}", daemon=True).start()

    def fetch(self, image: DiskImage, wanted: Wanted) -> None:
        """Fetch what this thread needs. All is delivered or abandoned when this returns."""
        with self._slots:
            self._fetch(image, wanted)

    @property
    def has_room(self) -> bool:
        """Whether the crew can take more; another thread may be quicker."""
        return not self._waiting.full()

    def ahead(self, image: DiskImage, wanted: Wanted) -> bool:
        """Let the crew fetch it; False if that has enough to do."""
        with suppress(queue.Full):
            self._waiting.put_nowait((image, wanted))
            return True
        return False

    def _run(self) -> None:
        while (
            True
        ):  # even once the scope is cancelled: readers wait for what is in the queue, and have to hear
            image, wanted = self._waiting.get()
            with suppress(Exception):  # who waits for it hears of it
                self._fetch(image, wanted)

    def _fetch(self, image: DiskImage, wanted: Wanted) -> None:
        if not wanted:
            return
        jobs = list(self._jobs(wanted))

        def read(scope: CancelScope, job: PackJob) -> None:
            self._read(image.within(scope), job, wanted)

        try:
            if len(jobs) == 1:
                self._read(image, jobs[0], wanted)
            else:
                for _ in each(image.scope, read, jobs, AT_ONCE):
                    pass
        except BaseException as error:
            self._cache.abandon(wanted, error)
            raise

    def _jobs(self, wanted: Wanted) -> Iterable[PackJob]:
        ordered = sorted(wanted.items())
        for number, members in groupby(ordered, key=lambda item: item[0].pack):
            found = list(members)
            chunks = np.array([chunk for _, chunk in found], np.int64)
            slots = np.array([place.slot for place, _ in found], np.uint16)
            yield PackJob(self._table.pack_id(number), chunks, slots)

    def _read(self, image: DiskImage, job: PackJob, wanted: Wanted) -> None:
        places = {chunk: place for place, chunk in wanted.items()}
        read = iter(image.read(job))
        while found := list(islice(read, _TOGETHER)):
            self._cache.deliver(dict(_by_place(item, places) for item in found))


def _by_place(item: tuple[int, bytes] | Damage, places: Mapping[int, Place]) -> tuple[Place, Content]:
    if isinstance(item, Damage):
        return places[item.offset // CHUNK], item
    return places[item[0] // CHUNK], item[1]
