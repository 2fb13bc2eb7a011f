"""Mark: what the restore points reach, pending ones included."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from puller.errors import CommitUnreadable, DamagedData, NoSuchPoint
from puller.repository import pending
from puller.repository.pages import Address
from puller.repository.points import Point
from puller.repository.reach import Reach
from puller.repository.repository import Repository

_ADVICE = (
    "Run 'puller check'. Delete the restore points that cannot be repaired with 'puller delete', "
    "then prune again."
)


class Mark:
    """Collects in ``reach``. ``beat`` is called now and then."""

    def __init__(self, repository: Repository, beat: Callable[[], None]) -> None:
        self._repository = repository
        self._beat = beat
        self._seen: set[tuple[str, str]] = set()
        self.reach = Reach(repository.maps)

    def add(self, points: Iterable[Point]) -> None:
        """Take in committed points. Raises DamagedData if it cannot be told what one of them reaches."""
        for point in points:
            self._seen.add((point.uuid, point.point))
            try:
                self._add(point)
            except DamagedData as error:
                raise _unreadable(point.point, error) from error

    def _add(self, point: Point) -> None:
        for address in _roots(point):
            self._beat()
            root = self.reach.add_root(address)
            for damage in () if root is None else self.reach.add(root):
                raise DamagedData(damage.reason)

    def add_new(self, now: float) -> None:
        """List what is pending, then the points, and take in what was not seen before.

        In this order: a point that is pending no more when it is looked for has been committed before
        the points are listed. What has been pending for too long by ``now``, the store's time in seconds
        since the epoch, is deleted first; should its run still live, it finds that out.
        """
        for item in self._repository.pending.listed():
            name = item.uuid, item.point
            if item.modified + pending.KEPT <= now:
                self._repository.pending.delete([name])
            elif name not in self._seen:
                self._add_pending(*name)
        names = [name for name in self._repository.points.names() if name not in self._seen]
        self.add(self._committed(names))

    def _add_pending(self, uuid: str, point_id: str) -> None:
        """A run that prune overtook takes its point back; should it die before, part of that is gone."""
        try:
            point = self._repository.pending.get(uuid, point_id)
            if point is not None:
                self._add(point)
        except DamagedData as error:
            raise CommitUnreadable(
                f"a run that is about to commit {point_id} needs what cannot be read: {error.message}"
            ) from error

    def _committed(self, names: Iterable[tuple[str, str]]) -> Iterator[Point]:
        for name in names:
            try:
                yield self._repository.points.get(*name)
            except NoSuchPoint:
                continue
            except DamagedData as error:
                raise _unreadable(name[1], error) from error


def _roots(point: Point) -> Iterator[Address]:
    yield from (disk.root.address for disk in point.disks)
    yield from (item.root.address for item in point.attachments)


def _unreadable(point_id: str, error: DamagedData) -> DamagedData:
    return DamagedData(
        f"what restore point {point_id} needs cannot be told, so nothing is removed: {error.message}",
        advice=_ADVICE,
    )
