"""Check: whether every point could be restored, and if not, what exactly is hurt.

First all maps are walked, each distinct page once; then the packs that they reach are looked at, each
once; only if something is wrong are the maps walked again to say which points, disks and ranges it hurts.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from puller.errors import DamagedData, KeyNotHeld, UsageError
from puller.events import DiskPlanned, DiskProgress, Observer, Step
from puller.pipeline.flow import Flow
from puller.repository.damage import Damage, merge_damage, read_pages
from puller.repository.footer import DEAD, PackKind
from puller.repository.packs import StoredPack, merge
from puller.repository.pages import ZERO, Root
from puller.repository.points import Point
from puller.repository.reach import Reach
from puller.repository.repository import Repository
from puller.units import CHUNK, PAGE_CHUNKS

READERS = 4


@dataclass(frozen=True, slots=True)
class CheckError:
    """One thing that is wrong. ``disk`` None: the whole point; ``length`` bytes from ``offset`` are hurt."""

    message: str
    point: str | None = None
    domain: str | None = None
    disk: str | None = None
    offset: int | None = None
    length: int | None = None


@dataclass(frozen=True, slots=True)
class CheckReport:
    """How many points, packs and chunks were looked at, and what was found."""

    points: int
    packs: int
    chunks_read: int
    errors: tuple[CheckError, ...]


@dataclass
class _Faults:
    """Faulty packs by number: why all of it, or why each slot."""

    whole: dict[int, str] = field(default_factory=dict)
    slots: dict[int, dict[int, str]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __bool__(self) -> bool:
        return bool(self.whole or self.slots)

    def add_slot(self, pack: int, slot: int, reason: str) -> None:
        with self.lock:
            self.slots.setdefault(pack, {})[slot] = reason


def check(repository: Repository, points: Sequence[str], read_data: float, observer: Observer) -> CheckReport:
    """See ``puller.check``."""
    if not 0 <= read_data <= 100:
        raise UsageError(f"{read_data} is not a percentage between 0 and 100")
    if read_data and not repository.keys.can_read_data:
        raise KeyNotHeld("this key may not read stored guest data, so it cannot check it")
    errors: list[CheckError] = []
    chosen = _points(repository, points, errors)
    observer(Step("repository", "maps"))
    roots = list(_roots(repository, chosen, errors))
    reach = Reach(repository.maps)
    for point, disk, root in roots:
        errors += (_located(point, disk, damage) for damage in merge_damage(reach.add(root)))
    observer(Step("repository", "packs"))
    packs = _PackCheck(repository, reach, read_data, observer)
    packs.run()
    if packs.faults:
        observer(Step("repository", "damage"))
        errors += _attribute(repository, roots, packs.faults)
    return CheckReport(len(chosen), len(reach.packs) + len(reach.map_packs), packs.chunks_read, tuple(errors))


def _points(repository: Repository, names: Sequence[str], errors: list[CheckError]) -> list[Point]:
    if names:
        return [repository.points.select(name) for name in names]
    return repository.points.all(lambda point, error: errors.append(CheckError(error.message, point)))


def _roots(
    repository: Repository, points: Sequence[Point], errors: list[CheckError]
) -> Iterator[tuple[Point, str, Root]]:
    """Every disk and attachment with its root, as far as it can be read."""
    for point in points:
        parts = [(disk.disk, disk.size, disk.root) for disk in point.disks]
        parts += [(item.name, item.size, item.root) for item in point.attachments]
        for name, size, ref in parts:
            try:
                root = repository.maps.root(ref.address)
                if root.size != size:
                    raise DamagedData(f"the map describes {root.size} bytes, the point {size}")
                yield point, name, root
            except DamagedData as error:
                errors.append(_located(point, name, Damage(0, size, error.message)))


def _located(point: Point, disk: str, damage: Damage) -> CheckError:
    return CheckError(damage.reason, point.point, point.domain, disk, damage.offset, damage.length)


class _PackCheck:
    """Looks at every reached data pack: its footer, its reached slots, and a share of the contents."""

    def __init__(self, repository: Repository, reach: Reach, percent: float, observer: Observer) -> None:
        self._packs = repository.packs
        self._table = repository.maps.table
        self._reach = reach
        self._percent = percent
        self._observer = observer
        self._done = 0
        self._lock = threading.Lock()
        self.faults = _Faults()
        self.chunks_read = 0

    def run(self) -> None:
        """Look at all packs, some at a time."""
        self._observer(DiskPlanned("repository", "packs", len(self._reach.packs), len(self._reach.packs)))
        with Flow() as flow:
            crew = flow.crew("check", READERS, READERS, self._check)
            for number in self._reach.packs:
                crew.put(number)
            crew.finish()

    def _check(self, number: int) -> None:
        try:
            pack = self._packs.open(PackKind.DATA, self._table.pack_id(number))
            reached = np.flatnonzero(self._reach.packs[number])
            self._check_slots(
                number, pack, reached[reached >= pack.footer.count].tolist(), "is not in the pack"
            )
            reached = reached[reached < pack.footer.count]
            dead = (pack.footer.flags[reached] & DEAD).astype(bool)
            self._check_slots(number, pack, reached[dead].tolist(), "was removed by prune")
            self._read(number, pack, self._sample(reached[~dead].tolist()))
        except DamagedData as error:
            with self.faults.lock:
                self.faults.whole[number] = error.message
        self._progress()

    def _check_slots(self, number: int, pack: StoredPack, slots: Sequence[int], reason: str) -> None:
        for slot in slots:
            self.faults.add_slot(number, slot, f"{pack.name}: slot {slot} {reason}")

    def _sample(self, slots: list[int]) -> list[int]:
        """Each slot has the same chance, however small its pack is."""
        return [slot for slot in slots if random.random() * 100 < self._percent]

    def _read(self, number: int, pack: StoredPack, slots: Sequence[int]) -> None:
        for span in merge(pack.footer, slots):
            for slot, content in self._packs.contents(pack, span, self._packs.fetch(pack, span)):
                if isinstance(content, DamagedData):
                    self.faults.add_slot(number, slot, content.message)
            with self._lock:
                self.chunks_read += len(span.slots)

    def _progress(self) -> None:
        with self._lock:
            self._done += 1
            event = DiskProgress("repository", "packs", self._done, 0)
        self._observer(event)


def _attribute(
    repository: Repository, roots: Sequence[tuple[Point, str, Root]], faults: _Faults
) -> Iterator[CheckError]:
    """Say which disks the faults hurt, and where."""
    for point, disk, root in roots:
        damage: list[Damage] = []
        present = np.flatnonzero(root.pages.packs != ZERO).tolist()
        for number, refs in read_pages(repository.maps, root, present, []):
            first = number * PAGE_CHUNKS
            for position in np.flatnonzero(refs.packs != ZERO).tolist():
                reason = _reason(faults, int(refs.packs[position]), int(refs.slots[position]))
                if reason is not None:
                    start = (first + position) * CHUNK
                    damage.append(Damage(start, min(CHUNK, root.size - start), reason))
        yield from (_located(point, disk, item) for item in merge_damage(damage))


def _reason(faults: _Faults, pack: int, slot: int) -> str | None:
    whole = faults.whole.get(pack)
    return whole if whole is not None else faults.slots.get(pack, {}).get(slot)
