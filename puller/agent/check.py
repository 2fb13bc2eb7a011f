"""Check: whether every point could be restored, and if not, what exactly is hurt.

First all maps are walked, each distinct page once; then the packs that they reach are looked at, each
once; only if something is wrong are the maps walked again to say which points, disks and ranges it hurts,
and are the packs at fault recorded, so that whoever backs up next does not refer to them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from puller.agent.packcheck import Faults, PackCheck
from puller.errors import DamagedData, KeyNotHeld, StoreError, UsageError
from puller.events import Notice, Observer, Step
from puller.repository.damage import Damage, merge_damage, read_pages
from puller.repository.damaged import DamageRecord, union
from puller.repository.pages import ZERO, Root
from puller.repository.points import Point
from puller.repository.reach import Reach
from puller.repository.repository import Repository
from puller.units import CHUNK, PAGE_CHUNKS


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


def check(
    repository: Repository, points: Sequence[str | Point], read_data: float, observer: Observer
) -> CheckReport:
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
    known = repository.damaged.read()
    packs = PackCheck(repository, reach, read_data, union(known), observer)
    packs.run()
    if packs.faults:
        observer(Step("repository", "damage"))
        errors += _attribute(repository, roots, packs.faults)
    errors = _of_standing_points(repository, errors)
    _record(repository, known, packs, bool(errors), observer)
    return CheckReport(len(chosen), len(reach.packs) + len(reach.map_packs), packs.chunks_read, tuple(errors))


def _of_standing_points(repository: Repository, errors: list[CheckError]) -> list[CheckError]:
    """Without what is wrong with points that were deleted, and perhaps pruned, during the check."""
    if not errors:
        return errors
    standing = {point for _, point in repository.points.names()}
    return [error for error in errors if error.point is None or error.point in standing]


def _record(
    repository: Repository, known: list[DamageRecord], check: PackCheck, hurt: bool, observer: Observer
) -> None:
    """Tell later runs which packs are damaged, and which of the known ones are not any more."""
    repository.packs.damaged -= check.sound
    named = union(known)
    faulty = {repository.maps.table.pack_id(number) for number in check.faults.packs}
    found = (faulty | repository.packs.damaged) - named if hurt else set[bytes]()
    try:
        if check.sound:
            repository.damaged.put(named - check.sound | found)
            repository.damaged.delete(known)
        else:
            repository.damaged.put(found)
    except StoreError as error:
        text = f"the damage cannot be recorded, so later backups may refer to it: {error.message}"
        observer(Notice("repository", text))


def _points(repository: Repository, wanted: Sequence[str | Point], errors: list[CheckError]) -> list[Point]:
    if wanted:
        return [item if isinstance(item, Point) else repository.points.select(item) for item in wanted]
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


def _attribute(
    repository: Repository, roots: Sequence[tuple[Point, str, Root]], faults: Faults
) -> Iterator[CheckError]:
    """Say which disks the faults hurt, and where."""
    for point, disk, root in roots:
        damage: list[Damage] = []
        present = np.flatnonzero(root.pages.packs != ZERO).tolist()
        for number, refs in read_pages(repository.maps, root, present, []):
            first = number * PAGE_CHUNKS
            for position in np.flatnonzero(refs.packs != ZERO).tolist():
                reason = faults.reason(int(refs.packs[position]), int(refs.slots[position]))
                if reason is not None:
                    start = (first + position) * CHUNK
                    damage.append(Damage(start, min(CHUNK, root.size - start), reason))
        yield from (_located(point, disk, item) for item in merge_damage(damage))
