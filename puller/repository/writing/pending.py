"""Pending points and the commit of a point during a prune (docs/format.md, "Write order").

::

    writer   put pending ──┬─ parents there? ─┬── put point ── pending there? ── delete pending
             put the index ┘  condemned?      ┘
    prune    put final record ── list pending, then points ── mark ── remove what is final and unmarked

Either prune sees the pending point, and keeps what it reaches; or the final record was put before the
pending point, and the writer sees that. No clock is involved.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from puller.cancelling import Scoped, cleanup
from puller.errors import (
    DamagedData,
    NoSuchPoint,
    ObjectNotFound,
    Overtaken,
    PullerError,
    StoreError,
    UnknownKind,
)
from puller.repository import points as records
from puller.repository.format.address import Address
from puller.repository.format.sealing import BOX_LIMIT, Boxes, BoxKind
from puller.repository.points import Point, Points
from puller.store.base import Store
from puller.store.parallel import together

if TYPE_CHECKING:
    from puller.repository.writing.claims import Standing

PREFIX = "pending/"

KEPT = 86400.0
"""Seconds after which a pending point no longer counts: its run has died. A commit takes seconds."""


@dataclass(frozen=True, slots=True)
class Pending:
    """An existing pending point; ``modified`` is when it was put, by the store's clock."""

    uuid: str
    point: str
    modified: float


class PendingPoints(Scoped):
    """The pending points of one repository."""

    def __init__(self, store: Store, boxes: Boxes) -> None:
        self._store = store
        self.scope = store.scope
        self._boxes = boxes

    def listed(self) -> Iterator[Pending]:
        """Return all pending points."""
        for info in self._store.list(PREFIX):
            name = records.parse_name(info.key, PREFIX)
            if name is not None and info.size:  # an empty object is foreign
                yield Pending(*name, info.modified)

    def get(self, uuid: str, point_id: str) -> Point | None:
        """Return the pending point; None if it is no longer pending. Raises DamagedData."""
        name = _name(uuid, point_id)
        try:
            box = self._store.get(name, max_size=BOX_LIMIT)
        except ObjectNotFound:
            return None
        try:
            content = self._boxes.unpack(BoxKind.POINT, name, box)
        except UnknownKind:
            return None
        return records.decode(content, records.object_name(uuid, point_id))

    def put(self, point: Point) -> None:
        """Announce ``point``, whose packs, pages and roots are durable."""
        name = _name(point.uuid, point.point)
        self._store.put_new(name, self._boxes.pack(BoxKind.POINT, name, msgspec.json.encode(point)))

    def since(self, point: Point) -> float:
        """Return when ``point`` was put, by the store's clock. Raises Overtaken if it is not pending."""
        try:
            return self._store.stat(_name(point.uuid, point.point)).modified
        except ObjectNotFound as error:
            raise Overtaken(f"the commit of {point.point} took longer than a day") from error

    def delete(self, names: Iterable[tuple[str, str]]) -> None:
        """Delete the pending points with these (domain uuid, point id)."""
        self._store.delete([_name(*name) for name in names])


def _name(uuid: str, point_id: str) -> str:
    return f"{PREFIX}{uuid}/{point_id}"


def commit(  # noqa: PLR0913, PLR0917 - the parts of a run
    points: Points,
    pending: PendingPoints,
    claims: Standing,
    bases: set[Address],
    point: Point,
    put_index: Callable[[], None],
) -> float:
    """Publish ``point``, whose packs are durable, unless prune may remove its data.

    ``put_index`` puts the index objects that are left: a pending point needs none. Returns when it was
    announced by the store's clock, in seconds since the epoch.

    ``bases`` are the roots of the run's bases. Raises Overtaken if a point with one of them is gone, or if
    data that the run refers to is being removed: then nothing is published and the run can be repeated.
    Raises StoreError as ``Points.commit`` does; the pending point then stays for a day, since the commit
    may still take effect.
    """
    announced = _announced(point)
    names = [(announced.uuid, announced.point)]
    try:
        together(pending.scope, lambda _: pending.put(announced), lambda _: put_index())
        together(
            pending.scope,
            lambda own: _require_bases(points.within(own), bases, point),
            lambda _: claims.require_standing(lambda: pending.since(announced)),
        )
    except BaseException:
        _forget(pending, names)
        raise
    points.commit(point)
    moment = _require_pending(points, pending, point, announced)
    _forget(pending, names)
    return moment


def _announced(point: Point) -> Point:
    """Return the point as it is announced: a copy under an id of its own.

    A copy has the id of its original, which another run may have announced: one that died, or that works
    beside this one. No run may rely on another one's pending object, nor delete it.
    """
    if point.copied_from is None:
        return point
    return msgspec.structs.replace(point, point=records.new_id(point.time))


def _forget(pending: PendingPoints, names: Sequence[tuple[str, str]]) -> None:
    """Delete the pending point, without a long wait: prune deletes it too."""
    with suppress(StoreError):
        pending.within(cleanup()).delete(names)


def _require_bases(points: Points, bases: set[Address], point: Point) -> None:
    """Data that a run took over from a base without reading it is safe while a point has that base.

    A disk that was read as a whole has a parent too, but takes nothing over from it: that one may be gone.
    """
    needed, lost = set(bases), None
    parents = {point.parent, *(disk.parent for disk in point.disks)}
    for name in sorted(filter(None, parents)) if needed else ():
        try:
            needed -= points.get(point.uuid, name).roots()
        except (NoSuchPoint, DamagedData) as error:
            lost = error
    if needed and lost is not None:
        raise _without(lost) from lost
    if needed:
        raise Overtaken("no parent of the point has the map on which this run is based")


def _without(lost: NoSuchPoint | DamagedData) -> PullerError:
    """Return the error for a missing parent: if it is damaged, the run should start again without it."""
    if isinstance(lost, DamagedData):
        return DamagedData(lost.message, advice=lost.advice)
    return Overtaken(f"the base of this incremental run is gone: {lost.message}")


def _require_pending(points: Points, pending: PendingPoints, point: Point, announced: Point) -> float:
    """Prune drops a pending point only after a day, and lists the points only after that."""
    try:
        return pending.since(announced)
    except Overtaken:
        points.delete([(point.uuid, point.point)])
        raise
