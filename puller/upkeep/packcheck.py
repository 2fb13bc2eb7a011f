"""The packs that points reach, each looked at once: footer, reached slots, and a share of the contents."""

from __future__ import annotations

import random
import threading
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from puller.errors import DamagedData, ObjectChanged
from puller.events import DiskPlanned, DiskProgress, Observer
from puller.pipeline.flow import Flow
from puller.repository.collecting.reach import Reach
from puller.repository.format.footer import DEAD, PackKind
from puller.repository.format.pages import Refs
from puller.repository.reading.packs import StoredPack, merge
from puller.repository.repository import Repository

READERS = 4

REWRITES = 8
"""Times that a pack may be compacted while it is looked at: prune needs its grace time for each."""


@dataclass
class Faults:
    """Faulty packs by number: why all of it, or why each slot."""

    whole: dict[int, str] = field(default_factory=dict)
    slots: dict[int, dict[int, str]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __bool__(self) -> bool:
        return bool(self.whole or self.slots)

    @property
    def packs(self) -> set[int]:
        """Numbers of all faulty packs."""
        return self.whole.keys() | self.slots.keys()

    def add_pack(self, pack: int, reason: str) -> None:
        """All of a pack is faulty."""
        with self.lock:
            self.whole[pack] = reason

    def add_slot(self, pack: int, slot: int, reason: str) -> None:
        """A slot is faulty."""
        with self.lock:
            self.slots.setdefault(pack, {})[slot] = reason

    def reason(self, pack: int, slot: int) -> str:
        """What is wrong with a faulty slot."""
        whole = self.whole.get(pack)
        return whole if whole is not None else self.slots[pack][slot]

    def hits(self, refs: Refs) -> NDArray[np.intp]:
        """Positions of the references to what is faulty."""
        hit = np.zeros(len(refs.packs), np.bool_)
        for pack in self.packs.intersection(np.unique(refs.packs).tolist()):
            inside = refs.packs == pack
            hit |= inside if pack in self.whole else inside & np.isin(refs.slots, list(self.slots[pack]))
        return np.flatnonzero(hit)


class PackCheck:
    """Looks at every reached data pack. Fills ``faults``; ``sound`` are the suspects that turned out whole.

    ``suspects`` are packs, by id, that an earlier check found damaged: where everything is read, all
    that these hold is, reached or not.
    """

    def __init__(
        self,
        repository: Repository,
        reach: Reach,
        percent: float,
        suspects: Collection[bytes],
        observer: Observer,
    ) -> None:
        self._flow = Flow(repository.scope)
        self._packs = repository.packs.within(self._flow.scope)
        self._table = repository.maps.table
        self._reach = reach
        self._percent = percent
        self._suspects = suspects if percent == 100 else ()
        self._observer = observer
        self._done = 0
        self._lock = threading.Lock()
        self.faults = Faults()
        self.sound: set[bytes] = set()
        self.chunks_read = 0

    def run(self) -> None:
        """Look at all packs, some at a time."""
        self._observer(DiskPlanned("repository", "packs", len(self._reach.packs), len(self._reach.packs)))
        with self._flow as flow:
            crew = flow.crew("check", READERS, READERS, self._check)
            for number in self._reach.packs:
                crew.put(number)
            crew.finish()

    def _check(self, number: int) -> None:
        pack_id = self._table.pack_id(number)
        try:
            chunks = self._verify_as_it_is(number, pack_id)
        except DamagedData as error:
            self.faults.add_pack(number, error.message)
            chunks = 0
        with self._lock:
            self.chunks_read += chunks
            if pack_id in self._suspects and number not in self.faults.packs:
                self.sound.add(pack_id)
            self._done += 1
            event = DiskProgress("repository", "packs", self._done, self._done, 0)
        self._observer(event)

    def _verify_as_it_is(self, number: int, pack_id: bytes) -> int:
        """Verify the pack, and begin anew where prune has compacted it meanwhile."""
        for _ in range(REWRITES):
            try:
                return self._verify(number, self._packs.open(PackKind.DATA, pack_id))
            except ObjectChanged:
                self._packs.forget(pack_id)
        return self._verify(number, self._packs.open(PackKind.DATA, pack_id))

    def _verify(self, number: int, pack: StoredPack) -> int:
        """Look at one pack; return how many chunks were read."""
        reached = np.flatnonzero(self._reach.packs[number])
        self._note(number, pack, reached[reached >= pack.footer.count].tolist(), "is not in the pack")
        reached = reached[reached < pack.footer.count]
        dead = (pack.footer.flags[reached] & DEAD).astype(bool)
        self._note(number, pack, reached[dead].tolist(), "was removed by prune")
        wanted = reached[~dead]
        if pack.pack_id in self._suspects:
            wanted = np.flatnonzero(pack.footer.flags & DEAD == 0)
        return self._read(number, pack, self._sample(wanted.tolist()))

    def _note(self, number: int, pack: StoredPack, slots: Sequence[int], reason: str) -> None:
        for slot in slots:
            self.faults.add_slot(number, slot, f"{pack.name}: slot {slot} {reason}")

    def _sample(self, slots: list[int]) -> list[int]:
        """Each slot has the same chance, however small its pack is."""
        return [slot for slot in slots if random.random() * 100 < self._percent]

    def _read(self, number: int, pack: StoredPack, slots: Sequence[int]) -> int:
        for span in merge(pack.footer, slots):
            for slot, content in self._packs.contents(pack, span, self._packs.fetch(pack, span)):
                if isinstance(content, DamagedData):
                    self.faults.add_slot(number, slot, content.message)
        return len(slots)
