"""Shards: every pack and machine in exactly one, with no coordinator; a shard that died goes on."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import puller
from puller.errors import StoreUnavailable, UsageError
from puller.events import ignore
from puller.recovery.proving.prove import not_since
from puller.repository.records.proofs import Proof
from puller.repository.repository import Repository
from puller.repository.shard import WHOLE, Shard, parse
from puller.store.base import ObjectInfo
from puller.units import CHUNK
from puller.upkeep.checking import schedule
from puller.upkeep.checking.check import CheckReport, check
from puller.upkeep.checking.schedule import Reading
from tests.lab.archive import make_point
from tests.lab.history import pack_id_of
from tests.lab.simulated import Process, World
from tests.upkeep.scene import Scene

ALL = Reading(100.0)
DAY = timedelta(days=1)


@pytest.fixture
def scene() -> Scene:
    """A repository of 24 data packs of one size."""
    scene = Scene.new()
    for number in range(24):
        scene.back_up(f"d{number}", [10 * number + place for place in range(1, 4)])
    return scene


class Counting(Process):
    """Counts how often each data pack is opened, and dies after ``lives`` of them."""

    def __init__(self, world: World, lives: int = 1000) -> None:
        super().__init__(world)
        self.opened: Counter[str] = Counter()
        self._lives = lives

    def get_tail(self, key: str, length: int) -> tuple[bytes, ObjectInfo]:
        if key.startswith("packs/"):
            if self.opened.total() >= self._lives:
                raise StoreUnavailable("the host of this shard has lost its power")
            self.opened[key] += 1
        return super().get_tail(key, length)


def run(scene: Scene, shard: Shard, reading: Reading = ALL) -> tuple[CheckReport, Counter[str]]:
    store = Counting(scene.world)
    repository = Repository(store, scene.template.descriptor, scene.template.keys)
    return check(repository, (), reading, ignore, shard=shard), store.opened


@settings(deadline=None)
@given(st.binary(min_size=16, max_size=16), st.uuids(), st.integers(1, 60))
def test_every_pack_and_every_machine_is_in_exactly_one_shard(
    pack: bytes, machine: object, count: int
) -> None:
    shards = [Shard(index, count) for index in range(1, count + 1)]
    assert sum(shard.has_pack(pack) for shard in shards) == 1
    assert sum(shard.has_machine(str(machine)) for shard in shards) == 1
    assert Shard(0, count).has_pack(pack) is Shard(count, count).has_pack(pack)


@pytest.mark.parametrize("word", ["", "1", "1/", "/2", "3/2", "1/0", "-1/2", "a/b", "1/2/3", "1/9999999"])
def test_what_names_no_shard_is_refused(word: str) -> None:
    with pytest.raises(ValueError, match="invalid shard"):
        parse(word)


def test_a_shard_beyond_the_last_is_refused() -> None:
    with pytest.raises(UsageError):
        Shard(3, 2)


@pytest.mark.parametrize("reading", [Reading(), ALL, Reading(max_age=DAY)])
@pytest.mark.parametrize("count", [2, 3])
def test_shards_together_open_every_pack_once(scene: Scene, count: int, reading: Reading) -> None:
    whole, opened = run(scene.copy(), WHOLE, reading)
    results = [run(scene, Shard(index, count), reading) for index in range(count)]
    together: Counter[str] = sum((found for _, found in results), Counter())
    assert together == opened == dict.fromkeys(scene.world.names("packs/"), 1)
    reports = [report for report, _ in results]
    assert all(report.points == 24 and not report.errors for report in reports)
    for name in ("packs", "chunks_read", "packs_verified"):
        assert sum(getattr(report, name) for report in reports) == getattr(whole, name)
    assert all(0 < len(found) < 24 for _, found in results)


def test_the_oldest_verification_is_that_of_the_shard(scene: Scene) -> None:
    report, _ = run(scene, Shard(1, 2))
    assert report.oldest_verified == datetime.fromtimestamp(scene.world.now, UTC)
    assert run(scene, Shard(2, 2), Reading())[0].oldest_verified is None


def test_damage_is_found_by_the_shard_that_has_the_pack(scene: Scene) -> None:
    name = scene.world.names("packs/")[0]
    sound = scene.world.objects.get(name)
    scene.world.objects.put(name, bytes([sound[0] ^ 1]) + sound[1:])
    for index in (1, 2):
        report, _ = run(scene, Shard(index, 2))
        assert bool(report.errors) is Shard(index, 2).has_pack(pack_id_of(name))


def test_a_shard_that_died_goes_on_where_it_was(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedule, "BATCH_PACKS", 2)
    first, reading = Counting(scene.world, lives=5), Reading(max_age=DAY)
    with pytest.raises(StoreUnavailable):
        check(
            Repository(first, scene.template.descriptor, scene.template.keys),
            (),
            reading,
            ignore,
            shard=Shard(1, 2),
        )
    report, again = run(scene, Shard(1, 2), reading)
    twice = [name for name, times in (first.opened + again).items() if times > 1]
    mine = [name for name in scene.world.names("packs/") if Shard(1, 2).has_pack(pack_id_of(name))]
    assert (first.opened + again).keys() == set(mine)
    assert len(twice) <= 2, "only the packs of the batch that was under way"
    assert report.packs_verified < len(mine)


def test_shards_of_a_copy_have_each_machine_once(tmp_path: Path) -> None:
    source = puller.create_repository(str(tmp_path / "source"))
    target = puller.create_repository(str(tmp_path / "target"))
    content = bytes(range(256)) * (CHUNK // 256)
    moment = datetime(2026, 11, 1, tzinfo=UTC)
    points = [
        make_point(source, {"vda": bytes([number, age]) + content}, f"d{number}", moment + age * DAY)
        for number in range(6)
        for age in range(2)
    ]
    copied = [
        [item.point for item in puller.copy_points(source, target, shard=Shard(index, 2)).copied]
        for index in (1, 2)
    ]
    assert sorted([*copied[0], *copied[1]]) == sorted(point.point for point in points)
    machines = [{point.uuid for point in points if point.point in some} for some in copied]
    assert machines[0].isdisjoint(machines[1]) and all(machines)
    named = puller.copy_points(source, target, [point.point for point in points], shard=Shard(2, 2))
    assert sorted(named.present) == sorted(copied[1])


def test_machines_that_were_drilled_lately_are_left_out(scene: Scene) -> None:
    points = scene.open()[1].points.all()
    for point in points[:2]:
        proof = Proof(datetime.now(UTC), "failed", point.domain)
        scene.open()[1].proofs.put((point.uuid, point.point), proof)
        scene.wait(DAY)
    left = not_since(scene.open()[1], points, timedelta(hours=30))
    assert left == [points[0], *points[2:]]
