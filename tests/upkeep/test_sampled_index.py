"""Hosts that keep only a sample of the index: what they share, and that nothing they refer to is gone."""

from __future__ import annotations

import shutil
from datetime import timedelta
from pathlib import Path

import pytest

from puller.errors import Overtaken
from puller.host.folders import cache_directory
from puller.repository.index.budget import BUDGET
from puller.repository.index.hints import HintFile
from puller.units import CHUNK, KIB
from puller.upkeep.pruning.prune import GRACE
from tests.lab.history import MOMENT, back_up
from tests.upkeep.scene import NOW, Scene

CHUNKS = 240
TEMPLATE = [*range(1, CHUNKS + 1)]
CLONE = [*range(1, 100), 901, 902, *range(102, CHUNKS + 1)]
HOUR = timedelta(hours=1)


class Hosts:
    """Hosts with a cache each; the one that was named last is at work."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self._folder = folder
        self._patch = patch

    def use(self, name: str) -> None:
        self._patch.setenv("PULLER_CACHE_DIR", str(self._folder / name))

    def keep(self, budget: int) -> None:
        """From now on a host keeps so many bytes."""
        self._patch.setattr("puller.repository.repository.BUDGET", budget)


@pytest.fixture
def hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hosts:
    """Packs of nine chunks, and room for 96 rows."""
    monkeypatch.setattr("puller.repository.writing.run.DATA_PACK", 600 * KIB)
    hosts = Hosts(tmp_path, monkeypatch)
    hosts.keep(3 * KIB)
    hosts.use("alpha")
    return hosts


@pytest.fixture
def scene(hosts: Hosts) -> Scene:
    return Scene.new("correct horse")


def shift(scene: Scene) -> int:
    return HintFile(cache_directory(scene.template.id) / "main", scene.template.descriptor.id_bytes).shift


def new_chunks(scene: Scene, domain: str, disk: list[int], number: int = 0) -> int:
    point = scene.back_up(domain, disk, moment=MOMENT + number * HOUR)
    return point.disks[0].new_bytes // CHUNK


def test_another_host_finds_what_is_stored(scene: Scene, hosts: Hosts) -> None:
    assert new_chunks(scene, "a", TEMPLATE) == CHUNKS
    hosts.use("beta")
    assert new_chunks(scene, "b", CLONE) < 2 + CHUNKS // 8
    assert shift(scene) == 2
    assert scene.faults() == []


def test_a_host_that_has_lost_its_cache_finds_it_again(scene: Scene, hosts: Hosts) -> None:
    new_chunks(scene, "a", TEMPLATE)
    new_chunks(scene, "b", CLONE)
    shutil.rmtree(cache_directory(scene.template.id))
    assert new_chunks(scene, "c", CLONE[5:]) < CHUNKS // 8
    assert scene.faults() == []


def test_a_host_that_is_to_keep_less_finds_nearly_as_much(scene: Scene, hosts: Hosts) -> None:
    hosts.keep(BUDGET)
    new_chunks(scene, "a", TEMPLATE)
    assert new_chunks(scene, "b", CLONE) == 2
    assert shift(scene) == 0
    hosts.keep(3 * KIB)
    assert new_chunks(scene, "c", [*CLONE[1:], 903]) < 1 + CHUNKS // 8
    assert shift(scene) >= 2
    hosts.keep(BUDGET)
    assert new_chunks(scene, "d", [*CLONE[2:], 904, 905]) == 2
    assert shift(scene) == 0
    assert scene.faults() == []


def test_hints_to_what_prune_has_removed_mislead_nobody(scene: Scene, hosts: Hosts) -> None:
    gone = scene.back_up("a", TEMPLATE)
    scene.back_up("b", CLONE[:60], moment=MOMENT + HOUR)
    for name in ("alpha", "beta"):
        hosts.use(name)
        scene.back_up(name, [*CLONE[50:60]])  # both know the packs now
    scene.delete(gone)
    report = scene.prune(NOW)
    assert report.packs_deleted > 10
    for number, name in enumerate(("alpha", "beta"), 2):
        hosts.use(name)
        scene.back_up("a", TEMPLATE, moment=MOMENT + number * HOUR)
        assert scene.faults() == []
    scene.settle()
    assert scene.faults() == scene.waste() == []


@pytest.mark.parametrize("grace", [NOW, GRACE])
def test_nothing_that_is_condemned_is_referred_to(scene: Scene, hosts: Hosts, grace: timedelta) -> None:
    gone = scene.back_up("a", TEMPLATE)
    scene.wait(GRACE)
    hosts.use("beta")
    during = back_up(scene.open()[1], "b", CLONE)
    scene.delete(gone)
    scene.prune(grace)
    hosts.use("gamma")
    after = back_up(scene.open()[1], "c", CLONE)
    scene.wait(GRACE)
    report = scene.prune()
    assert report.packs_deleted >= 20 if grace else report.packs_deleted < 10
    scene.expected[during.point.point] = during.disk
    with pytest.raises(Overtaken):
        during.commit()
    del scene.expected[during.point.point]
    scene.commit(after)
    found = CHUNKS * CHUNK - after.point.disks[0].new_bytes
    assert found <= during.point.disks[0].new_bytes, "of the other run, which nothing has condemned"
    assert scene.faults() == []
    scene.settle()
    assert scene.faults() == scene.waste() == []
