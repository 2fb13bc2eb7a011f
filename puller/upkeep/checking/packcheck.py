"""Check of the packs that points reach: whether they have the reached slots, and whether these are intact."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from puller.errors import DamagedData, ObjectChanged
from puller.events import DiskProgress, Observer
from puller.pipeline.flow import Flow
from puller.repository.collecting.reach import SlotSet
from puller.repository.format.footer import DEAD
from puller.repository.format.packname import PackKind
from puller.repository.format.pages import Refs
from puller.repository.reading.packs import OPENINGS, StoredPack, merge
from puller.repository.records.verified import VerifiedPack
from puller.repository.repository import Repository
from puller.store.parallel import READERS

_WHOLE = 4
"""Packs that are read as a whole at once: each thread holds a range of at most 8 MiB."""


@dataclass
class Faults:
    """Faulty packs by number, with the reason for the whole pack or for each slot."""

    whole: dict[int, str] = field(default_factory=dict)
    slots: dict[int, dict[int, str]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __bool__(self) -> bool:
        return bool(self.whole or self.slots)

    @property
    def packs(self) -> set[int]:
        """Return the numbers of all faulty packs."""
        return self.whole.keys() | self.slots.keys()

    def add_pack(self, pack: int, reason: str) -> None:
        """Add a pack that is faulty as a whole."""
        with self.lock:
            self.whole[pack] = reason

    def add_slot(self, pack: int, slot: int, reason: str) -> None:
        """Add a faulty slot."""
        with self.lock:
            self.slots.setdefault(pack, {})[slot] = reason

    def reason(self, pack: int, slot: int) -> str:
        """Return the reason for a faulty slot."""
        whole = self.whole.get(pack)
        return whole if whole is not None else self.slots[pack][slot]

    def hits(self, refs: Refs) -> NDArray[np.intp]:
        """Return the positions of the references to faulty slots."""
        hit = np.zeros(len(refs.packs), np.bool_)
        for pack in self.packs.intersection(np.unique(refs.packs).tolist()):
            inside = refs.packs == pack
            hit |= inside if pack in self.whole else inside & np.isin(refs.slots, list(self.slots[pack]))
        return np.flatnonzero(hit)


@dataclass(frozen=True, slots=True)
class ExaminedPacks:
    """What was found in some packs: faults by pack id, each of a slot, or of the whole pack if that is None.

    ``sound`` packs were read as a whole; ``unrecorded`` says why they could not be recorded as verified.
    """

    faults: tuple[tuple[bytes, int | None, str], ...]
    spoilt: frozenset[bytes]
    sound: tuple[VerifiedPack, ...]
    chunks_read: int
    unrecorded: str | None = None


class PackCheck:
    """Examines data packs of which ``reached`` has slots.

    Fills ``faults``; ``spoilt`` are the ids of packs with damaged content. ``done`` counts the examined
    packs.
    """

    def __init__(self, repository: Repository, reached: SlotSet, observer: Observer) -> None:
        self._repository = repository
        self._packs = repository.packs
        self._table = repository.maps.table
        self._reached = reached
        self._observer = observer
        self.done = 0
        self._lock = threading.Lock()
        self._sound: list[VerifiedPack] = []
        self.faults = Faults()
        self.spoilt: set[bytes] = set()
        self.chunks_read = 0

    def look(self, packs: Iterable[bytes]) -> None:
        """Read the footers of packs, and check that they have the reached slots."""
        self._work(packs, self._look, READERS)

    def read(self, packs: Iterable[bytes]) -> list[VerifiedPack]:
        """Read packs as a whole, including unreached slots; return the intact ones."""
        self._work(packs, self._read, _WHOLE)
        sound, self._sound = self._sound, []
        return sound

    def reached_bits(self, pack_id: bytes) -> int:
        """Return the slots of a pack that points reach, as bits."""
        return self._reached.bits(self._table.number(pack_id))

    def found(self, sound: Sequence[VerifiedPack]) -> ExaminedPacks:
        """Return what was found until now; ``sound`` are the intact packs that were read."""
        identify, faults = self._table.pack_id, self.faults
        whole = [(identify(pack), None, reason) for pack, reason in faults.whole.items()]
        slots = [
            (identify(pack), slot, reason)
            for pack, reasons in faults.slots.items()
            for slot, reason in reasons.items()
        ]
        return ExaminedPacks((*whole, *slots), frozenset(self.spoilt), tuple(sound), self.chunks_read)

    def add(self, found: ExaminedPacks, count: int) -> None:
        """Add what another process has found in ``count`` packs."""
        for pack_id, slot, reason in found.faults:
            number = self._table.number(pack_id)
            if slot is None:
                self.faults.add_pack(number, reason)
            else:
                self.faults.add_slot(number, slot, reason)
        self.spoilt |= found.spoilt
        self.chunks_read += found.chunks_read
        self.count(count)

    def _work(self, packs: Iterable[bytes], examine: Callable[[int, StoredPack], None], threads: int) -> None:
        """Process ``threads`` packs at a time; each is requested when a thread is free."""
        with Flow(self._repository.scope) as flow:
            self._packs = self._repository.packs.within(flow.scope)
            crew = flow.crew("check", threads, threads, partial(self._check, examine))
            for pack_id in packs:
                crew.put(pack_id)
            crew.finish()

    def _check(self, examine: Callable[[int, StoredPack], None], pack_id: bytes) -> None:
        number = self._table.number(pack_id)
        try:
            self._as_it_is(partial(examine, number), pack_id)
        except DamagedData as error:
            self.faults.add_pack(number, error.message)
        self.count(1)

    def count(self, packs: int) -> None:
        """Add examined packs to ``done``."""
        with self._lock:
            self.done += packs
            event = DiskProgress("repository", "packs", self.done, self.done, 0)
        self._observer(event)

    def _as_it_is(self, examine: Callable[[StoredPack], None], pack_id: bytes) -> None:
        """Examine the pack, and start again if prune has compacted it meanwhile."""
        for _ in range(OPENINGS):
            try:
                return examine(self._packs.open(PackKind.DATA, pack_id))
            except ObjectChanged:
                self._packs.forget(pack_id)
        return examine(self._packs.open(PackKind.DATA, pack_id))

    def _look(self, number: int, pack: StoredPack) -> None:
        reached = np.flatnonzero(self._reached[number])
        self._note(number, pack, reached[reached >= pack.footer.count].tolist(), "is not in the pack")
        reached = reached[reached < pack.footer.count]
        dead = (pack.footer.flags[reached] & DEAD).astype(bool)
        self._note(number, pack, reached[dead].tolist(), "was removed by prune")

    def _read(self, number: int, pack: StoredPack) -> None:
        self._look(number, pack)
        slots = np.flatnonzero(pack.footer.flags & DEAD == 0).tolist()
        for span, stored in self._packs.fetch(pack, list(merge(pack.footer, slots))):
            for slot, content in self._packs.contents(pack, span, stored):
                if isinstance(content, DamagedData):
                    self.faults.add_slot(number, slot, content.message)
                    self.spoilt.add(pack.pack_id)
        with self._lock:
            self.chunks_read += len(slots)
            if number not in self.faults.packs:
                self._sound.append(VerifiedPack(pack.pack_id, pack.generation))

    def _note(self, number: int, pack: StoredPack, slots: Sequence[int], reason: str) -> None:
        for slot in slots:
            self.faults.add_slot(number, slot, f"{pack.name}: slot {slot} {reason}")
