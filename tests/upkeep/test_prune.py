"""Prune one after the other: what is removed, what stays, and what it costs."""

from __future__ import annotations

import time
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from puller.errors import DamagedData, Locked, UsageError
from puller.repository import repository as repositories
from puller.repository.collecting.lease import Lease
from puller.repository.format.footer import DEAD, Footer
from puller.repository.format.packname import ID, PackKind
from puller.repository.keys.key_slots import Password
from puller.repository.keys.keyring import NO_KEY_BOX, KeyRing
from puller.repository.repository import Repository
from puller.store.base import Store
from puller.store.directory.folder import FolderStore
from puller.store.s3.client.client import connect
from puller.upkeep.pruning import survey
from puller.upkeep.pruning.prune import GRACE, preview, prune
from puller.upkeep.retention.delete import delete
from puller.upkeep.retention.policy import Policy
from tests.lab.history import MOMENT, back_up, data_bytes, misleading_index, pack_id_of, wrong_points
from tests.lab.seaweed import Seaweed
from tests.upkeep.scene import ALL_KEPT, FOREIGN, NOW, Scene

DAY = timedelta(days=1)


@pytest.fixture(params=[None, "correct horse"], ids=["plain", "encrypted"])
def scene(request: pytest.FixtureRequest) -> Scene:
    return Scene.new(request.param)


def test_what_only_a_deleted_point_reached_goes_once_the_grace_time_has_passed(scene: Scene) -> None:
    gone = scene.back_up("a", [1, 2, 3, 4])
    scene.back_up("b", [5, 6])
    scene.delete(gone)
    assert scene.prune().packs_condemned == 0, "the packs are younger than the grace time"
    scene.wait(GRACE)
    report = scene.prune()
    assert (report.packs_condemned, report.packs_deleted) == (2, 0)
    scene.wait(GRACE - timedelta(seconds=1))
    assert scene.prune().packs_deleted == 0
    scene.wait(timedelta(seconds=1))
    before = sum(info.size for info in scene.world.objects.list("packs/"))
    report = scene.prune()
    assert (report.packs_condemned, report.packs_deleted, report.packs_compacted) == (0, 2, 0)
    assert report.bytes_freed > 4 * 65536 > before - report.bytes_freed
    assert scene.faults() == scene.waste() == []


def test_without_grace_one_prune_removes_everything(scene: Scene) -> None:
    gone = scene.back_up("a", [1, 2, 3, 4])
    scene.back_up("b", [5, 6])
    scene.delete(gone)
    report = scene.prune(NOW)
    assert (report.packs_condemned, report.packs_deleted) == (2, 2)
    assert scene.faults() == scene.waste() == []


def test_an_earlier_shorter_prune_does_not_bind_one_in_a_hurry(scene: Scene) -> None:
    scene.delete(scene.back_up("a", [1, 2, 3, 4]))
    scene.wait(GRACE)
    assert scene.prune().packs_condemned == 2
    assert scene.prune(NOW).packs_deleted == 2


def test_a_pack_that_is_mostly_dead_is_compacted_into_its_next_generation(scene: Scene) -> None:
    first = scene.back_up("a", [1, 2, 3, 4])
    scene.back_up("b", [3, 9])
    scene.delete(first)
    packs = scene.world.names("packs/")
    assert scene.prune(NOW).packs_compacted == 1
    (before,) = set(packs) - set(scene.world.names("packs/"))
    assert set(scene.world.names("packs/")) - set(packs) == {f"{before}.1"}
    assert scene.faults() == scene.waste() == []
    assert data_bytes(scene.open()[1]) < 2 * 65536 + 3000


def test_what_is_mostly_live_stays_as_it_is(scene: Scene) -> None:
    first = scene.back_up("a", [1, 2, 3, 4])
    scene.back_up("b", [2, 3, 4, 9])
    scene.delete(first)
    size = data_bytes(scene.open()[1])
    report = scene.prune(NOW)
    assert (report.packs_condemned, data_bytes(scene.open()[1])) == (1, size), "only a map pack is dead"


