"""How old the last point of a domain is, where a copy of the machine is backed up elsewhere."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

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


def test_of_one_second_the_later_point_is_the_last_whatever_its_id(monkeypatch: pytest.MonkeyPatch) -> None:
    scene, now = Scene.new(), datetime.now(UTC).replace(microsecond=0)
    ends = iter(["f" * 8, "0" * 8])
    monkeypatch.setattr("tests.lab.history.new_id", lambda moment: f"{moment:%Y%m%dT%H%M%SZ}-{next(ends)}")
    scene.back_up("a", [1], moment=now)
    later = scene.back_up("a", [2], moment=now, time=now + timedelta(milliseconds=500))
    assert LastPoint(scene.open()[1], uuid_of("a")).point == later
