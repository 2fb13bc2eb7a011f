"""Fetching of chunks: by the thread that needs them, or ahead by a crew."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import groupby

import numpy as np

from puller.cancelling import CancelScope
from puller.errors import PullerError
from puller.recovery.serving.chunks import ChunkCache, Place
from puller.repository.format.pages import PackTable
from puller.repository.reading.damage import Damage
from puller.repository.reading.image import DiskImage, PackJob
from puller.store.parallel import each
from puller.units import CHUNK

AT_ONCE = 4
"""Packs that are read at once, for one request or by the crew. Each holds a range of some MiB."""

_WAITING = 8
"""Segments that wait for the crew. What does not fit is not fetched ahead."""

_REQUESTS = 12
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
        self._waiting: queue.Queue[Callable[[], None]] = queue.Queue(_WAITING)
        for number in range(AT_ONCE):
            threading.Thread(target=self._run, name=f"ahead-{number}", daemon=True).start()

    def fetch(self, image: DiskImage, wanted: Wanted) -> None:
        """Fetch what this thread needs. All is delivered or abandoned when this returns."""
        if wanted:
            with self._slots:
                self._fetch(image, wanted)

    def ahead(self, image: DiskImage, claim: Callable[[], Wanted]) -> bool:
        """Let the crew fetch what ``claim`` returns, when it comes to that; False if it has enough to do."""

        def work() -> None:
            with suppress(PullerError):  # who needs what cannot be read asks for it again
                self._fetch(image, claim())

        with suppress(queue.Full):
            self._waiting.put_nowait(work)
            return True
        return False

    def _run(self) -> None:
        while not self._scope.cancelled:
            self._waiting.get()()

    def _fetch(self, image: DiskImage, wanted: Wanted) -> None:
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
        for item in image.read(job):
            if isinstance(item, Damage):
                self._cache.deliver(places[item.offset // CHUNK], item)
            else:
                self._cache.deliver(places[item[0] // CHUNK], item[1])
