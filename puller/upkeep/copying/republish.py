"""A point in which nothing has changed since one that the target has: published again with the same maps.

Such a copy refers to nothing but what its base refers to, so it needs neither the index nor the condemned
slots (docs/format.md, "Write order").
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from puller.errors import DamagedData
from puller.events import DiskDone, DiskPlanned, Observer
from puller.repository.format.address import Address
from puller.repository.points import Point, Ref
from puller.repository.reading.image import DiskImage
from puller.repository.repository import Repository
from puller.upkeep.copying.counterparts import Pair, as_copy


def republished(
    source: Repository, target: Repository, point: Point, pair: Pair, observer: Observer
) -> Point | None:
    """Publish the copy of ``point`` and return it; None if it cannot be made of the maps of ``pair``.

    Raises Overtaken if the point on which it is based is gone, StoreError.
    """
    roots = list(_roots(point, pair))
    if not roots or None in roots:
        return None
    own = {root for root in roots if root is not None}
    target.learn_damage()
    if not _are_sound(target, own):
        return None
    made = target.republish(_copy_of(source, point, pair), pair.target, own)
    for disk in point.disks:
        observer(DiskPlanned(point.point, disk.disk, disk.size, 0))
        observer(DiskDone(point.point, disk.disk))
    return made


def _roots(point: Point, pair: Pair) -> Iterator[Address | None]:
    """For each part of ``point`` the target's root of it; None if the part is not that of the pair."""
    for disk in point.disks:
        here, there = pair.source.disk(disk.disk), pair.target.disk(disk.disk)
        same = here is not None and (here.root, here.size) == (disk.root, disk.size)
        yield there.root.address if same and there is not None and there.size == disk.size else None
    before, after = _attached(pair.source), _attached(pair.target)
    for item in point.attachments:
        same = before.get(item.name) == (item.root, item.size)
        found = after.get(item.name)
        yield found[0].address if same and found is not None and found[1] == item.size else None


def _attached(point: Point) -> dict[str, tuple[Ref, int]]:
    return {item.name: (item.root, item.size) for item in point.attachments}


def _are_sound(target: Repository, roots: set[Address]) -> bool:
    """Return whether no known damage in the target hurts the maps at ``roots``."""
    damaged = target.packs.damaged
    try:
        return not damaged or not any(
            DiskImage(target.maps, target.packs, root).needs(damaged) for root in roots
        )
    except DamagedData:
        return False


def _copy_of(source: Repository, point: Point, pair: Pair) -> Point:
    base = pair.target
    disks = tuple(
        msgspec.structs.replace(disk, root=there.root, parent=base.point, new_bytes=0, stored_bytes=0)
        for disk in point.disks
        if (there := base.disk(disk.disk)) is not None
    )
    attached = _attached(base)
    attachments = tuple(
        msgspec.structs.replace(item, root=attached[item.name][0]) for item in point.attachments
    )
    return as_copy(source, point, disks, attachments, base.point)
