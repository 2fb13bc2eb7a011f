"""Clocks that are wrong: those of hosts that back up, and points that were dated by such."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import pytest

from puller.backups import clock
from puller.backups.bases.history import History
from puller.errors import DamagedData, NoSuchPoint, RepositoryError
from puller.events import Event, Notice
from puller.repository.points import new_id, object_name, time_of
from puller.upkeep.pruning.prune import judge, preview, prune
from puller.upkeep.retention.policy import Policy
from tests.lab.history import MOMENT, uuid_of
from tests.upkeep.scene import NOW, Scene

DAY = timedelta(days=1)


def _texts(told: list[Event]) -> list[str]:
    return [event.text for event in told if isinstance(event, Notice)]


def _next(scene: Scene, told: list[Event]) -> datetime:
    return clock.next_moment(History(scene.open()[1], uuid_of("a")), "a", told.append)


def test_a_point_is_dated_now() -> None:
    scene, told = Scene.new(), list[Event]()
    assert abs(_next(scene, told) - datetime.now(UTC)) < timedelta(minutes=1)
    scene.back_up("a", [1], moment=datetime.now(UTC) - DAY)
    scene.back_up("b", [1], moment=datetime.now(UTC) + 9 * DAY)
    assert abs(_next(scene, told) - datetime.now(UTC)) < timedelta(minutes=1), "others do not matter"
    assert told == []


def test_points_of_one_second_and_of_a_clock_that_stepped_back_are_in_their_order() -> None:
    """Ids tell whole seconds, and a slow agent puts the time of a point long after that of its id."""
    scene = Scene.new()
    began = datetime.now(UTC)
    slow = scene.back_up("a", [1], moment=began, time=began + timedelta(seconds=40))
    told = list[Event]()
    points = [slow, *(scene.back_up("a", [seed], moment=_next(scene, told)) for seed in range(2, 6))]
    assert points == sorted(points, key=lambda point: point.time)
    assert len({point.time for point in points}) == len(points)
    repository = scene.open()[1]
    assert repository.points.select("a@latest") == points[-1]
    assert repository.points.select(f"a@{(began + timedelta(seconds=40)).isoformat()}") == slow
    with pytest.raises(NoSuchPoint, match="at or before"):
        repository.points.select(f"a@{(began + timedelta(seconds=39)).isoformat()}")
    assert f"{slow.time:%H:%M:%S}" in _texts(told)[0]


def test_a_damaged_point_of_the_second_of_the_newest_is_not_passed_over() -> None:
    """Which of both is the newer one cannot be told then."""
    scene = Scene.new()
    points = [scene.back_up("a", [seed], moment=MOMENT) for seed in (1, 2)]
    hurt = min(points, key=lambda point: point.point)
    process, repository = scene.open()
    name = object_name(hurt.uuid, hurt.point)
    process.delete([name])
    process.put(name, b"damaged")
    with pytest.raises(DamagedData):
        repository.points.select("a@latest")


def test_a_clock_that_is_hours_behind_is_told_and_the_order_is_kept() -> None:
    scene, told = Scene.new(), list[Event]()
    first = scene.back_up("a", [1], moment=datetime.now(UTC).replace(microsecond=0) + timedelta(hours=5))
    moment = _next(scene, told)
    assert moment == first.time + timedelta(seconds=1)
    assert len(_texts(told)) == 1 and f"{first.time:%H:%M:%S}" in _texts(told)[0]
    scene.back_up("a", [2], first, moment=moment)
    scene.prune(policy=Policy(last=1))
    assert [point.time for point in scene.open()[1].points.all()] == [moment], "the newest is the newest"


def test_a_clock_that_is_days_behind_is_refused() -> None:
    scene = Scene.new()
    scene.back_up("a", [1], moment=datetime.now(UTC) + 2 * DAY)
    with pytest.raises(RepositoryError, match="the clock of this host says") as failure:
        _next(scene, [])
    assert "Set the clock" in failure.value.advice


def test_an_object_that_nobody_wrote_dates_nothing() -> None:
    """A name has no seal: whoever may put an object would stop all backups of the domain."""
    scene, told = Scene.new(), list[Event]()
    scene.back_up("a", [1], moment=datetime.now(UTC) - DAY)
    for content in (b"", b"garbage"):
        scene.world.put(f"points/{uuid_of('a')}/20990101T000000Z-00000000", content)
        assert abs(_next(scene, told) - datetime.now(UTC)) < timedelta(minutes=1)
    assert told == []


def test_the_clock_of_another_host_stops_nobody() -> None:
    scene, told = Scene.new(), list[Event]()
    scene.back_up("a", [1], moment=datetime.now(UTC) + 400 * DAY, host="elsewhere")
    assert abs(_next(scene, told) - datetime.now(UTC)) < timedelta(minutes=1)
    ahead = scene.back_up("a", [2], moment=datetime.now(UTC) + timedelta(hours=1), host="elsewhere")
    assert _next(scene, told) > ahead.time, "a domain that moved keeps its order"
    assert len(told) == 1


@pytest.mark.parametrize(
    ("ahead", "words"), [(899, None), (-899, None), (7200, "2:00:00 ahead of"), (-7200, "behind")]
)
def test_a_clock_that_differs_from_the_stores_is_told(ahead: float, words: str | None) -> None:
    told: list[Event] = []
    clock.compare(ahead, "a", told.append)
    assert [words in text for text in _texts(told) if words] == ([True] if words else [])
    assert bool(told) == bool(words)


def test_a_run_measures_the_stores_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.lab.history import back_up

    scene = Scene.new()
    backup = back_up(scene.open()[1], "a", [1])
    monkeypatch.setattr(time, "time", lambda: scene.world.now + 3600)
    backup.commit()
    assert backup.run.clock_ahead == 3600


def test_the_time_in_an_id() -> None:
    moment = datetime(2026, 11, 23, 5, 0, 7, tzinfo=UTC)
    assert time_of(new_id(moment)) == moment
    assert time_of("20269923T050000Z-00000000") < moment


def test_points_dated_years_ahead_push_no_others_out() -> None:
    scene = Scene.new()
    now = datetime.fromtimestamp(scene.world.now, UTC)
    usual = [scene.back_up("a", [day + 1], moment=now - day * DAY).point for day in range(4)]
    wrong = scene.back_up("a", [9], moment=now + 400 * DAY)
    for policy, kept in ((Policy(within=DAY), 2), (Policy(last=3), 3), (Policy(yearly=1), 1)):
        decisions = judge(scene.open()[1].points.all(), policy, scene.world.now)
        assert {item.point for item in decisions if item.keep} == {*usual[:kept], wrong.point}
        (ahead,) = [item for item in decisions if item.point == wrong.point]
        assert "dated after" in ahead.reasons[0]
    report = prune(scene.open()[1], Policy(within=DAY), NOW)
    assert set(report.removed) == set(usual[2:])


def test_a_preview_goes_by_the_hosts_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene.new()
    moment = datetime(2024, 1, 1, tzinfo=UTC)
    old = scene.back_up("a", [1], moment=moment)
    wrong = scene.back_up("a", [2], moment=moment + 400 * DAY)
    monkeypatch.setattr(time, "time", (moment + DAY).timestamp)
    assert set(preview(scene.open()[1], Policy(last=1)).kept) == {old.point, wrong.point}
