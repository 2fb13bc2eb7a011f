"""Check: whether every point can be restored, and if not, what exactly is damaged.

First all maps are read, each distinct page once; then the packs that they reach are examined, each once.
Only if something is wrong, the maps are read again to find the damaged points, disks and ranges, and the
faulty packs are recorded, so that later backups do not refer to them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import datetime

from puller.errors import DamagedData, KeyNotHeld, StoreDenied, StoreError
from puller.events import Notice, Observer, Step
from puller.repository.collecting.inventory import list_packs
from puller.repository.collecting.reach import Reach
from puller.repository.foreign import described, foreign
from puller.repository.format.address import Address
from puller.repository.format.names import FOLDERS
from puller.repository.format.packname import PackKind
from puller.repository.format.pages import Root
from puller.repository.points import Point
from puller.repository.reading.damage import Damage, merge_damage
from puller.repository.records.damaged import DamageRecord, union
from puller.repository.repository import Repository
from puller.repository.shard import WHOLE, Shard
from puller.store.parallel import together
from puller.upkeep.checking.attribution import Attribution
from puller.upkeep.checking.coverage import Promises, Uncovered, by_end, uncovered
from puller.upkeep.checking.packcheck import Faults
from puller.upkeep.checking.reading import OwnReader, PackReader, ReadingResult, examine
from puller.upkeep.checking.schedule import Allowance, Reading


@dataclass(frozen=True, slots=True)
class CheckError:
    """One piece of damage.

    ``length`` bytes from ``offset`` of ``disk`` cannot be restored. If ``disk`` is None, the whole point is
    damaged; if ``point`` is None, the error is not about one point.
    """

    message: str
    point: str | None = None
    domain: str | None = None
    disk: str | None = None
    offset: int | None = None
    length: int | None = None


@dataclass(frozen=True, slots=True)
class CheckReport:
    """Numbers of points, packs and chunks that a check verified, and the damage that it found in ``errors``.

    ``packs_verified`` packs were read as a whole and are intact; ``packs_left`` were due, but the budget was
    spent. ``oldest_verified`` is when the pack was verified that was verified longest ago, by the store's
    clock; None if a pack of the points never was. ``uncovered`` are points whose locks end too soon.
    """

    points: int
    packs: int
    chunks_read: int
    errors: tuple[CheckError, ...]
    packs_verified: int = 0
    packs_left: int = 0
    oldest_verified: datetime | None = None
    uncovered: tuple[Uncovered, ...] = ()


def check(  # noqa: PLR0913, PLR0917 - what, how much of it, and for whom
    repository: Repository,
    points: Sequence[str | Point],
    reading: Reading,
    observer: Observer,
    clock: Callable[[], float] = time.monotonic,
    shard: Shard = WHOLE,
    reader: PackReader | None = None,
) -> CheckReport:
    """See ``puller.check``. ``clock`` returns seconds for a budget; ``reader`` reads the packs."""
    if reading.reads and not repository.keys.can_read_data:
        raise KeyNotHeld("cannot check stored guest data with this key: its role is backup-only")
    allowance = Allowance(reading, clock)
    errors: list[CheckError] = []
    keys, found = together(
        repository.scope,
        lambda own: () if points else foreign(repository.store.within(own), FOLDERS),
        lambda own: _points(repository.within(own), points, errors),
    )
    if keys:
        observer(Notice("repository", described(list(keys))))
    chosen = by_end(found)
    observer(Step("repository", "maps"))
    parts = list(_parts(chosen, errors))
    reach = Reach(repository.maps, shard.has_pack)
    promises = Promises()
    sound = _walk(repository, parts, reach, errors, promises)
    promises = promises.of(shard)
    observer(Step("repository", "packs"))
    known, listed = together(
        repository.scope,
        lambda own: repository.damaged.within(own).read(),
        lambda own: list_packs(repository.store.within(own), (PackKind.DATA,), shard.has_pack),
    )
    examined = examine(repository, reach, allowance, known, listed, observer, reader or OwnReader())
    if examined.packs.faults:
        observer(Step("repository", "damage"))
        errors += _attribute(repository, sound, examined.packs.faults)
    errors = _of_standing_points(repository, errors)
    _record(repository, known, examined, bool(errors), observer)
    return CheckReport(
        len(chosen),
        len(reach.packs) + sum(map(shard.has_pack, map(repository.maps.table.pack_id, reach.map_packs))),
        examined.packs.chunks_read,
        tuple(errors),
        len(examined.verified),
        examined.left,
        examined.oldest,
        uncovered(repository, chosen, promises),
    )


def _of_standing_points(repository: Repository, errors: list[CheckError]) -> list[CheckError]:
    """Return the errors without those of points that were deleted, and perhaps pruned, during the check."""
    if not errors:
        return errors
    standing = {point for _, point in repository.points.names()}
    return [error for error in errors if error.point is None or error.point in standing]


def _record(
    repository: Repository,
    known: list[DamageRecord],
    examined: ReadingResult,
    damaged: bool,
    observer: Observer,
) -> None:
    """Record for later runs which packs are damaged, and which known ones no longer are.

    Damaged content is recorded even if no point needs it, because a later point may find it. Other damage
    may be the effect of a prune.
    """
    sound = examined.verified
    repository.packs.damaged -= sound
    faulty = {repository.maps.table.pack_id(number) for number in examined.packs.faults.packs}
    found = (faulty | repository.packs.damaged if damaged else examined.packs.spoilt) - union(known)
    outdated = [record for record in known if not sound.isdisjoint(record.packs)]
    still = union(outdated) - sound - union(record for record in known if record not in outdated)
    try:
        repository.damaged.put(still | found)
        with suppress(StoreDenied):  # a record that cannot be deleted only costs the next backups some space
            repository.damaged.delete(outdated)
    except StoreError as error:
        text = f"cannot record the damage, so later backups may refer to it: {error.message}"
        observer(Notice("repository", text))


def _points(repository: Repository, wanted: Sequence[str | Point], errors: list[CheckError]) -> list[Point]:
    if wanted:
        return [item if isinstance(item, Point) else repository.points.select(item) for item in wanted]
    return repository.points.all(lambda point, error: errors.append(CheckError(error.message, point)))


@dataclass(frozen=True, slots=True)
class _Part:
    """A disk or an attachment of a point."""

    point: Point
    name: str
    size: int
    address: Address


def _parts(points: Sequence[Point], errors: list[CheckError]) -> Iterator[_Part]:
    for point in points:
        refs = [(disk.disk, disk.size, disk.root) for disk in point.disks]
        refs += [(item.name, item.size, item.root) for item in point.attachments]
        for name, size, ref in refs:
            try:
                yield _Part(point, name, size, ref.address)
            except DamagedData as error:
                errors.append(_located(point, name, Damage(0, size, error.message)))


def _walk(
    repository: Repository,
    parts: Sequence[_Part],
    reach: Reach,
    errors: list[CheckError],
    promises: Promises,
) -> list[_Part]:
    """Add everything that the parts reach; return those whose roots can be read."""
    readable = []
    for part, root in _with_roots(repository, parts):
        if isinstance(root, DamagedData):
            errors.append(_located(part.point, part.name, Damage(0, part.size, root.message)))
            continue
        readable.append(part)
        damage = merge_damage(reach.add(root))
        promises.note(part.point, part.address, reach, repository)
        errors += (_located(part.point, part.name, item) for item in damage)
    return readable


def _with_roots(repository: Repository, parts: Sequence[_Part]) -> Iterator[tuple[_Part, Root | DamagedData]]:
    with closing(repository.maps.roots(part.address for part in parts)) as roots:
        for part, root in zip(parts, roots, strict=True):
            if isinstance(root, Root) and root.size != part.size:
                text = f"the map describes {root.size} bytes, the point {part.size}"
                yield part, DamagedData(text)
            else:
                yield part, root


def _located(point: Point, disk: str, damage: Damage) -> CheckError:
    return CheckError(damage.reason, point.point, point.domain, disk, damage.offset, damage.length)


def _attribute(repository: Repository, parts: Sequence[_Part], faults: Faults) -> Iterator[CheckError]:
    """Yield the ranges of disks that the faults damage."""
    attribution = Attribution(repository.maps, faults)
    for part, root in _with_roots(repository, parts):
        if isinstance(root, Root):
            damage = attribution.damage(root)
            yield from (_located(part.point, part.name, item) for item in damage)
