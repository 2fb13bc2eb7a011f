"""The points of one domain, newest first, read only as far as needed."""

from __future__ import annotations

from collections.abc import Iterator

from puller.cancelling import CancelScope
from puller.errors import DamagedData, NoSuchPoint
from puller.hypervisor.domain.checkpoint import owner_of
from puller.repository.points import Point, newest_first
from puller.repository.repository import Repository
from puller.store.parallel import each

_TOGETHER = 8
"""Records read at once: each would cost a round trip, and most runs need some of them."""


class History:
    """Iterates over the readable points; each record is read once. Raises StoreError."""

    def __init__(self, repository: Repository, uuid: str) -> None:
        self._repository = repository
        self._uuid = uuid
        self.ids = sorted((point_id for _, point_id in repository.points.names(uuid)), reverse=True)
        self._ahead: dict[str, Point | None] = {}
        self._read: list[Point] = []
        self._rest = newest_first(self.ids, self._get)

    @classmethod
    def only(cls, repository: Repository, point: Point) -> History:
        """Return the history that consists of ``point`` alone."""
        history = cls.__new__(cls)
        history._repository, history._uuid = repository, point.uuid
        history.ids, history._read, history._rest = [point.point], [point], iter(())
        return history

    def __iter__(self) -> Iterator[Point]:
        position = 0
        while position < len(self._read) or self._advance():
            yield self._read[position]
            position += 1

    def _advance(self) -> bool:
        point = next(self._rest, None)
        if point is not None:
            self._read.append(point)
        return point is not None

    def _get(self, point_id: str) -> Point | None:
        if point_id not in self._ahead:
            start = self.ids.index(point_id)
            batch = self.ids[start : start + _TOGETHER]
            records = each(self._repository.scope, self._load, batch, _TOGETHER)
            self._ahead = dict(zip(batch, records, strict=True))
        return self._ahead.pop(point_id)

    def _load(self, scope: CancelScope, point_id: str) -> Point | None:
        try:
            return self._repository.within(scope).points.get(self._uuid, point_id)
        except (NoSuchPoint, DamagedData):
            return None

    def holds(self, checkpoint: str) -> bool:
        """Return whether the point with which our ``checkpoint`` was created exists; it needs that point."""
        return owner_of(checkpoint) in self.ids
