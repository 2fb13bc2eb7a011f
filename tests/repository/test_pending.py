"""The commit of a point: only upon parents that are there, and nothing half done is left."""

from __future__ import annotations

import pytest
from msgspec import structs

from puller.errors import DamagedData, Overtaken
from puller.repository import points as records
from puller.repository import repository as repositories
from puller.repository.collecting.disposal import Disposal
from puller.repository.format.address import Address
from puller.repository.points import Point, new_id
from puller.repository.repository import Repository
from puller.repository.writing.pending import commit
from puller.upkeep.pruning.reachability import Reachability
from tests.lab.archive import make_point
from tests.lab.memory import MemoryStore

CONTENT = bytes(range(1, 256))


def _child(parent: Point) -> Point:
    """A point that was taken incrementally from ``parent``, and of which nothing changed."""
    disks = tuple(structs.replace(disk, parent=parent.point) for disk in parent.disks)
    return structs.replace(parent, point=new_id(parent.time), disks=disks, parent=parent.point)


def _commit(repository: Repository, bases: set[Address], point: Point) -> None:
    with repository.run() as run:
        run.flush()
        commit(repository.points, repository.pending, run._claims, bases, point, lambda: None)


def _names(repository: Repository) -> set[str]:
    return {info.key for prefix in ("points/", "pending/") for info in repository.store.list(prefix)}


def _scene() -> tuple[Repository, Point, Point, set[Address]]:
    repository = repositories.create(MemoryStore(), None)
    parent = make_point(repository, {"vda": CONTENT, "vdb": CONTENT[1:]})
    return repository, parent, _child(parent), {disk.root.address for disk in parent.disks}


def test_a_point_is_published_upon_its_parent() -> None:
    repository, parent, child, bases = _scene()
    _commit(repository, bases, child)
    assert _names(repository) == {records.object_name(point.uuid, point.point) for point in (parent, child)}
    assert repository.points.get(child.uuid, child.point) == child


@pytest.mark.parametrize("fault", ["gone", "damaged", "another"])
def test_a_point_whose_parent_is_lost_is_not_published(fault: str) -> None:
    """A run that is repeated can succeed after prune; upon a damaged record it would fail again."""
    repository, parent, child, bases = _scene()
    name = records.object_name(parent.uuid, parent.point)
    if fault == "another":
        bases = {Address(bytes(16), 0)}
    else:
        repository.store.delete([name])
    if fault == "damaged":
        repository.store.put(name, b"garbage")
    before = _names(repository)
    with pytest.raises(DamagedData if fault == "damaged" else Overtaken):
        _commit(repository, bases, child)
    assert _names(repository) == before


def test_a_parent_that_nothing_is_taken_over_from_may_be_lost() -> None:
    repository, parent, child, _ = _scene()
    repository.points.delete([(parent.uuid, parent.point)])
    _commit(repository, set(), child)
    assert _names(repository) == {records.object_name(child.uuid, child.point)}


def test_a_point_whose_announcement_is_forgotten_is_withdrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prune forgets it after a day, and then does not know what the point needs."""
    repository, parent, child, bases = _scene()
    publish = repository.points.commit

    def slowly(point: Point) -> None:
        repository.pending.delete([(point.uuid, point.point)])
        publish(point)

    monkeypatch.setattr(repository.points, "commit", slowly)
    with pytest.raises(Overtaken, match="longer than a day"):
        _commit(repository, bases, child)
    assert _names(repository) == {records.object_name(parent.uuid, parent.point)}


def test_what_is_pending_is_listed_and_read() -> None:
    repository, _, child, _ = _scene()
    repository.store.put("pending/notes.txt", b"of somebody else")
    repository.pending.put(child)
    [listed] = repository.pending.listed()
    assert (listed.uuid, listed.point) == (child.uuid, child.point)
    assert listed.modified == repository.pending.since(child)
    assert repository.pending.get(child.uuid, child.point) == child
    repository.pending.delete([(child.uuid, child.point)])
    assert not list(repository.pending.listed())
    assert repository.pending.get(child.uuid, child.point) is None


@pytest.mark.parametrize(("age", "needed"), [(86399, True), (86400, False)])
def test_what_is_pending_keeps_what_it_needs_for_a_day(age: float, needed: bool) -> None:
    repository, parent, child, [root, _] = _scene()
    repository.points.delete([(parent.uuid, parent.point)])
    repository.pending.put(child)
    reachability = Reachability(repository, Disposal(), lambda: None)
    reachability.add_new(repository.pending.since(child) + age)
    assert reachability.reach.has_root(root) == needed
    assert bool(list(repository.pending.listed())) == needed