def test_a_small_gain_is_not_worth_a_compaction(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("puller.upkeep.pruning.survey.LEAST_GAIN", 4 * 65536)
    first = scene.back_up("a", [1, 2, 3, 4])
    scene.back_up("b", [3, 9])
    scene.delete(first)
    assert scene.prune(NOW).packs_compacted == 0


def test_map_packs_are_compacted_too(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("puller.upkeep.pruning.survey.LEAST_GAIN", 1)
    first = scene.back_up("a", [1, 2, 3, 4])
    scene.back_up("a", [5, 6])  # its attachment is in the map pack of the first point
    scene.delete(first)
    maps = {pack_id_of(info.key): info.size for info in scene.world.objects.list("maps/")}
    assert scene.prune(NOW).packs_compacted >= 1
    after = {pack_id_of(info.key): info.size for info in scene.world.objects.list("maps/")}
    assert after.keys() == maps.keys()
    assert sum(after.values()) < sum(maps.values())
    assert scene.faults() == []


def test_a_compacted_pack_is_deleted_when_the_rest_dies(scene: Scene) -> None:
    first = scene.back_up("a", [1, 2, 3, 4])
    second = scene.back_up("b", [3, 9])
    scene.delete(first)
    scene.prune(NOW)
    scene.delete(second)
    scene.prune(NOW)
    assert scene.world.names("packs/") == scene.world.names("maps/") == scene.world.names("index/") == []


def test_a_point_taken_later_that_uses_condemned_data_saves_it(scene: Scene) -> None:
    gone = scene.back_up("a", [1, 2, 3, 4])
    scene.wait(GRACE)
    early = back_up(scene.open()[1], "b", [2, 3, 4])
    scene.delete(gone)
    scene.prune()
    scene.commit(early)
    scene.wait(GRACE)
    report = scene.prune()
    assert report.packs_deleted == 1, "the map pack of the deleted point"
    assert scene.faults() == []
    late = back_up(scene.open()[1], "c", [1, 2, 3, 4])
    assert late.point.disks[0].new_bytes == 0, "what is used again serves deduplication again"


def test_condemned_data_is_stored_again_and_never_referred_to(scene: Scene) -> None:
    gone = scene.back_up("a", [1, 2, 3, 4])
    scene.delete(gone)
    scene.wait(GRACE)
    scene.prune()
    backup = back_up(scene.open()[1], "b", [1, 2, 3, 4])
    assert backup.point.disks[0].new_bytes == 4 * 65536
    scene.commit(backup)
    scene.wait(GRACE)
    assert scene.prune().packs_deleted == 2
    assert scene.faults() == []


def test_live_slots_of_a_compacted_pack_still_serve_deduplication(scene: Scene) -> None:
    first = scene.back_up("a", [1, 2, 3, 4])
    scene.back_up("b", [3, 9])
    scene.delete(first)
    scene.prune(NOW)
    backup = back_up(scene.open()[1], "c", [1, 3, 9])
    assert backup.point.disks[0].new_bytes == 65536
    scene.commit(backup)
    assert scene.faults() == []


def test_points_go_in_any_order(scene: Scene) -> None:
    one = scene.back_up("a", [1, 2, 3, 4])
    two = scene.back_up("a", [1, 5, 3, 4], one)
    three = scene.back_up("a", [6, 5, 3, 7], two)
    repository = scene.open()[1]
    assert delete(repository, [two.point, two.point[:20]]) == (two.point,)
    del scene.expected[two.point]
    scene.settle()
    assert scene.faults() == scene.waste() == []
    scene.delete(one)
    scene.settle()
    assert scene.faults() == scene.waste() == []
    scene.delete(three)
    scene.settle()
    assert scene.world.names("packs/") == []


def test_policy_removes_points_and_says_why(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: scene.world.now)
    points = [scene.back_up("a", [day, 99], moment=MOMENT + day * DAY) for day in range(1, 5)]
    names = [point.point for point in points]
    policy = Policy(last=2)
    world = scene.world.copy()
    seen = preview(scene.open()[1], policy)
    assert scene.world.names() == world.names()
    assert seen.removed == tuple(names[:2])
    assert [item.reasons for item in seen.decisions[:2]] == [("no rule keeps it",)] * 2
    report = scene.prune(policy=policy)
    assert (report.kept, report.removed) == (tuple(names[2:]), tuple(names[:2]))
    assert report.decisions == seen.decisions
    for name in names[:2]:
        del scene.expected[name]
    scene.settle()
    assert scene.faults() == scene.waste() == []


def test_foreign_objects_stay(scene: Scene) -> None:
    process, _ = scene.open()
    for key in FOREIGN:
        if "/." not in key:
            process.put(key, b"not ours")
    before = {key for key in scene.world.names() if key in FOREIGN}
    scene.delete(scene.back_up("a", [1, 2, 3, 4]))
    scene.settle()
    assert before == {key for key in scene.world.names() if key in FOREIGN} != set()


def test_packs_of_a_run_that_died_are_reclaimed(scene: Scene) -> None:
    back_up(scene.open()[1], "a", [1, 2, 3, 4])
    scene.settle()
    assert scene.world.names("packs/") == scene.world.names("maps/") == scene.world.names("index/") == []


def test_nothing_is_removed_while_a_kept_point_is_unreadable(scene: Scene) -> None:
    for day in (1, 2):
        scene.back_up("a", [1, 2, 3, day + 10], moment=MOMENT + day * DAY)
    newest = scene.template.points.all()[-1]
    root = newest.disks[0].root
    scene.world.objects.delete([PackKind.MAP.object_name(root.address.pack)])
    before = scene.world.names()
    with pytest.raises(DamagedData, match=newest.point):
        scene.prune(NOW, Policy(last=1))
    assert scene.world.names() == before, "not even what the policy does not keep"
    repository = scene.open()[1]
    assert delete(repository, [newest.point]) == (newest.point,)
    del scene.expected[newest.point]
    assert scene.prune(NOW).packs_deleted > 0
    assert scene.faults() == []


def test_one_prune_at_a_time(scene: Scene) -> None:
    process, repository = scene.open()
    with Lease.take(process, repository.keys.boxes(), "prune"), pytest.raises(Locked):
        scene.prune()
    scene.prune()


def test_a_backup_only_key_can_prune() -> None:
    scene = Scene.new("correct horse")
    first = scene.back_up("a", [1, 2, 3, 4])
    scene.back_up("b", [3, 9])
    scene.delete(first)
    full = scene.template.keys
    keys = KeyRing.from_backup_only(full.repository_id, full.repository_id, full.backup_only())
    process, repository = scene.open()
    report = prune(Repository(process, repository.descriptor, keys), ALL_KEPT, NOW)
    assert report.packs_compacted == 1
    assert scene.faults() == scene.waste() == []


def test_bad_requests_are_refused(scene: Scene) -> None:
    with pytest.raises(UsageError):
        scene.prune(timedelta(seconds=-1))
    with pytest.raises(UsageError):
        Policy(last=0)
    with pytest.raises(UsageError):
        Policy(within=timedelta(seconds=-1))


# --- index ------------------------------------------------------------------------------------


def test_many_small_index_objects_become_one(scene: Scene) -> None:
    for number in range(1, 10):
        scene.back_up("a", [number, 99], moment=MOMENT + number * DAY)
    assert len(scene.world.names("index/")) == 9
    scene.prune()
    assert len(scene.world.names("index/")) == 1
    backup = back_up(scene.open()[1], "b", [*range(1, 10), 99])
    assert backup.point.disks[0].new_bytes == 0
    names = scene.world.names("index/")
    scene.prune()
    assert set(names) <= set(scene.world.names("index/")), "nothing is rewritten without need"


def test_a_large_index_is_split(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("puller.repository.collecting.reindex.CONTENT", 300)
    for number in range(1, 10):
        scene.back_up("a", [number, 99], moment=MOMENT + number * DAY)
    scene.prune()
    assert len(scene.world.names("index/")) > 1
    assert back_up(scene.open()[1], "b", [*range(1, 10), 99]).point.disks[0].new_bytes == 0


@pytest.mark.parametrize("damage", [b"garbage", None], ids=["damaged", "lost"])
def test_a_lost_index_is_rebuilt_for_what_is_live(scene: Scene, damage: bytes | None) -> None:
    gone = scene.back_up("a", [1, 2, 3, 4])
    scene.back_up("b", [3, 9])
    for key in scene.world.names("index/"):
        scene.world.objects.put(key, damage) if damage else scene.world.objects.delete([key])
    scene.delete(gone)
    assert scene.prune(NOW).packs_compacted == 1
    assert scene.faults() == scene.waste() == []
    assert back_up(scene.open()[1], "c", [1, 3, 9]).point.disks[0].new_bytes == 65536


def test_requests_grow_with_points_and_packs_only(scene: Scene) -> None:
    """Each index object is read once, each map pack at most once, and no data pack at all."""
    for number in range(1, 7):
        scene.back_up("a", [*range(20), number + 50], moment=MOMENT + number * DAY)
    process, repository = scene.open()
    prune(repository, ALL_KEPT)
    reads = [text for text in process.operations if text.startswith("get ")]
    assert len(reads) == len(set(reads))
    assert not any("packs/" in text for text in reads)


def test_a_compaction_pays_from_64_kib_and_a_half_on() -> None:
    """``dead`` and ``live`` are bytes of one slot each."""
    for dead, live, expected in (
        (65536, 65535, True),
        (65535, 1, False),
        (65536, 65536, False),
        (1 << 20, (1 << 20) - 1, True),
    ):
        ids, lengths = np.zeros((2, ID), np.uint8), np.array([dead, live], np.uint32)
        footer = Footer(NO_KEY_BOX, ids, lengths, np.zeros(2, np.uint8))
        assert survey._is_worth_it(footer, 0b01) is expected, (dead, live)


# --- real stores ------------------------------------------------------------------------------


def _prune_on(store: Store) -> None:
    repository = repositories.create(store, Password("correct horse"))
    first = back_up(repository, "a", [1, 2, 3, 4, 5, 6, 7, 8])
    second = back_up(repository, "b", [3, 9])
    for backup in (first, second):
        backup.commit()
    repository.points.delete([(first.point.uuid, first.point.point)])
    before = data_bytes(repository)
    assert prune(repository, ALL_KEPT).packs_condemned == 0
    report = prune(repository, ALL_KEPT, NOW)
    assert (report.packs_deleted, report.packs_compacted) == (2, 1)
    freed = before - data_bytes(repository)
    assert 6 * 65536 < freed < report.bytes_freed < freed + 4096, "the rest is a map pack"
    # The repository that has the old footers in its cache reads the compacted pack too.
    assert wrong_points(repository, {second.point.point: second.disk}) == misleading_index(repository) == []


def test_prune_in_a_folder(tmp_path: Path) -> None:
    _prune_on(FolderStore(tmp_path / "repository"))


def test_prune_on_s3(seaweed: Seaweed, monkeypatch: pytest.MonkeyPatch) -> None:
    seaweed.use(monkeypatch)
    seaweed.make_bucket("prune")
    _prune_on(connect("prune", "prefix"))


def test_dead_slots_are_marked_so() -> None:
    scene = Scene.new()
    first = scene.back_up("a", [1, 2, 3, 4])
    second = scene.back_up("b", [3, 9])
    scene.delete(first)
    scene.prune(NOW)
    maps, packs = scene.template.maps, scene.open()[1].packs
    refs = maps.pages(maps.root(second.disks[0].root.address), [0])[0]
    footer = packs.open(PackKind.DATA, maps.table.pack_id(int(refs.packs[0]))).footer
    assert footer.flags.tolist() == [DEAD, DEAD, 0, DEAD, DEAD]
    assert footer.lengths[[0, 1, 3, 4]].tolist() == [0, 0, 0, 0]
    assert not footer.ids[[0, 1, 3, 4]].any()
