"""How old the last point of a domain is, where a copy of the machine is backed up elsewhere."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from puller.diagnosis.finding import Status
from puller.diagnosis.repository import STALE, LastPoint
from tests.lab.history import uuid_of
from tests.upkeep.scene import Scene


def test_a_fresh_point_of_a_copy_does_not_hide_that_this_host_is_late() -> None:
    scene, now = Scene.new(), datetime.now(UTC)
    own = scene.back_up("a", [1], moment=now - 2 * STALE)
    scene.back_up("a", [2], moment=now, host="elsewhere")
    last = LastPoint(scene.open()[1], uuid_of("a"))
    assert last.point == own
    assert last.answer().status is Status.WARN


def test_a_machine_that_came_from_elsewhere_has_a_last_point() -> None:
    scene = Scene.new()
    moved = scene.back_up("a", [1], moment=datetime.now(UTC) - timedelta(hours=1), host="elsewhere")
    last = LastPoint(scene.open()[1], uuid_of("a"))
    assert last.point == moved
    assert last.answer().status is Status.OK
