"""Packs that the workers of a fleet examine for one check."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice

from puller.errors import StoreError
from puller.events import Observer, ignore
from puller.fleet.driver import Driver
from puller.fleet.engine import Engine, Work
from puller.fleet.task import Answer, PacksTask, Place
from puller.repository.collecting.reach import SlotSet
from puller.repository.points import Point
from puller.repository.records.verified import VerifiedPack
from puller.repository.repository import Repository
from puller.upkeep.checking.check import CheckReport, check
from puller.upkeep.checking.packcheck import ExaminedPacks, PackCheck
from puller.upkeep.checking.reading import PackReader
from puller.upkeep.checking.schedule import BATCH, Allowance, Candidate, Reading
from puller.upkeep.checking.verification import Verification

MOST = 256
"""Packs of a task that reads them: 8 GiB, a minute or two. What a dead worker had done of it is lost."""

MOST_LOOKED_AT = 4096
"""Packs of a task that reads only their footers."""

_SHARES = 4
"""Tasks for each worker, at least: the last ones to end should not leave the others idle for long."""

_REFRESH = 60.0
"""Seconds between two looks at what other checks have verified: there may be many records."""


def examine(repository: Repository, task: PacksTask) -> ExaminedPacks:
    """Do a task, in a worker: examine its packs, and record those that are intact.

    ``repository`` was opened for this task: what an earlier one has cached is not looked at again.
    """
    reached = SlotSet()
    for pack_id, bits in task.packs:
        reached.put(repository.maps.table.number(pack_id), bits)
    packs = PackCheck(repository, reached, ignore)
    names = [pack_id for pack_id, _ in task.packs]
    if not task.whole:
        packs.look(names)
        return packs.found(())
    record = repository.verified.find(task.token)
    done = {} if record is None else {pack.pack_id: pack for pack in record.packs}
    sound = packs.read(name for name in names if name not in done)
    refusal = _record(repository, task.token, sound)
    return replace(packs.found([*done.values(), *sound]), unrecorded=refusal)


def _record(repository: Repository, token: str, sound: Sequence[VerifiedPack]) -> str | None:
    """Record the packs; return why that was refused, if it was."""
    try:
        repository.verified.put_as(token, sound)
    except StoreError as error:
        return error.message
    return None


def check_in_shards(  # noqa: PLR0913, PLR0917 - a check, and who does it
    repository: Repository,
    points: Sequence[Point],
    reading: Reading,
    observer: Observer,
    engine: Engine,
    work: Work,
) -> tuple[CheckReport, int]:
    """Check as ``puller.check`` does; the workers of ``engine`` examine the packs.

    Returns the report and the number of tasks. ``work`` calls ``examine`` in a worker.
    """
    reader = FleetReader(repository, engine, work, observer)
    report = check(repository, points, reading, observer, reader=reader)
    return report, reader.tasks


class FleetReader(PackReader):
    """Reads packs through the workers. ``tasks`` counts the answered tasks."""

    def __init__(self, repository: Repository, engine: Engine, work: Work, observer: Observer) -> None:
        self._place = Place(repository.store.url, repository.id)
        self._scope = repository.scope
        self._engine = engine
        self._work = work
        self._observer = observer
        self.tasks = 0

    def look(self, packs: PackCheck, pack_ids: Sequence[bytes]) -> None:
        """See ``PackReader``."""
        driver = self._driver()
        size = _share(len(pack_ids), driver.width, MOST_LOOKED_AT)
        groups = (pack_ids[start : start + size] for start in range(0, len(pack_ids), size))
        for task, answer in driver.run(self._task(packs, group, False) for group in groups):
            packs.add(answer.result, len(task.packs))
        self.tasks += driver.count

    def read(
        self, packs: PackCheck, verification: Verification, queue: list[Candidate], allowance: Allowance
    ) -> tuple[frozenset[bytes], int]:
        """See ``PackReader``."""
        work = _Reading(packs, verification, queue, allowance)
        driver = self._driver()
        size = _share(len(queue), driver.width, MOST)
        tasks = (self._task(packs, group, True) for group in work.groups(size))
        for task, answer in driver.run(tasks):
            work.add(task, answer)
        self.tasks += driver.count
        return frozenset(work.verified), work.left

    def _driver(self) -> Driver[PacksTask]:
        return Driver(self._engine, self._work, self._scope, self._observer)

    def _task(self, packs: PackCheck, pack_ids: Iterable[bytes], whole: bool) -> PacksTask:
        reached = tuple((pack_id, packs.reached_bits(pack_id)) for pack_id in pack_ids)
        return PacksTask(self._place, secrets.token_hex(16), reached, whole)


class _Reading:
    """The queue of one reading: what was given to the workers, and what came back."""

    def __init__(
        self, packs: PackCheck, verification: Verification, queue: list[Candidate], allowance: Allowance
    ) -> None:
        self._packs = packs
        self._verification = verification
        self._queue = queue
        self._allowance = allowance
        self._taken = 0
        self._refreshed = time.monotonic()
        self.verified: set[bytes] = set()

    @property
    def left(self) -> int:
        """Number of packs that nobody was given, because the budget is spent."""
        return len(self._queue) - self._taken

    def groups(self, size: int) -> Iterator[list[bytes]]:
        """Yield the packs of each task, without those that another check has verified meanwhile."""
        candidates = self._allowance.take(self._due())
        while group := list(islice(candidates, size)):
            while sum(item.size for item in group) > BATCH and len(group) > 1:
                yield [item.pack_id for item in group[: len(group) // 2]]
                group = group[len(group) // 2 :]
            yield [item.pack_id for item in group]
            if time.monotonic() - self._refreshed > _REFRESH:
                self._verification.refresh()
                self._refreshed = time.monotonic()

    def _due(self) -> Iterator[Candidate]:
        while self._taken < len(self._queue):
            candidate = self._queue[self._taken]
            if candidate.pack_id not in self._verification.fresh:
                yield candidate
            self._taken += 1

    def add(self, task: PacksTask, answer: Answer) -> None:
        """Add what a worker has found."""
        found: ExaminedPacks = answer.result
        self._packs.add(found, len(task.packs))
        self._verification.add_recorded(found.sound, found.unrecorded)
        self.verified.update(pack.pack_id for pack in found.sound)


def _share(count: int, width: int, most: int) -> int:
    return max(1, min(most, -(-count // (_SHARES * width))))
