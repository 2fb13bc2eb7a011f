"""References of one run, and condemned slots that it must avoid: the writer's part of prune (docs/format.md).

::

    list condemned ─► load hints ─► find, add … ─► pending record ─► list condemned again ─► commit
     what must not      (after!)     noted here      seen by prune     what was added since
     be referred to

A run keeps a small set of slots for each pack to which it refers.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Protocol

import numpy as np

from puller.cancelling import CancelScope
from puller.errors import Overtaken
from puller.repository.format.pages import Numbers, PackTable, Slots
from puller.repository.records.condemned import ALL, KEPT, Condemned, Record, union
from puller.repository.writing.chunkindex import MISS

LONGEST_RUN = KEPT - 86400.0
"""Seconds; a day less than the life of final records, for requests that are slow to take effect."""

MARGIN = 300.0
"""Seconds before the end of the grace time from which a waiting record counts as final.

S3 and folders show every put at once, and then this is not needed. It covers file systems whose
listings lag, such as NFS, whose clients may keep directories for a minute."""


def _now() -> float:
    """Return seconds that continue to count while the host is suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Standing(Protocol):
    """What a commit asks of the claims of its run."""

    def require_standing(self, now: Callable[[], float]) -> None:
        """See ``Claims.require_standing``."""
        ...


class _Unclaimed:
    """The claims of a point that refers to nothing but what its bases refer to: that stands as they do."""

    def require_standing(self, now: Callable[[], float]) -> None:
        """See ``Claims.require_standing``."""


UNCLAIMED: Standing = _Unclaimed()


class Claims:
    """The claims of a run. Create them before any footer is read, so that no footer has removed slots.

    Safe for many threads. Raises DamagedData, UnsupportedFormat or StoreError if the records cannot be
    read: then the condemned slots are unknown.
    """

    def __init__(self, condemned: Condemned, table: PackTable) -> None:
        self._condemned = condemned
        self._table = table
        self._began = _now()
        infos = condemned.listed()
        records = condemned.read(infos)
        self._known = {info.key for info in infos}
        condemned_slots = union(record.packs for record in records)
        self._forbidden = {table.number(pack): item.slots for pack, item in condemned_slots.items()}
        self._held: dict[int, int] = {}
        self._lock = threading.Lock()
        self.excluded = frozenset(_excluded(records))

    def wait_in(self, scope: CancelScope) -> None:
        """Let later waits belong to ``scope``."""
        self._condemned = self._condemned.within(scope)

    def admit(self, packs: Numbers, slots: Slots) -> Numbers:
        """Add references from the index; return ``packs`` with MISS in place of condemned ones."""
        admitted = packs.copy()
        with self._lock:
            for position in np.flatnonzero(packs != MISS).tolist():
                pack, slot = int(packs[position]), int(slots[position])
                if self._forbidden.get(pack, 0) >> slot & 1:
                    admitted[position] = MISS
                else:
                    self._held[pack] = self._held.get(pack, 0) | 1 << slot
        return admitted

    def hold(self, pack: int, first: int, count: int) -> None:
        """Add references to ``count`` slots from ``first`` on, which this run has written."""
        with self._lock:
            self._held[pack] = self._held.get(pack, 0) | ((1 << count) - 1) << first

    def require_young(self) -> None:
        """Raise Overtaken if the run has lasted longer than prune keeps its records."""
        if _now() - self._began > LONGEST_RUN:
            raise Overtaken(f"the run has lasted more than {LONGEST_RUN / 86400:.0f} days")

    def require_standing(self, now: Callable[[], float]) -> None:
        """Raise Overtaken if data that this run refers to may have been removed.

        Call it once the pending record is durable; ``now`` is the time of that by the store's clock, in
        seconds since the epoch.
        """
        self.require_young()
        fresh = [info for info in self._condemned.listed() if info.key not in self._known]
        for record in self._condemned.read(fresh):
            if self._is_hurt_by(record) and (
                record.final or now() >= record.modified + record.grace - MARGIN
            ):
                raise Overtaken("prune has condemned data that this run refers to")

    def _is_hurt_by(self, record: Record) -> bool:
        return any(
            self._held.get(self._table.number(pack), 0) & sentence.slots
            for pack, sentence in record.packs.items()
        )


def _excluded(records: list[Record]) -> set[bytes]:
    """Return the packs to avoid as a whole.

    A compacted pack is not among them: the live slots in its footer can still be used.
    """
    return {
        pack
        for record in records
        for pack, sentence in record.packs.items()
        if not record.final or sentence.slots == ALL
    }
