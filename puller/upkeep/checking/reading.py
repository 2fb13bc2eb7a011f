"""The packs that a check examines, and those that it reads.

::

    list packs ── list verified/ ── which are due? ──► look at the footers of the others
                                          │
                                          ▼
                  ┌─ what have others verified? ── read a batch ── record it ─┐
                  └──────────── until nothing is due, or the budget is spent ◄┘
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from puller.events import DiskDone, DiskPlanned, Observer
from puller.repository.collecting.inventory import PackObject
from puller.repository.collecting.reach import Reach
from puller.repository.records.damaged import DamageRecord, since
from puller.repository.repository import Repository
from puller.upkeep.checking.packcheck import PackCheck
from puller.upkeep.checking.schedule import Allowance, Candidate, Reading, batch, due, shuffled
from puller.upkeep.checking.verification import Verification


@dataclass(frozen=True, slots=True)
class ReadingResult:
    """``verified`` are the packs that were read and found intact, ``left`` counts those beyond the budget.

    ``oldest`` is the time of the oldest verification of a pack; None if a pack never was verified.
    """

    packs: PackCheck
    verified: frozenset[bytes]
    left: int
    oldest: datetime | None


class PackReader(Protocol):
    """Reads packs for a check: in this process, or in others."""

    def look(self, packs: PackCheck, pack_ids: Sequence[bytes]) -> None:
        """Examine packs without reading them as a whole."""

    def read(
        self, packs: PackCheck, verification: Verification, queue: list[Candidate], allowance: Allowance
    ) -> tuple[frozenset[bytes], int]:
        """Read the packs of the queue that the budget allows, without those that others have read.

        Returns the intact ones, and the number of those that are left. They are recorded.
        """


def examine(  # noqa: PLR0913, PLR0917 - what a check knows by then
    repository: Repository,
    reach: Reach,
    allowance: Allowance,
    known: Sequence[DamageRecord],
    listed: Mapping[bytes, PackObject],
    observer: Observer,
    reader: PackReader,
) -> ReadingResult:
    """Examine the reached packs, and read those that are due.

    ``known`` holds recorded damage, ``listed`` the stored data packs. A reached pack that is not listed is
    opened: it is newer than the listing, or missing.
    """
    reading = allowance.reading
    stored = _stored(repository, reach, listed)
    generations = {pack_id: pack.generations for pack_id, pack in stored.items()}
    verification = Verification(repository, generations, since(known), observer)
    queue = _queue(stored, verification, reading)
    packs = PackCheck(repository, reach.packs, observer)
    others = _others(repository, reach, stored, queue, reading)
    size, total = len(others) + len(queue), len(others) + allowance.at_most(queue)
    observer(DiskPlanned("repository", "packs", size, total))
    reader.look(packs, others)
    verified, left = reader.read(packs, verification, queue, allowance)
    if packs.done != total:  # a budget of time was spent, or another check has read some of them
        observer(DiskPlanned("repository", "packs", size, packs.done))
    observer(DiskDone("repository", "packs"))
    reached = [repository.maps.table.pack_id(number) for number in reach.packs]
    verification.refresh()
    for number in packs.faults.packs:
        verification.withdraw(repository.maps.table.pack_id(number))
    return ReadingResult(packs, verified, left, _oldest(verification, reached))


def _stored(
    repository: Repository, reach: Reach, listed: Mapping[bytes, PackObject]
) -> dict[bytes, PackObject]:
    reached = {repository.maps.table.pack_id(number) for number in reach.packs}
    return {pack_id: pack for pack_id, pack in listed.items() if pack_id in reached}


def _queue(
    stored: Mapping[bytes, PackObject], verification: Verification, reading: Reading
) -> list[Candidate]:
    """Return the packs that are due, in the order of this check."""
    if not reading.reads:
        return []
    now = 0.0 if reading.max_age is None else verification.now()
    candidates = (
        Candidate(pack_id, pack.size, verification.times.get(pack_id)) for pack_id, pack in stored.items()
    )
    return shuffled(due(candidates, reading, now), random.random)


def _others(
    repository: Repository,
    reach: Reach,
    stored: Mapping[bytes, PackObject],
    queue: Iterable[Candidate],
    reading: Reading,
) -> list[bytes]:
    """Return packs that are only opened, which also shows whether an unlisted pack is new or missing."""
    due_ids = {candidate.pack_id for candidate in queue}
    reached = (repository.maps.table.pack_id(number) for number in reach.packs)
    return [
        pack_id
        for pack_id in reached
        if pack_id not in due_ids and not (reading.is_selective and pack_id in stored)
    ]


class OwnReader:
    """Reads packs in this process, in batches."""

    def look(self, packs: PackCheck, pack_ids: Sequence[bytes]) -> None:
        """See ``PackReader``."""
        packs.look(pack_ids)

    def read(
        self, packs: PackCheck, verification: Verification, queue: list[Candidate], allowance: Allowance
    ) -> tuple[frozenset[bytes], int]:
        """See ``PackReader``."""
        verified: set[bytes] = set()
        while queue and not allowance.is_spent:
            verification.refresh()
            queue = [candidate for candidate in queue if candidate.pack_id not in verification.fresh]
            taken: list[bytes] = []
            sound = packs.read(_noted(allowance.take(batch(queue)), taken))
            verification.add(sound)
            verified.update(pack.pack_id for pack in sound)
            queue = queue[len(taken) :]
        return frozenset(verified), len(queue)


def _noted(candidates: Iterable[Candidate], taken: list[bytes]) -> Iterator[bytes]:
    for candidate in candidates:
        taken.append(candidate.pack_id)
        yield candidate.pack_id


def _oldest(verification: Verification, reached: Sequence[bytes]) -> datetime | None:
    times = [verification.times.get(pack_id) for pack_id in reached]
    known = [moment for moment in times if moment is not None]
    return datetime.fromtimestamp(min(known), UTC) if known and len(known) == len(times) else None
