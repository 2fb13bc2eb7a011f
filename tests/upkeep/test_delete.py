"""Points deleted by name."""

from __future__ import annotations

from datetime import timedelta

import pytest

from puller.errors import AmbiguousPoint, NoSuchPoint
from puller.repository.points import object_name
from puller.upkeep.retention.delete import delete
from tests.lab.history import MOMENT
from tests.upkeep.scene import Scene


def test_points_are_deleted_by_any_of_their_names_once_each() -> None:
    scene = Scene.new()
    one, two, three = (
        scene.back_up(domain, [1, 2], moment=MOMENT + timedelta(days=day)) for day, domain in enumerate("abc")
    )
    repository = scene.open()[1]
    assert delete(repository, ["c@latest", two.point, three.point[:13]]) == (three.point, two.point)
    assert [point.point for point in repository.points.all()] == [one.point]


def test_a_wrong_name_deletes_nothing() -> None:
    scene = Scene.new()
    one, _ = scene.back_up("a", [1]), scene.back_up("b", [2])
    repository = scene.open()[1]
    for wrong, error in (("29990101", NoSuchPoint), ("x@latest", NoSuchPoint), ("2026", AmbiguousPoint)):
        with pytest.raises(error):
            delete(repository, [one.point, wrong])
    assert len(repository.points.all()) == 2


def test_a_damaged_point_can_be_deleted() -> None:
    scene = Scene.new()
    one = scene.back_up("a", [1])
    scene.world.objects.put(object_name(one.uuid, one.point), b"garbage")
    repository = scene.open()[1]
    assert delete(repository, [one.point]) == (one.point,)
    assert repository.points.names() == []


def test_packs_stay_until_a_prune() -> None:
    scene = Scene.new()
    one = scene.back_up("a", [1])
    packs = scene.world.names("packs/")
    delete(scene.open()[1], [one.point])
    assert scene.world.names("packs/") == packs
