"""Repair of the index: what it says afterwards, what stays as it was, and prune beside it."""

from __future__ import annotations

from datetime import timedelta

import pytest

from puller.errors import Locked
from puller.events import DiskProgress, Event
from puller.repository.collecting.lease import Lease
from puller.repository.format.index import PackEntry
from puller.repository.format.packname import PackKind
from puller.repository.keys.keyring import KeyRing
from puller.repository.records.condemned import ALL, CondemnedSlots
from puller.repository.repository import Repository
from puller.store.base import is_key
from puller.upkeep.pruning.prune import GRACE
from puller.upkeep.repair import RepairReport, repair_index
from tests.lab.history import pack_id_of
from tests.lab.simulated import Died, World
from tests.upkeep.scene import FOREIGN, NOW, Scene


@pytest.fixture(params=[None, "correct horse"], ids=["plain", "encrypted"])
def scene(request: pytest.FixtureRequest) -> Scene:
    return Scene.new(request.param)


def _repair(scene: Scene) -> RepairReport:
    return repair_index(scene.open()[1])


def _said(scene: Scene) -> dict[bytes, PackEntry]:
    found = {}
    for pack in scene.open()[1].indexed():
        assert pack.pack_id not in found
        found[pack.pack_id] = pack
    return found


def _flip(world: World, name: str, at: int) -> None:
    content = bytearray(world.objects.get(name))
    content[at] ^= 1
    world.objects.put(name, content)


@pytest.mark.parametrize("loss", ["nothing", "some", "all", "damage"])
def test_the_index_is_what_it_was(scene: Scene, loss: str) -> None:
    scene.back_up("a", [1, 2, 3, 4])
    scene.back_up("b", [5, 6])
    before, names = _said(scene), scene.world.names("index/")
    if loss == "damage":
        _flip(scene.world, names[0], -1)
    elif loss != "nothing":
        scene.world.objects.delete(names[: None if loss == "all" else 1])
    left = scene.world.names("index/")
    report = _repair(scene)
    assert report == RepairReport(len(before), len(left), ())
    assert _said(scene) == before
    assert not set(scene.world.names("index/")) & set(left)
    assert scene.faults() == []
    again = scene.back_up("c", [4, 3, 6])
    assert again.disks[0].new_bytes == 0, "what is stored is found again"


def test_foreign_objects_are_left_alone(scene: Scene) -> None:
    scene.back_up("a", [1])
    foreign = [name for name in FOREIGN if is_key(name)]
    for name in foreign:
        scene.world.objects.put(name, b"of somebody else")
        scene.world.times[name] = scene.world.now
    assert _repair(scene).damaged == ()
    assert set(foreign) <= set(scene.world.names())


@pytest.mark.parametrize("at", [-1, -40, -60], ids=["pack id", "version", "footer"])
def test_a_damaged_pack_is_named_left_out_and_left_alone(scene: Scene, at: int) -> None:
    scene.back_up("a", [1, 2])
    scene.back_up("b", [5, 6])
    name = scene.world.names("packs/")[0]
    _flip(scene.world, name, at)
    hurt = scene.world.objects.get(name)
    before = _said(scene)
    assert _repair(scene).damaged == (name,)
    before.pop(pack_id_of(name))
    assert _said(scene) == before
    assert scene.world.objects.get(name) == hurt
    assert scene.back_up("c", [1, 2, 5, 6]).disks[0].new_bytes == 2 * 65536, "it is stored once more"


def test_a_backup_only_key_is_enough() -> None:
    scene = Scene.new("correct horse")
    scene.back_up("a", [1, 2])
    process, full = scene.open()
    held = KeyRing.from_backup_only(full.keys.repository_id, full.keys.repository_id, full.keys.backup_only())
    scene.world.objects.delete(scene.world.names("index/"))
    assert repair_index(Repository(process, scene.template.descriptor, held)).packs == 2
    assert scene.back_up("b", [1, 2]).disks[0].new_bytes == 0


def _condemned(scene: Scene, slots: int) -> str:
    """Condemn slots of the largest pack for good, as a prune does that dies before it removes them."""
    name = max(scene.world.names("packs/"), key=lambda name: len(scene.world.objects.get(name)))
    repository = scene.open()[1]
    repository.condemned.put(True, 0.0, {pack_id_of(name): CondemnedSlots(PackKind.DATA, slots)})
    return name


@pytest.mark.parametrize("slots", [0b0011, ALL])
def test_what_a_final_record_condemns_is_not_referred_to(scene: Scene, slots: int) -> None:
    scene.delete(scene.back_up("a", [1, 2, 3, 4]))
    _condemned(scene, slots)
    _repair(scene)
    assert scene.back_up("b", [1, 2]).disks[0].new_bytes == 2 * 65536
    scene.prune(NOW)
    assert scene.faults() == []


@pytest.mark.parametrize("slots", [0b0011, ALL])
def test_prune_finishes_after_a_repair(scene: Scene, slots: int) -> None:
    scene.delete(scene.back_up("a", [1, 2, 3, 4]))
    scene.back_up("b", [3, 4])
    _condemned(scene, slots)
    _repair(scene)
    scene.prune(NOW)
    scene.wait(GRACE)
    scene.settle()
    assert scene.faults() == scene.waste() == []
    scene.wait(timedelta(days=31))
    scene.prune()
    assert scene.world.names("condemned/") == []
    assert scene.back_up("c", [3, 4]).disks[0].new_bytes == 0


def test_it_is_refused_beside_a_prune(scene: Scene) -> None:
    scene.back_up("a", [1])
    process, repository = scene.open()
    before = scene.world.names("index/")
    with Lease.take(process, repository.keys.boxes(), "prune"), pytest.raises(Locked):
        _repair(scene)
    assert scene.world.names("index/") == before
    _repair(scene)


def test_it_stops_when_it_has_lost_its_lease(scene: Scene) -> None:
    scene.back_up("a", [1])
    before = set(scene.world.names("index/"))

    def steal(event: Event) -> None:
        if isinstance(event, DiskProgress):
            scene.world.objects.delete(scene.world.names("locks/"))

    with pytest.raises(Locked):
        repair_index(scene.open()[1], steal)
    assert before <= set(scene.world.names("index/"))
    assert scene.faults() == []


def test_an_index_that_a_run_puts_meanwhile_stays(scene: Scene) -> None:
    scene.back_up("a", [1])

    def meanwhile(event: Event) -> None:
        if isinstance(event, DiskProgress):
            scene.back_up("b", [2, 3])

    repair_index(scene.open()[1], meanwhile)
    assert scene.back_up("c", [1, 2, 3]).disks[0].new_bytes == 0
    assert scene.faults() == []


def test_a_crash_anywhere_hurts_nothing(scene: Scene) -> None:
    scene.delete(scene.back_up("a", [1, 2, 3, 4]))
    scene.back_up("b", [3, 4, 5])
    _condemned(scene, 0b0011)
    trial = scene.copy()
    process, repository = trial.open()
    repair_index(repository)
    writes = [n for n, text in enumerate(process.operations) if text.startswith(("put", "delete"))]
    for number in writes:
        for when in ("before", "after"):
            again = scene.copy()
            dying, repository = again.open()
            getattr(dying, when)[number] = dying.die
            with pytest.raises(Died):
                repair_index(repository)
            again.wait(timedelta(hours=1))
            assert again.faults() == []
            _repair(again)
            again.settle()
            assert again.faults() == again.waste() == []
