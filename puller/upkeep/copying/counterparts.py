"""Points of one machine that two repositories have, on whose maps a copy builds.

Ids of chunks are keyed, so equal content has another id in each repository. But where the two maps of a point
and of its copy name a slot at the same place, both slots have the same content.
"""

from __future__ import annotations

from bisect import bisect
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import msgspec

from puller.errors import DamagedData, NoSuchPoint
from puller.repository.points import Attachment, DiskRecord, Origin, Point
from puller.repository.repository import Repository

_TRIED = 4
"""Points before, and after, the one to copy that are tried: most copies build on the one before."""


@dataclass(frozen=True, slots=True)
class Pair:
    """One point as two repositories have it."""

    source: Point
    target: Point


class Counterparts:
    """The points of the machine ``uuid`` in two repositories. Raises StoreError."""

    def __init__(self, source: Repository, target: Repository, uuid: str) -> None:
        self._source = source
        self._target = target
        self._uuid = uuid
        self._here: set[str] | None = None
        """Ids of the source's points; listed once one of the target's is missing there."""
        self._there = {point_id for _, point_id in target.points.names(uuid)}
        self._read: dict[str, Pair | None] = {}

    def has(self, point: Point) -> bool:
        """Return whether the target has ``point``."""
        return point.point in self._there

    def add(self, pair: Pair) -> None:
        """Note a point that has just been copied."""
        self._there.add(pair.target.point)
        self._read[pair.target.point] = pair

    def near(self, point: Point) -> Iterator[Pair]:
        """Yield the common points nearest to ``point``: those before it, newest first, then those after."""
        there = sorted(self._there)
        yield from self._pairs(point_id for point_id in reversed(there) if point_id < point.point)
        yield from self._pairs(point_id for point_id in there if point_id > point.point)

    def _pairs(self, ids: Iterable[str]) -> Iterator[Pair]:
        common = (point_id for point_id in ids if self._here is None or point_id in self._here)
        for point_id in islice(common, _TRIED):
            if point_id not in self._read:
                self._read[point_id] = self._pair(point_id)
            if (found := self._read[point_id]) is not None:
                yield found

    def previous(self, point: Point) -> str | None:
        """Return the id of the newest readable point that the target has from before ``point``."""
        earlier = sorted((name for name in self._there if name < point.point), reverse=True)
        return next(filter(self._is_readable, earlier), None)

    def _is_readable(self, point_id: str) -> bool:
        if self._read.get(point_id) is not None:
            return True
        try:
            self._target.points.get(self._uuid, point_id)
        except (NoSuchPoint, DamagedData):
            return False
        return True

    def _pair(self, point_id: str) -> Pair | None:
        """Return both records; None if one cannot be read, or if one is not a copy of the other."""
        try:
            here = self._source.points.get(self._uuid, point_id)
        except (NoSuchPoint, DamagedData):
            self._here = {found for _, found in self._source.points.names(self._uuid)}
            return None
        try:
            there = self._target.points.get(self._uuid, point_id)
        except (NoSuchPoint, DamagedData):
            return None
        is_same = origin(self._source, here) == origin(self._target, there)
        return Pair(here, there) if is_same else None


def as_copy(
    source: Repository,
    point: Point,
    disks: tuple[DiskRecord, ...],
    attachments: tuple[Attachment, ...],
    parent: str | None,
) -> Point:
    """Return the record of the copy of a ``point`` of ``source``, with the parts that the target has."""
    return msgspec.structs.replace(
        point,
        disks=disks,
        attachments=attachments,
        parent=parent,
        checkpoint=None,
        checkpoint_xml=None,
        locked_until=None,
        copied_from=origin(source, point),
    )


def never_held(target: Repository, names: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return those of the points, by UUID and id, that ``target`` does not have and has not had.

    Each point there names the one before it. Copies come in order: a point had been there if the next newer
    one names it or a later one. If that one names an earlier one, or cannot be read, it had not.
    """
    there: defaultdict[str, list[str]] = defaultdict(list)
    for uuid, point_id in sorted(target.points.names()):
        there[uuid].append(point_id)
    lacking = [(uuid, point_id) for uuid, point_id in names if point_id not in there[uuid]]
    newer = {name: _next(there[name[0]], name[1]) for name in lacking}
    asked = {(uuid, found) for (uuid, _), found in newer.items() if found is not None}
    read = target.points.read(sorted(asked), lambda *_: None)
    before = {(point.uuid, point.point): point.previous or "" for point in read}
    return [name for name in lacking if before.get((name[0], newer[name] or ""), "") < name[1]]


def _next(point_ids: Sequence[str], point_id: str) -> str | None:
    place = bisect(point_ids, point_id)
    return point_ids[place] if place < len(point_ids) else None


def origin(repository: Repository, point: Point) -> Origin:
    """Return where a point of ``repository`` was taken."""
    return point.copied_from or Origin(repository.id, point.point)
