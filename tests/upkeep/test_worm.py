"""A repository in a store that overwrites nothing and deletes nothing, for a time or for ever."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from math import inf

import pytest

from puller.errors import StoreDenied
from puller.events import Event, Notice, ignore
from puller.repository import repository as repositories
from puller.repository.keys import key_slots as slots
from puller.repository.keys.key_slots import BACKUP_ONLY, Password
from puller.repository.repository import Repository
from puller.upkeep.checking.check import check
from puller.upkeep.checking.schedule import Reading
from puller.upkeep.keys import add_key
from puller.upkeep.pruning.prune import GRACE, PruneReport, prune
from puller.upkeep.repair import repair_index
from puller.upkeep.retention.policy import Policy
from tests.lab.history import MOMENT, back_up
from tests.lab.simulated import World
from tests.lab.worm import WormStore
from tests.upkeep.scene import ALL_KEPT, NOW, Scene

FIRST, SECOND = Password("correct horse"), Password("battery staple")


@dataclass
class Worm(Scene):
    """A scene whose processes see a WORM store. ``told`` are the notices of the last prune."""

    days: float = inf
    prefix: str = ""
    told: list[Event] = field(default_factory=list)

    @classmethod
    def at(cls, days: float, prefix: str = "") -> Worm:
        world = World()
        return cls(
            world, repositories.create(WormStore(world, days, prefix), FIRST), days=days, prefix=prefix
        )

    def open(self) -> tuple[WormStore, Repository]:
        store = WormStore(self.world, self.days, self.prefix)
        return store, Repository(store, self.template.descriptor, self.template.keys)

    def prune(self, grace: timedelta = GRACE, policy: Policy = ALL_KEPT) -> PruneReport:
        self.told = []
        return prune(self.open()[1], policy, grace, self.told.append)

    @property
    def notices(self) -> list[str]:
        return [event.text for event in self.told if isinstance(event, Notice)]

    def is_sound(self) -> bool:
        return check(self.open()[1], (), Reading(100.0), ignore).errors == () and not self.faults()


@pytest.fixture(params=[0, 30, inf], ids=["no overwriting", "30 days", "for ever"])
def worm(request: pytest.FixtureRequest) -> Worm:
    return Worm.at(request.param)


def test_the_store_of_these_tests_refuses(worm: Worm) -> None:
    store, _ = worm.open()
    with pytest.raises(StoreDenied, match="overwritten"):
        store.put("repository.json", b"")
    if worm.days:
        with pytest.raises(StoreDenied, match="locked"):
            store.delete(["repository.json"])


def _on(day: int) -> datetime:
    return MOMENT + timedelta(days=day)


def _history(worm: Worm) -> Iterator[str]:
    """A year in the life of a repository; after each step all points must be whole."""
    _, repository = worm.open()
    add_key(repository, FIRST, SECOND, BACKUP_ONLY, "host")
    slots.open_slot(repository.store, repository.descriptor.id_bytes, repository.descriptor.id_bytes, SECOND)
    yield "keys"
    first = worm.back_up("a", [*range(1, 9)])
    second = worm.back_up("a", [1, 102, 103, 104, 5, 106, 107, 108], first, moment=_on(1))
    worm.back_up("b", [5, 6, 7, 201])
    yield "backups"
    worm.prune()
    yield "a prune of nothing"
    policy = Policy(last=1)
    report = worm.prune(policy=policy)
    assert (first.point in report.kept) is bool(worm.days), "what the store keeps is not called removed"
    if not worm.days:
        del worm.expected[first.point]
    yield "retention"
    for _ in range(4):
        worm.wait(GRACE)
        worm.prune()
    yield "compaction"
    third = worm.back_up("a", [1, 2, 103, 104, 5, 106, 7, 8], second, moment=_on(2))
    repair_index(worm.open()[1])
    yield "repair"
    worm.wait(timedelta(days=40))
    report = worm.prune(policy=policy)
    for point in (first, second):
        if point.point not in report.kept:
            worm.expected.pop(point.point, None)
    yield "retention later"
    worm.back_up("a", [1, 2, 3, 4, 5, 106, 7, 8], third, moment=_on(3))
    for _ in range(4):
        worm.wait(timedelta(days=31))
        worm.prune()
    yield "long after"


def test_a_whole_history(worm: Worm) -> None:
    for step in _history(worm):
        assert worm.is_sound(), step
    if worm.days < inf:
        assert not worm.notices
        assert len(worm.expected) == 3 and worm.world.names("pending/") == []


def _compacting(worm: Worm) -> None:
    """A pack of which little is needed; the point that needed the rest is gone, as by the owner's hand."""
    gone = worm.back_up("a", [1, 2, 3, 4, 5, 6])
    worm.back_up("b", [3, 9])
    worm.world.objects.delete([f"points/{gone.uuid}/{gone.point}", f"pending/{gone.uuid}/{gone.point}"])
    del worm.expected[gone.point]


