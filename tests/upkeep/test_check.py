"""Check beside a prune, and what it finds: told to later runs, so that they store anew what was lost."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from datetime import timedelta
from functools import partial

import pytest

from puller.errors import StoreDenied
from puller.events import Event, Notice, ignore
from puller.repository.points import DiskRecord, Point, Ref, new_id
from puller.repository.reading.image import DiskImage
from puller.repository.repository import Repository
from puller.units import CHUNK, MIB, Extent, Kind
from puller.upkeep.checking.check import CheckReport, check
from puller.upkeep.checking.packcheck import Faults
from puller.upkeep.checking.schedule import Reading
from puller.upkeep.pruning.prune import GRACE
from tests.lab.feed import feed
from tests.lab.history import MOMENT, TUNING, content, pack_id_of, uuid_of
from tests.lab.simulated import Process
from tests.upkeep.scene import NOW, Scene


@pytest.fixture
def scene() -> Scene:
    return Scene.new()


def _check(scene: Scene, *points: Point) -> CheckReport:
    return check(scene.open()[1], [point.point for point in points], Reading(100.0), ignore)


# --- beside a prune ---------------------------------------------------------------------------


def _about_to_be_compacted() -> tuple[Scene, Point]:
    """A scene in which the next prune compacts packs; and a point that it may remove without harm."""
    scene = Scene.new()
    disk = [*range(1, 9)]
    first = scene.back_up("a", disk)
    second = scene.back_up("a", [1, 102, 103, 104, 5, 106, 107, 108], first)
    other = scene.back_up("b", [201, 202, 203])
    scene.delete(first)
    scene.wait(GRACE)
    scene.prune()
    scene.wait(GRACE)
    assert second.point in scene.expected
    return scene, other


def _at_every_operation(play: Callable[[Scene, Point], None]) -> list[tuple[int, CheckReport, bool]]:
    """Check as often as it has operations, each time with ``play`` before another one of these."""
    template, other = _about_to_be_compacted()
    process, repository = template.open()
    check(repository, (), Reading(100.0), ignore)
    played = []
    for number in range(len(process.operations)):
        scene = template.copy()
        process, repository = scene.open()
        process.before[number] = partial(play, scene, other)
        report = check(repository, (), Reading(100.0), ignore)
        played.append((number, report, bool(scene.world.names("damaged/"))))
    return played


def test_a_compaction_beside_a_check_is_no_error() -> None:
    def compact(scene: Scene, other: Point) -> None:
        assert scene.prune().packs_compacted > 0

    for number, report, recorded in _at_every_operation(compact):
        assert report.errors == (), f"at operation {number}"
        assert not recorded
        assert 13 <= report.chunks_read <= 19, "whole packs, before their compaction or after it"


def test_a_point_that_is_pruned_beside_a_check_is_no_error() -> None:
    def remove(scene: Scene, other: Point) -> None:
        scene.delete(other)
        assert scene.prune(NOW).packs_deleted > 0

    for number, report, recorded in _at_every_operation(remove):
        assert (report.errors, recorded) == ((), False), f"at operation {number}"


# --- what it finds ----------------------------------------------------------------------------


def _damage(scene: Scene) -> str:
    """Flip a bit in the first chunk of the only data pack; return its name."""
    (name,) = scene.world.names("packs/")
    body = bytearray(scene.world.objects.get(name))
    body[CHUNK // 2] ^= 1
    scene.world.objects.put(name, body)
    return name


def _lost(scene: Scene) -> Point:
    """Two points; a chunk of the first is damaged, which the second does not need."""
    point = scene.back_up("a", [1, 2, 3])
    _damage(scene)
    scene.back_up("b", [7])
    return point


def test_found_damage_is_stored_anew_by_the_next_backup_and_stays_told(scene: Scene) -> None:
    hurt = _lost(scene)
    assert scene.back_up("c", [1, 2, 3]).disks[0].new_bytes == 0, "nobody knows yet"
    errors = _check(scene).errors
    assert len(errors) == 2, "both points that have the chunk"
    (error,) = [error for error in errors if error.point == hurt.point]
    assert (error.disk, error.offset, error.length) == ("vda", 0, CHUNK)
    whole = scene.back_up("d", [1, 2, 3])
    assert whole.disks[0].new_bytes == 3 * CHUNK, "nothing new is put upon a pack that has lost something"
    assert scene.back_up("e", [3, 2, 1]).disks[0].new_bytes == 0, "and then it is found again"
    assert _check(scene, whole).errors == ()
    assert {item.point for item in _check(scene).errors} == {item.point for item in errors}
    assert len(scene.world.names("damaged/")) == 1, "it is recorded once"


def test_a_disk_tells_whether_it_needs_a_damaged_pack(scene: Scene) -> None:
    first = scene.back_up("a", [1, 2])
    pack = pack_id_of(_damage(scene))
    second = scene.back_up("a", [1, 9], first)
    third = scene.back_up("a", [8, 9], second)
    repository = scene.open()[1]
    images = [
        DiskImage(repository.maps, repository.packs, point.disks[0].root.address)
        for point in (first, second, third)
    ]
    assert [image.needs([pack]) for image in images] == [True, True, False]
    roots = [point.disks[0].root.address.pack for point in (first, second, third)]
    assert [image.needs([root]) for image, root in zip(images, roots, strict=True)] == [True] * 3


def test_a_lost_pack_is_recorded_and_forgotten_when_nothing_needs_it(scene: Scene) -> None:
    hurt = _lost(scene)
    scene.world.objects.delete(scene.world.names("packs/"))
    assert _check(scene).errors
    (record,) = scene.world.names("damaged/")
    scene.prune(NOW)
    assert scene.world.names("damaged/") == [record], "a point still needs it"
    scene.delete(*scene.open()[1].points.all())
    assert hurt.point not in scene.expected
    scene.settle()
    assert scene.world.names("damaged/") == []


def test_a_pack_that_turns_out_to_be_whole_is_taken_off(scene: Scene) -> None:
    point = scene.back_up("a", [1, 2, 3])
    name = scene.world.names("packs/")[0]
    sound = scene.world.objects.get(name)
    _damage(scene)
    assert _check(scene).errors
    scene.world.objects.put(name, sound)
    assert check(scene.open()[1], [], Reading(), ignore).errors == ()
    assert len(scene.world.names("damaged/")) == 1, "without reading nobody can tell"
    assert _check(scene, point).errors == ()
    assert scene.world.names("damaged/") == []
    assert scene.back_up("b", [1, 2, 3]).disks[0].new_bytes == 0


def test_what_is_damaged_and_not_reached_is_not_taken_off(scene: Scene) -> None:
    first = scene.back_up("a", [1, 2, 3])
    _damage(scene)
    second = scene.back_up("a", [9, 2, 3], first)
    assert _check(scene).errors
    scene.delete(first)
    assert _check(scene, second).errors == ()
    assert len(scene.world.names("damaged/")) == 1
    assert scene.back_up("b", [1]).disks[0].new_bytes == CHUNK


def test_a_check_that_may_not_write_reports_all_the_same(scene: Scene) -> None:
    class ReadOnly(Process):
        def put_new(self, key: str, body: object) -> None:
            raise StoreDenied("the policy allows no put")

    hurt = _lost(scene)
    told: list[Event] = []
    repository = Repository(ReadOnly(scene.world), scene.template.descriptor, scene.template.keys)
    report = check(repository, (), Reading(100.0), told.append)
    assert [error.point for error in report.errors] == [hurt.point]
    verified, damage = [event.text for event in told if isinstance(event, Notice)]
    assert "cannot record the verified packs" in verified and "policy" in verified
    assert "cannot record the damage" in damage and "policy" in damage


def test_a_damaged_record_of_damage_is_passed_over(scene: Scene) -> None:
    point = _lost(scene)
    _check(scene)
    (name,) = scene.world.names("damaged/")
    scene.world.objects.put(name, scene.world.objects.get(name)[:-1])
    assert scene.back_up("c", [1, 2, 3]).disks[0].new_bytes == 0
    scene.prune(NOW)
    assert content(scene.expected[point.point])
    assert len(scene.world.names("damaged/")) == 1


# --- how much it takes ------------------------------------------------------------------------


def _large_and_sparse(scene: Scene, points: int, size: int) -> None:
    """Points of one domain whose disk is large, has one chunk, and differs from point to point."""
    repository = scene.open()[1]
    for number in range(points):
        with repository.run(TUNING) as run:
            writer = run.disk(size, None)
            feed(run, writer, number.to_bytes(CHUNK, "little"), [Extent(0, CHUNK, Kind.DATA)])
            run.drain()
            record = DiskRecord("vda", "full", size, Ref.to(writer.finish()))
            run.flush()
        moment = MOMENT + timedelta(seconds=number)
        repository.points.commit(Point(new_id(moment), "a", uuid_of("a"), moment, "pull", "full", (record,)))


@pytest.mark.parametrize("damaged", [False, True])
def test_memory_does_not_grow_with_the_number_of_points(scene: Scene, damaged: bool) -> None:
    """A root of these takes 640 KiB in memory, all of them 50 MiB. All else takes 20 to 25."""
    _large_and_sparse(scene, 80, 4 << 40)
    if damaged:
        scene.world.objects.delete(scene.world.names("packs/")[:1])
    repository = scene.open()[1]
    tracemalloc.start()
    try:
        report = check(repository, (), Reading(100.0), ignore)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (report.points, len(report.errors)) == (80, damaged)
    assert peak < 40 * MIB


def test_only_what_needs_a_damaged_pack_is_looked_at_chunk_by_chunk(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = [*range(1, 400)]
    point = scene.back_up("a", disk)
    for number in range(20):
        point = scene.back_up("a", disk, point, moment=MOMENT + timedelta(seconds=number + 1))
    before = scene.world.names("packs/")
    other = scene.back_up("b", [900])
    scene.world.objects.delete([name for name in scene.world.names("packs/") if name not in before])
    asked: list[int] = []
    real = Faults.reason

    def reason(faults: Faults, pack: int, slot: int) -> str | None:
        asked.append(slot)
        return real(faults, pack, slot)

    monkeypatch.setattr(Faults, "reason", reason)
    found = {(error.point, error.disk) for error in _check(scene).errors}
    assert {point for point, _ in found} == {other.point}
    assert len(asked) == len(found)


def test_damage_of_pages_that_points_share_is_told_for_each(scene: Scene) -> None:
    """Some chunks of one page, the same in two disks and doubled within one."""
    first = scene.back_up("a", [1, 2, 3, 0, 1, 2])
    second = scene.back_up("b", [1, 2, 3, 0, 1, 2])
    scene.back_up("c", [7])
    _damage_largest(scene)
    found = {(error.point, error.offset, error.length) for error in _check(scene).errors}
    places = ((0, CHUNK), (4 * CHUNK, CHUNK))
    assert found == {(point.point, *place) for point in (first, second) for place in places}


def _damage_largest(scene: Scene) -> None:
    """Flip a bit in the first chunk of the largest data pack."""
    name = max(scene.world.names("packs/"), key=lambda name: scene.world.objects.stat(name).size)
    body = bytearray(scene.world.objects.get(name))
    body[CHUNK // 2] ^= 1
    scene.world.objects.put(name, body)
