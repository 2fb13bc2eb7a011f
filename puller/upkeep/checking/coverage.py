"""Whether locks last as long as the points claim (docs/immutability.md).

Only the store's answer counts, not the records: a host that may back up could have written a record that
claims too much, and a user who may bypass locks could have ended one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice

from puller.cancelling import CancelScope
from puller.errors import DamagedData, ObjectNotFound
from puller.repository.collecting.reach import Reach
from puller.repository.format.address import Address
from puller.repository.format.packname import PackKind
from puller.repository.locking import packs_of, vital_names
from puller.repository.points import Point, object_name
from puller.repository.repository import Repository
from puller.repository.shard import Shard
from puller.store.objectlock import histories
from puller.store.parallel import each

_REQUESTS = 16
_Pack = tuple[PackKind, bytes]


@dataclass(frozen=True, slots=True)
class Uncovered:
    """A point that claims to be locked until ``promised``, but needs something that is not.

    ``until`` is when the first such lock ends; None if there is none. ``needs`` names its object, one of
    ``count``.
    """

    point: str
    domain: str
    promised: datetime
    until: datetime | None
    needs: str
    count: int


def by_end(points: Iterable[Point]) -> list[Point]:
    """Return the points in the order in which ``Promises.note`` takes them, the longest locked first."""
    return sorted(points, key=lambda point: -_end(point))


def _end(point: Point) -> float:
    return 0.0 if point.locked_until is None else point.locked_until.timestamp()


@dataclass
class Promises:
    """How long packs should be locked: each until the end of the first noted point that reaches it."""

    packs: dict[_Pack, float] = field(default_factory=dict)
    _data: int = 0
    _maps: int = 0

    def note(self, point: Point, root: Address, reach: Reach, repository: Repository) -> None:
        """Note what ``reach`` has gained through the map at ``root`` of ``point``."""
        table = repository.maps.table
        self.packs.setdefault((PackKind.MAP, root.pack), _end(point))
        for number in islice(reach.packs, self._data, None):
            self.packs.setdefault((PackKind.DATA, table.pack_id(number)), _end(point))
        for number in islice(reach.map_packs, self._maps, None):
            self.packs.setdefault((PackKind.MAP, table.pack_id(number)), _end(point))
        self._data, self._maps = len(reach.packs), len(reach.map_packs)

    def of(self, shard: Shard) -> Promises:
        """Return the promises about the packs of ``shard``."""
        return Promises({pack: end for pack, end in self.packs.items() if shard.has_pack(pack[1])})


def uncovered(repository: Repository, points: Sequence[Point], promises: Promises) -> tuple[Uncovered, ...]:
    """Return the points whose locks end earlier than they claim. Raises StoreError."""
    if not repository.store.locks.possible or not any(map(_end, points)):
        return ()
    now = repository.store.locks.now()
    locked = [point for point in points if _end(point) > now]
    return tuple(_Audit(repository, promises, now).judge(locked)) if locked else ()


class _Audit:
    def __init__(self, repository: Repository, promises: Promises, now: float) -> None:
        self._repository = repository
        asked = [(pack, end) for pack, end in promises.packs.items() if end > now]
        ends = each(repository.scope, self._pack_end, asked, _REQUESTS)
        self._short = {pack: found for (pack, end), found in zip(asked, ends, strict=True) if found < end}
        names = vital_names(repository.store)
        self._vital = dict(zip(names, each(repository.scope, self._end, names, _REQUESTS), strict=True))

    def judge(self, points: Sequence[Point]) -> Iterable[Uncovered]:
        for point in points:
            promised = _end(point)
            own = object_name(point.uuid, point.point)
            ends = {**self._vital, own: self._end(self._repository.scope, own), **self._packs(point)}
            short = {name: end for name, end in ends.items() if end < promised}
            if short and point.locked_until is not None:
                first = min(short, key=lambda name: short[name])
                until = datetime.fromtimestamp(short[first], UTC) if short[first] else None
                yield Uncovered(point.point, point.domain, point.locked_until, until, first, len(short))

    def _packs(self, point: Point) -> dict[str, float]:
        """Return the packs that the point needs and whose locks end too early."""
        if not self._short:
            return {}
        roots = [disk.root for disk in point.disks] + [item.root for item in point.attachments]
        try:
            needed = packs_of(self._repository.maps, [root.address for root in roots])
        except DamagedData:  # which the check has found already
            return {}
        return {kind.object_name(pack): self._short[kind, pack] for kind, pack in needed & self._short.keys()}

    def _pack_end(self, scope: CancelScope, asked: tuple[_Pack, float]) -> float:
        """Return the latest end among all generations and versions: each has everything that points need."""
        (kind, pack_id), promised = asked
        name = kind.object_name(pack_id)
        end = self._end(scope, name)
        if end >= promised:
            return end
        locks = self._repository.store.within(scope).locks
        for history in histories(locks, name):
            for version in history.stored:
                lock = locks.lock_of(version.key, version.version)
                end = max(end, 0.0 if lock is None else lock.until)
        return end

    def _end(self, scope: CancelScope, name: str) -> float:
        try:
            lock = self._repository.store.within(scope).locks.lock_of(name)
        except ObjectNotFound:
            return 0.0
        return 0.0 if lock is None else lock.until