def test_a_pack_whose_older_generation_stays_is_compacted_once() -> None:
    worm = Worm.at(30)
    _compacting(worm)
    assert worm.prune(NOW).packs_compacted == 1
    assert any("refuses to delete some unneeded objects" in text for text in worm.notices)
    names = worm.world.names("packs/")
    assert sum(name.endswith(".1") for name in names) == 1
    for _ in range(3):
        worm.wait(GRACE)
        assert worm.prune(NOW).packs_compacted == 0
        assert worm.world.names("packs/") == names
    assert worm.is_sound()
    worm.wait(timedelta(days=30))
    worm.prune(NOW)
    names = worm.world.names("packs/")
    assert len({name.partition(".")[0] for name in names}) == len(names)
    assert worm.is_sound()


def test_a_pack_of_which_two_generations_stay_is_verified_once() -> None:
    worm = Worm.at(30)
    _compacting(worm)
    worm.prune(NOW)
    verified = []
    for _ in range(2):
        verified.append(check(worm.open()[1], (), Reading(max_age=timedelta(days=9)), ignore).packs_verified)
        worm.wait(GRACE)
        worm.prune(NOW)
    assert verified == [2, 0]
    worm.wait(timedelta(days=30))
    worm.prune(NOW)
    report = check(worm.open()[1], (), Reading(max_age=timedelta(days=50)), ignore)
    assert report.packs_verified == 1, "the generation that is left was not read"


def test_nothing_is_written_again_and_again() -> None:
    """After it has settled, a prune adds its own lease and nothing else."""
    worm = Worm.at(inf)
    _compacting(worm)
    for number in range(10):
        worm.back_up("c", [300 + number])  # index objects enough to be merged
    for _ in range(4):
        worm.prune()
        worm.wait(timedelta(days=31))
    before = set(worm.world.names())
    for _ in range(3):
        worm.prune()
        worm.wait(timedelta(days=31))
    assert {name.partition("/")[0] for name in set(worm.world.names()) - before} == {"locks"}
    assert worm.is_sound()


def test_a_record_stays_as_long_as_an_index_that_it_contradicts_cannot_be_deleted() -> None:
    """Else a run would find in that index what is gone."""
    worm = Worm.at(inf, "index/")
    worm.delete(worm.back_up("a", [1, 2, 3]))
    worm.prune(NOW)
    assert worm.world.names("packs/") == []
    for _ in range(2):
        worm.wait(timedelta(days=31))
        worm.prune(NOW)
    worm.back_up("c", [1, 2, 3])
    assert worm.is_sound()


def test_a_record_stays_as_long_as_what_it_names_cannot_be_removed() -> None:
    """The index may name it still, and a later prune goes on with the record."""
    worm = Worm.at(inf, "packs/")
    _compacting(worm)
    worm.prune(NOW)
    gone = worm.back_up("c", [11, 12, 13, 14, 15])
    worm.back_up("d", [13, 19])
    worm.delete(gone)
    worm.prune(NOW)
    records = worm.world.names("condemned/")
    for _ in range(2):
        worm.wait(timedelta(days=31))
        worm.prune(NOW)
    assert set(worm.world.names("condemned/")) == set(records)
    worm.prefix = "-"
    worm.prune(NOW)
    assert worm.waste() == [] and worm.is_sound()


def test_a_record_stays_as_long_as_a_lower_generation_shows_what_it_names() -> None:
    """Whoever reads the footer of that generation would refer to what goes with it."""
    worm = Worm.at(inf, "-")
    _compacting(worm)
    trial = worm.copy()
    trial.prune(NOW)
    (worm.prefix,) = (name[:-2] for name in trial.world.names("packs/") if name.endswith(".1"))
    worm.prune(NOW)
    records = worm.world.names("condemned/")
    for _ in range(2):
        worm.wait(timedelta(days=31))
        worm.prune(NOW)
    assert worm.world.names("condemned/") == records != []
    worm.back_up("c", [1, 2])
    worm.prefix = "-"
    worm.prune(NOW)
    assert worm.waste() == [] and worm.is_sound()


def test_an_old_pending_point_that_cannot_be_deleted_counts() -> None:
    """Its run may commit it yet: it finds the pending object in its place."""
    worm = Worm.at(inf, "pending/")
    store, repository = worm.open()
    backup = back_up(repository, "a", [1, 2, 3])
    at = len(store.operations)

    def sleep() -> None:
        worm.wait(timedelta(days=2))
        worm.prune(NOW)
        worm.prune(NOW)

    store.before[at + 2] = sleep
    worm.commit(backup)
    assert store.operations[at + 2].startswith("put points/")
    assert worm.is_sound()


def test_an_old_pending_point_that_cannot_be_read_or_deleted_stops_no_prune() -> None:
    worm = Worm.at(inf, "pending/")
    _, repository = worm.open()
    backup = back_up(repository, "a", [1, 2, 3])
    repository.pending.put(backup.point)
    worm.world.objects.delete(worm.world.names("maps/"))
    worm.wait(timedelta(days=2))
    worm.back_up("b", [4])
    worm.prune(NOW)
    assert worm.is_sound()
