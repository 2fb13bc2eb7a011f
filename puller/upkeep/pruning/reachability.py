"""Reachability: what the restore points reach, pending ones included."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from functools import partial

from puller.errors import CommitUnreadable, DamagedData, NoSuchPoint
from puller.repository.collecting.disposal import Disposal
from puller.repository.collecting.reach import Reach
from puller.repository.format.address import Address
from puller.repository.format.pages import Root
from puller.repository.points import Point
from puller.repository.repository import Repository
from puller.repository.writing import pending
from puller.repository.writing.pending import Pending

_ADVICE = (
    "Run 'puller check'. Delete the restore points that cannot be repaired with 'puller delete', "
    "then prune again."
)


class Reachability:
    """Collects in ``reach``. ``beat`` is called regularly."""

    def __init__(self, repository: Repository, disposal: Disposal, beat: Callable[[], None]) -> None:
        self._repository = repository
        self._disposal = disposal
        self._beat = beat
        self._seen: set[tuple[str, str]] = set()
        self.reach = Reach(repository.maps)

    def add(self, points: Iterable[Point]) -> None:
        """Add committed points. Raises DamagedData if the data of one of them is unknown."""
        fresh: list[tuple[str, Address]] = []
        for point in points:
            self._seen.add((point.uuid, point.point))
            fresh += [(point.point, address) for address in _roots(point) if not self.reach.has_root(address)]
        roots = self._repository.maps.roots(address for _, address in fresh)
        with closing(roots):
            for (name, address), root in zip(fresh, roots, strict=True):
                try:
                    self._take_in(address, root)
                except DamagedData as error:
                    raise _unreadable(name, error) from error

    def _take_in(self, address: Address, root: Root | DamagedData) -> None:
        self._beat()
        if isinstance(root, DamagedData):
            raise root
        if not self.reach.has_root(address):  # several points may share it
            self.reach.note_root(address)
            for damage in self.reach.add(root):
                raise DamagedData(damage.reason)

    def add_new(self, now: float) -> None:
        """List pending points, then points, and add the new ones.

        The order matters: a point that is no longer pending was committed before the points are listed.
        Points that have been pending for too long at ``now``, the store's time in seconds since the epoch,
        are deleted first; if their run is still alive, it notices that.
        """
        self.add_pending(list(self._repository.pending.listed()), now)
        self.add_committed(self._repository.points.names())

    def add_pending(self, listed: Iterable[Pending], now: float) -> None:
        """Add the ``listed`` pending points; the first half of ``add_new``."""
        for item in listed:
            name = item.uuid, item.point
            is_old = item.modified + pending.KEPT <= now
            if is_old and self._disposal.attempt(partial(self._repository.pending.delete, [name])):
                continue
            if name not in self._seen:
                self._add_pending(*name, is_old)

    def add_committed(self, listed: Iterable[tuple[str, str]]) -> None:
        """Add the ``listed`` points that are new; they were listed after all that concerns pending ones."""
        self.add(self._committed([name for name in listed if name not in self._seen]))

    def _add_pending(self, uuid: str, point_id: str, is_old: bool) -> None:
        """A run that prune overtook takes its point back; should it die before, part of that is gone.

        For a day that stops the prune. What the store refuses to delete after that is added as far as it
        can be read.
        """
        try:
            point = self._repository.pending.get(uuid, point_id)
            for address in () if point is None else _roots(point):
                self._add_pending_root(address, is_old)
        except DamagedData as error:
            if is_old:
                return
            raise CommitUnreadable(
                f"cannot read data that the pending point {point_id} needs: {error.message}"
            ) from error

    def _add_pending_root(self, address: Address, is_old: bool) -> None:
        try:
            self._take_in(address, self._repository.maps.root(address))
        except DamagedData:
            if not is_old:
                raise

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
        f"cannot find out which data restore point {point_id} needs, so nothing is removed: {error.message}",
        advice=_ADVICE,
    )
