"""Points that are kept: what holds them, what ends it, and what a keep and a prune do beside each other."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import count

import pytest

from puller.errors import NoSuchPoint, PointKept, StoreDenied, UsageError
from puller.events import Event, Notice, ignore
from puller.repository.format.sealing import BoxKind
from puller.repository.keys.key_slots import BACKUP_ONLY, KeyFile, Password, add_slot, open_slot
from puller.repository.points import Point
from puller.repository.records.kept import Keep, longest, point_of
from puller.repository.records.proofs import KEPT, Proof
from puller.repository.repository import Repository, open_repository
from puller.upkeep.pruning.prune import preview, prune
from puller.upkeep.retention.delete import delete
from puller.upkeep.retention.keep import KeptPoint, keep, kept_points, release
from puller.upkeep.retention.policy import Policy
from tests.lab.history import MOMENT, uuid_of
from tests.lab.simulated import Process, World
from tests.upkeep.scene import NOW, Scene

DAY = timedelta(days=1)
LATER = datetime(2099, 1, 1, tzinfo=UTC)
LATEST = datetime(2100, 1, 1, tzinfo=UTC)
LAST = Policy(last=1)


@pytest.fixture
def scene() -> Scene:
    return Scene.new()


@pytest.fixture
def points(scene: Scene) -> list[Point]:
    """Three of one domain, each with a chunk of its own."""
    return [scene.back_up("a", [1, day + 10], moment=MOMENT + day * DAY) for day in range(3)]


def _keep(scene: Scene, point: Point, until: datetime | None = None, note: str = "") -> KeptPoint:
    return keep(scene.open()[1], point.point, Keep(until, note))


def _names(scene: Scene) -> list[str]:
    return [point.point for point in scene.template.points.all()]


def test_prune_lets_a_kept_point_stay_and_says_so(scene: Scene, points: list[Point]) -> None:
    kept = _keep(scene, points[0], LATER, "before the migration")
    assert kept == KeptPoint(points[0].point, True, LATER, "before the migration")
    seen = preview(scene.open()[1], LAST)
    report = scene.prune(NOW, LAST)
    assert seen.decisions == report.decisions
    assert report.held == (points[0].point,)
    assert set(report.kept) == {points[0].point, points[2].point}
    assert report.removed == (points[1].point,)
    assert report.decisions[0].reasons == ("kept until 2099-01-01 00:00 UTC: before the migration",)
    del scene.expected[points[1].point]
    assert scene.faults() == []


def test_the_kept_points_are_listed(scene: Scene, points: list[Point]) -> None:
    made = [_keep(scene, points[2], LATER, "audit"), _keep(scene, points[0]), _keep(scene, points[1])]
    scene.world.put(f"kept/{points[1].uuid}/{points[1].point}/{'0' * 32}", b"")
    assert kept_points(scene.open()[1]) == [made[1], made[2], made[0]]
    release(scene.open()[1], points[0].point)
    scene.delete(points[2])
    assert kept_points(scene.open()[1]) == [made[2]], "of a point that is gone nothing is kept"


def test_a_released_point_goes_and_leaves_no_keep(scene: Scene, points: list[Point]) -> None:
    for until in (None, LATER):
        _keep(scene, points[0], until)
    assert release(scene.open()[1], points[0].point) == KeptPoint(points[0].point, False, released=True)
    assert scene.world.names("kept/") == []
    assert release(scene.open()[1], points[0].point) == KeptPoint(points[0].point, False)
    assert points[0].point in scene.prune(NOW, LAST).removed


def test_an_expired_keep_holds_no_longer(scene: Scene, points: list[Point]) -> None:
    soon = datetime.fromtimestamp(scene.world.now, UTC) + DAY
    _keep(scene, points[0], soon)
    scene.wait(DAY - timedelta(seconds=1))
    assert scene.prune(NOW, LAST).held == (points[0].point,)
    scene.wait(timedelta(seconds=1))
    assert points[0].point in scene.prune(NOW, LAST).removed
    scene.prune(NOW, LAST)
    assert scene.world.names("kept/") == [], "the keep of a point that is gone is tidied away"


def test_prune_deletes_the_proofs_that_nobody_needs(scene: Scene, points: list[Point]) -> None:
    """Those of points that are gone, but for the newest of a domain; of a point that stays all but ten."""
    proofs = scene.open()[1].proofs
    proof = Proof(LATER, "proven", "a", "lab", "agent", 3.5)
    made = {}
    for point in points:
        scene.wait(timedelta(minutes=1))
        made[point.point] = [proofs.put((point.uuid, point.point), proof) for _ in range(KEPT + 1)]
    scene.prune(NOW, LAST)
    left = scene.world.names("proofs/")
    assert len(left) == KEPT
    assert set(left) < set(made[points[2].point])
    scene.delete(points[2])
    scene.back_up("a", [1], moment=MOMENT + 9 * DAY)
    scene.prune(NOW)
    assert len(scene.world.names("proofs/")) == 1, "the domain's last drill is still known"
    scene.delete(*scene.template.points.all())
    scene.prune(NOW)
    assert scene.world.names("proofs/") == []


def test_delete_refuses_a_kept_point_and_deletes_nothing(scene: Scene, points: list[Point]) -> None:
    _keep(scene, points[1], None, "audit")
    repository = scene.open()[1]
    with pytest.raises(PointKept, match="it is kept: audit") as refused:
        delete(repository, [points[0].point, points[1].point])
    assert f"puller release {points[1].point}" in refused.value.advice
    assert len(_names(scene)) == 3
    release(repository, points[1].point)
    assert delete(repository, [points[1].point]) == (points[1].point,)


def test_a_new_keep_replaces_the_old_ones(scene: Scene, points: list[Point]) -> None:
    for until in (None, LATEST, LATER):
        _keep(scene, points[0], until)
        assert len(scene.world.names("kept/")) == 1
    held = scene.template.keeps.holding(datetime.now(UTC))
    assert held == {(points[0].uuid, points[0].point): Keep(LATER)}


def test_who_may_not_delete_holds_longer_but_cannot_shorten(scene: Scene, points: list[Point]) -> None:
    _keep(scene, points[0], LATER)

    class Denied(Process):
        def delete(self, keys: object) -> None:
            raise StoreDenied("cannot delete")

    host = Repository(Denied(scene.world), scene.template.descriptor, scene.template.keys)
    assert keep(host, points[0].point, Keep(LATER - DAY)).until == LATER
    assert keep(host, points[0].point, Keep(LATEST, "mine")) == KeptPoint(
        points[0].point, True, LATEST, "mine"
    )
    assert len(scene.world.names("kept/")) == 3
    with pytest.raises(StoreDenied):
        release(host, points[0].point)
    assert scene.prune(NOW, LAST).held == (points[0].point,)


def test_bad_requests_are_refused_before_anything_is_put(scene: Scene, points: list[Point]) -> None:
    name, repository = points[0].point, scene.open()[1]
    bad = [
        Keep(datetime.now(UTC) - timedelta(seconds=1)),
        Keep(datetime(2020, 1, 1)),  # without a zone it is UTC
        Keep(datetime(9999, 1, 1, tzinfo=UTC)),
        Keep(None, "x" * 1001),
        Keep(None, "\udcff"),
    ]
    for wanted in bad:
        with pytest.raises(UsageError):
            keep(repository, name, wanted)
    with pytest.raises(NoSuchPoint):
        keep(repository, "ffff", Keep())
    assert scene.world.names("kept/") == []


@pytest.mark.parametrize("body", [b"", b"garbage", b"PLRB\x01\x09" + bytes(60)])
def test_a_keep_that_cannot_be_read_holds_and_prune_tells(
    scene: Scene, points: list[Point], body: bytes
) -> None:
    scene.world.put(f"kept/{points[0].uuid}/{points[0].point}/{'0' * 32}", body)
    told: list[Event] = []
    report = prune(scene.open()[1], LAST, NOW, told.append)
    assert report.held == (points[0].point,)
    texts = [event.text for event in told if isinstance(event, Notice)]
    assert len(texts) == 1
    assert points[0].point in texts[0] and "puller release" in texts[0]
    with pytest.raises(PointKept, match="cannot be read"):
        delete(scene.open()[1], [points[0].point])
    release(scene.open()[1], points[0].point)
    assert scene.world.names("kept/") == []


def test_a_later_version_of_a_keep_holds(scene: Scene, points: list[Point]) -> None:
    name = f"kept/{points[0].uuid}/{points[0].point}/{'0' * 32}"
    content = b'{"version": 2, "until": "2000-01-01T00:00:00Z"}'
    scene.world.put(name, scene.template.keys.boxes().pack(BoxKind.KEEP, name, content))
    assert scene.prune(NOW, LAST).held == (points[0].point,)


def test_a_backup_only_key_keeps_and_releases() -> None:
    scene, secret = Scene.new("correct horse"), KeyFile(bytes(64))
    point = scene.back_up("a", [1, 2])
    store = Process(scene.world)
    opened = open_slot(
        store, scene.template.keys.repository_id, scene.template.keys.repository_id, Password("correct horse")
    )
    add_slot(store, opened, secret, BACKUP_ONLY, "host")
    repository = open_repository(store, secret)
    assert not repository.keys.can_read_data
    assert keep(repository, point.point, Keep(None, "mine")).kept
    assert scene.template.keeps.holding(datetime.now(UTC)) == {(point.uuid, point.point): Keep(None, "mine")}
    assert not release(repository, point.point).kept


def test_of_several_keeps_the_one_that_holds_longest_counts() -> None:
    now, soon, damaged = datetime(2026, 1, 1, tzinfo=UTC), Keep(LATER), Keep(damage="torn")
    assert longest([Keep(now), Keep(now - DAY)], now) is None
    assert longest([soon, Keep(LATEST), Keep(now)], now) == Keep(LATEST)
    assert longest([damaged, soon], now) == damaged
    assert longest([damaged, Keep(None, "for ever"), soon], now) == Keep(None, "for ever")
    assert point_of(f"kept/{uuid_of('a')}/20261123T050000Z-00000000/{'0' * 32}") is not None
    assert point_of(f"kept/{uuid_of('a')}/20261123T050000Z-00000000") is None


def _attempt(work: Callable[[], object]) -> bool:
    """Whether it succeeded; it may find that the point is gone."""
    try:
        work()
    except NoSuchPoint:
        return False
    return True


@pytest.mark.parametrize("others", [0, 1])
def test_a_keep_at_each_operation_of_a_prune(scene: Scene, points: list[Point], others: int) -> None:
    """Only between prune's last look and its deletion a keep may come too late, and that is said."""
    outcomes, first = [], points[0].point
    for other in points[1 : 1 + others]:
        _keep(scene, other)
    for number in count():
        played = scene.copy()
        process, repository = played.open()
        told: list[Event] = []
        kept: list[bool] = []

        def act(played: Scene = played, told: list[Event] = told, kept: list[bool] = kept) -> None:
            other = played.open()[1]
            kept.append(_attempt(lambda: keep(other, first, Keep(), observer=told.append)))

        process.before[number] = act
        report = prune(repository, LAST, NOW)
        if not kept:
            break
        stands = first in _names_in(played)
        assert stands == (first in report.kept)
        looks = [place for place, text in enumerate(process.operations) if text.startswith("list kept/")]
        removals = [at for at, text in enumerate(process.operations) if text.startswith("delete points/")]
        look = max((at for at in looks if at < min(removals, default=0)), default=number)
        assert stands == (number <= look or not removals), (number, process.operations)
        if kept[0] and not stands:
            assert told, "who keeps a point beside a prune is told that it may be too late"
        if not kept[0]:
            assert played.world.names(f"kept/{points[0].uuid}/{first}/") == []
        outcomes.append((kept[0], stands))
    assert set(outcomes) == {(True, True), (True, False), (False, False)}
    assert outcomes.count((True, False)) <= 5 + others, "the lease is renewed in between, and keeps are read"


