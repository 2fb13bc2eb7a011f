"""Generations and indexes that are not as prune makes them: no point loses anything by them."""

from __future__ import annotations

from datetime import timedelta

import pytest

from puller.events import Event, Notice, ignore
from puller.repository.collecting.compaction import compact
from puller.repository.format import index
from puller.repository.format.footer import DEAD
from puller.repository.format.index import IndexedPack, IndexPart
from puller.repository.format.packname import MAX_GENERATION, PackKind
from puller.repository.reading.packs import PackReader
from puller.upkeep.checking.check import check
from puller.upkeep.checking.schedule import Reading
from puller.upkeep.pruning.prune import GRACE, prune
from tests.lab.history import pack_id_of, wrong_points
from tests.upkeep.scene import ALL_KEPT, NOW, Scene

ALL = Reading(100.0)


@pytest.fixture
def scene() -> Scene:
    return Scene.new()


def _mostly_dead(scene: Scene) -> str:
    """The name of a data pack of which a point needs one chunk of four."""
    gone = scene.back_up("a", [1, 2, 3, 4])
    (name,) = scene.world.names("packs/")
    scene.back_up("b", [3])
    scene.delete(gone)
    return name


def _is_whole(scene: Scene) -> bool:
    repository = scene.open()[1]
    return check(repository, (), ALL, ignore).errors == () and not wrong_points(repository, scene.expected)


def test_an_index_that_calls_live_slots_dead_deletes_no_pack(scene: Scene) -> None:
    """Who has a backup-only key can put one. Only footers are believed."""
    name = _mostly_dead(scene)
    _, repository = scene.open()
    opened = PackReader(repository.store, repository.keys).load(PackKind.DATA, pack_id_of(name))
    flags = opened.footer.flags.copy()
    flags[2] |= DEAD
    object.__setattr__(opened.footer, "flags", flags)
    scene.wait(timedelta(days=1))
    lie = index.INDEX_PREFIX + "f" * 32
    part = IndexPart.of([IndexedPack(PackKind.DATA, opened.pack_id, opened.size, opened.footer)])
    repository.store.put_new(lie, index.encode(repository.keys, lie, part))
    scene.prune(NOW)
    assert _is_whole(scene)
    assert scene.waste() == []


def test_a_lower_generation_stays_if_the_highest_lacks_what_is_reached(scene: Scene) -> None:
    name = _mostly_dead(scene)
    _, repository = scene.open()
    reader = PackReader(repository.store, repository.keys)
    compact(repository.store, repository.keys, reader, reader.load(PackKind.DATA, pack_id_of(name)), 0b111)
    for _ in range(3):
        scene.prune(NOW)
        scene.wait(timedelta(days=31))
    assert name in scene.world.names("packs/")
    assert _is_whole(scene)


def test_a_generation_that_has_no_next_one_is_not_compacted(scene: Scene) -> None:
    """Anybody who may put can give a pack that name: no seal binds the generation."""
    name = _mostly_dead(scene)
    scene.world.put(f"{name}.{MAX_GENERATION}", scene.world.objects.get(name))
    for _ in range(2):
        scene.prune(NOW)
        scene.wait(timedelta(days=31))
    assert _is_whole(scene)
    assert scene.world.names("condemned/") != [], "what could not be removed stays condemned"


def test_a_record_stays_as_long_as_a_pack_that_it_names_cannot_be_read(scene: Scene) -> None:
    name = _mostly_dead(scene)
    scene.wait(timedelta(days=2))
    scene.prune()
    scene.wait(timedelta(days=2))
    sound = scene.world.objects.get(name)
    scene.world.put(name, sound[:-1])
    scene.prune()
    (final,) = scene.world.names("condemned/")
    for _ in range(2):
        scene.wait(timedelta(days=31))
        scene.prune()
    assert scene.world.names("condemned/") == [final]
    scene.world.put(name, sound)
    scene.prune()
    assert scene.world.names("condemned/") == []
    assert scene.waste() == [] and _is_whole(scene)


@pytest.mark.parametrize("generation", ["", ".7"])
def test_a_pack_id_that_is_stored_as_both_kinds_is_left_alone(scene: Scene, generation: str) -> None:
    """Anybody who may put can do that; pack ids are random, so puller does not."""
    scene.back_up("a", [1, 2, 3, 4])
    packs, maps = scene.world.names("packs/"), scene.world.names("maps/")
    planted = [f"maps/{name.removeprefix('packs/')}{generation}" for name in packs]
    planted += [f"packs/{name.removeprefix('maps/')}{generation}" for name in maps]
    for name in planted:
        scene.world.put(name, b"of somebody else")
    for _ in range(4):
        scene.wait(timedelta(days=2))
        scene.prune()
    assert _is_whole(scene)
    scene.back_up("b", [1, 2, 3, 4])
    assert _is_whole(scene)


@pytest.mark.parametrize("slot", [2, 3], ids=["reached", "not reached"])
def test_a_lower_generation_stays_if_the_highest_has_other_bytes(scene: Scene, slot: int) -> None:
    """Whoever may put, and copies the footer, can make such a one; and a run may just have found the slot."""
    name = _mostly_dead(scene)
    sound = scene.world.objects.get(name)
    body = bytearray(sound)
    body[65536 * slot : 65536 * (slot + 1)] = bytes(65536)
    scene.world.put(f"{name}.7", body)
    for _ in range(2):
        told: list[Event] = []
        prune(scene.open()[1], ALL_KEPT, GRACE, told.append)
        (notice,) = [event.text for event in told if isinstance(event, Notice)]
        assert f"such as {name}.7" in notice
        scene.wait(timedelta(days=31))
    assert name in scene.world.names("packs/")
    assert _is_whole(scene)
    scene.world.remove(f"{name}.7")
    scene.prune(NOW)
    assert _is_whole(scene) and scene.waste() == []