def _names_in(scene: Scene) -> list[str]:
    return [point_id for _, point_id in scene.open()[1].points.names()]


def _prune(scene: Scene) -> None:
    scene.prune(NOW, LAST)


def test_a_prune_at_each_operation_of_a_keep(scene: Scene, points: list[Point]) -> None:
    """A prune that has ended has either seen the keep, or the keep sees that the point is gone."""
    results, first = [], points[0].point
    for number in count():
        played = scene.copy()
        process, repository = played.open()
        process.before[number] = partial(_prune, played)
        kept = _attempt(partial(keep, repository, first, Keep()))
        if process.before:
            break
        assert kept == (first in _names_in(played)), process.operations
        assert bool(played.world.names("kept/")) == kept
        results.append(kept)
    assert results[0] is False and results[-1] is True


class _Slow(Process):
    """Stands still before it deletes points, until it is told to go on."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.stopped, self.goes_on = threading.Event(), threading.Event()

    def delete(self, keys: Iterable[str]) -> None:
        keys = list(keys)
        if any(key.startswith("points/") for key in keys):
            self.stopped.set()
            assert self.goes_on.wait(60)
        super().delete(keys)


def test_a_prune_that_begins_at_any_operation_of_a_keep_and_deletes_after_it(
    scene: Scene, points: list[Point]
) -> None:
    """A keep that is told of no prune is safe from it."""
    results, first = set(), points[0].point
    for number in count():
        played = scene.copy()
        slow, told = _Slow(played.world), list[Event]()
        pruning = threading.Thread(target=_prune_in, args=(played, slow))

        def begin(slow: _Slow = slow, pruning: threading.Thread = pruning) -> None:
            pruning.start()
            assert slow.stopped.wait(60)  # points[1] goes in any case

        process, repository = played.open()
        process.before[number] = begin
        kept = _attempt(partial(keep, repository, first, Keep(), observer=told.append))
        slow.goes_on.set()
        if process.before:
            break
        pruning.join(60)
        if kept and not told:
            assert first in _names_in(played), (number, process.operations)
        results.add((bool(told), first in _names_in(played)))
    assert results == {(True, False), (False, True), (True, True)}


def _prune_in(scene: Scene, process: Process) -> None:
    prune(Repository(process, scene.template.descriptor, scene.template.keys), LAST, NOW)


def test_prune_drops_the_keeps_of_points_that_are_gone_only(scene: Scene, points: list[Point]) -> None:
    for point in points[:2]:
        _keep(scene, point, LATER)
    scene.delete(points[1])
    scene.prune()
    assert {point_of(key) for key in scene.world.names("kept/")} == {(points[0].uuid, points[0].point)}


def test_a_point_that_is_committed_and_kept_late_keeps_its_keep(scene: Scene) -> None:
    """Whatever the operation of prune before which it comes."""
    scene.back_up("a", [1, 2])
    for number in count():
        played = scene.copy()
        process, repository = played.open()
        made: list[Point] = []

        def act(played: Scene = played, made: list[Point] = made) -> None:
            made.append(played.back_up("b", [3, 4]))
            _keep(played, made[0])

        process.before[number] = act
        prune(repository, LAST, NOW, ignore)
        if not made:
            break
        assert played.world.names(f"kept/{made[0].uuid}/") != [], process.operations
