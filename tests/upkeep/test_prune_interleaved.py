"""Prune beside runs: whatever the order of their operations, each committed point is whole.

The last part breaks the protocol in one place after the other, and demands that this is noticed.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from functools import partial
from itertools import count

import pytest

from puller.errors import Overtaken
from puller.repository.format.packname import PackKind
from puller.repository.reading.footers import Footers
from puller.repository.records.condemned import KEPT, Condemned
from puller.repository.repository import Repository
from puller.repository.writing import pending
from puller.repository.writing.claims import LONGEST_RUN, MARGIN, Claims
from puller.repository.writing.pending import PendingPoints
from puller.repository.writing.run import Run
from puller.upkeep.pruning.prune import GRACE
from puller.upkeep.pruning.reachability import Reachability
from tests.lab.history import Backup, back_up
from tests.lab.simulated import Died, Process
from tests.upkeep.interleaving import Duel, Play, begin, duel_at_once, duel_when_due, history, outcomes
from tests.upkeep.scene import NOW, Scene


@pytest.mark.parametrize("make_duel", [duel_at_once, duel_when_due])
def test_a_commit_and_a_prune_that_take_turns(make_duel: Callable[[], Duel]) -> None:
    results = set()
    for number, (game, played, committed) in enumerate(outcomes(make_duel())):
        assert played.scene.faults() == [], game
        results.add(committed)
        if number % 9 == 0:
            played.scene.settle()
            assert played.scene.faults() == played.scene.waste() == [], game
    assert results == {True, False}, "both happen"


def _at_once(scene: Scene) -> None:
    scene.prune(NOW)


def _condemn(scene: Scene) -> None:
    scene.wait(GRACE)
    scene.prune()


def _condemn_and_remove(scene: Scene) -> None:
    for _ in range(2):
        scene.wait(GRACE)
        scene.prune()


@pytest.mark.parametrize("play", [_at_once, _condemn, _condemn_and_remove])
@pytest.mark.parametrize("prelude", [None, _condemn], ids=["fresh", "condemned"])
def test_a_prune_at_each_operation_of_a_run(play: Play, prelude: Play | None) -> None:
    """From the first look at the records to the last of the commit."""
    start = history()
    if prelude:
        prelude(start)
    results = []
    for number in count():
        scene = start.copy()
        process, committed = _run_with(scene, number, play)
        assert scene.faults() == [], (number, process.operations)
        results.append(committed)
        if number in process.before:
            break
    assert len(results) > 12
    assert results[0] and results[-1], "a prune before or after does not matter"
    if play is not _condemn:
        assert not all(results)


def _run_with(scene: Scene, number: int, play: Play) -> tuple[Process, bool]:
    """A whole run, with something happening before its operation ``number``."""
    process, repository = scene.open()
    process.before[number] = partial(play, scene)
    parent = next(point for point in scene.open()[1].points.all() if scene.expected[point.point][-1] == 405)
    backup = back_up(repository, "c", [2, 301, 601, 405], parent, scene.expected[parent.point])
    return process, _commits(scene, backup)


def _commits(scene: Scene, backup: Backup) -> bool:
    try:
        scene.commit(backup)
    except Overtaken:
        del scene.expected[backup.point.point]
        return False
    return True


def _delete_parent(scene: Scene) -> None:
    scene.delete(*(point for point in scene.open()[1].points.all() if scene.expected[point.point][-1] == 405))


def _delete_parent_and_prune(scene: Scene) -> None:
    _delete_parent(scene)
    scene.prune(NOW)


@pytest.mark.parametrize("play", [_delete_parent, _delete_parent_and_prune])
def test_the_parent_is_deleted_at_each_operation_of_a_commit(play: Play) -> None:
    results = _parent_games(play)
    assert {committed for _, committed in results} == {True, False}
    for scene, _ in results:
        assert scene.faults() == []
        scene.settle()
        assert scene.faults() == scene.waste() == []


def _parent_games(play: Play) -> list[tuple[Scene, bool]]:
    start = history()
    process, backup = begin(start)
    games = []
    for number in range(6):
        scene = start.copy()
        process.world = scene.world
        process.operations.clear()
        process.before = {number: partial(play, scene)}
        games.append((scene, _commits(scene, backup)))
    return games


def _parent_removed_during_a_run() -> tuple[Scene, bool]:
    """All that the run wrote or found stands; what it took over from its parent without a look does not."""
    scene = Scene.new()
    parent = scene.back_up("c", [401, 402, 403, 404])
    scene.wait(GRACE)
    before, disk = scene.expected[parent.point], [701, 402, 403, 404]
    backup = back_up(scene.open()[1], "c", disk, parent, before, title="new")
    scene.delete(parent)
    scene.prune()
    scene.wait(GRACE)
    assert scene.prune().packs_deleted > 0
    return scene, _commits(scene, backup)


def test_a_run_whose_parent_was_removed_does_not_commit() -> None:
    scene, committed = _parent_removed_during_a_run()
    assert not committed
    assert scene.faults() == []


def test_a_run_that_dies_in_its_commit_is_forgotten_after_a_day() -> None:
    start = history()
    for number in range(6):
        scene = start.copy()
        process, backup = begin(scene)
        process.before[len(process.operations) + number] = process.die
        scene.expected[backup.point.point] = backup.disk
        with pytest.raises(Died):
            backup.commit()
        if number < 4:
            del scene.expected[backup.point.point]
        scene.prune()
        assert scene.faults() == []
        scene.settle()
        assert scene.faults() == scene.waste() == []


def _sleep_and_prune(scene: Scene) -> None:
    scene.wait(timedelta(days=2))
    scene.prune(NOW)


def test_a_commit_that_takes_longer_than_a_day_is_taken_back() -> None:
    scene = history()
    process, backup = begin(scene)
    at = len(process.operations)

    process.before[at + 3] = partial(_sleep_and_prune, scene)
    assert process.operations[at:] == []
    assert not _commits(scene, backup)
    assert process.operations[at + 3].startswith("put points/")
    assert scene.faults() == []


def test_a_waiting_record_counts_as_final_shortly_before_it_may_become_so() -> None:
    """For stores whose listings lag: see MARGIN."""
    for early, expected in ((timedelta(seconds=MARGIN + 1), True), (timedelta(seconds=MARGIN), False)):
        scene = history()
        _, backup = begin(scene)
        scene.prune()
        scene.wait(GRACE - early)
        assert _commits(scene, backup) is expected


def test_the_claims_of_a_run_are_not_hurt_by_what_it_does_not_use() -> None:
    scene = history()
    _, repository = scene.open()
    backup = back_up(repository, "f", [11, 12])
    scene.prune()
    scene.wait(GRACE)
    assert scene.prune().packs_deleted > 0
    assert _commits(scene, backup)
    assert scene.faults() == []


# --- long ago ---------------------------------------------------------------------------------


def _slow_indexer(scene: Scene) -> tuple[Run, Callable[[], None]]:
    """A run that has stored a pack, and puts the index that names it only when told."""
    process, repository = scene.open()
    held: list[Callable[[], None]] = []
    put = process.put_new

    def hold(key: str, body: bytes) -> None:
        content = bytes(body)
        if key.startswith("index/"):
            held.append(lambda: put(key, content))
        else:
            put(key, content)

    process.put_new = hold  # type: ignore[assignment, method-assign]
    backup = back_up(repository, "slow", [901, 902, 903])
    process.put_new = put  # type: ignore[method-assign]
    return backup.run, held[0]


def _index_after_all(scene: Scene) -> Repository:
    """Put an index that names a pack which was removed, and of which no record tells any more.

    Returns the repository as a process has it that has known the pack.
    """
    _, put_index = _slow_indexer(scene)
    _, early = scene.open()
    (name,) = scene.world.names("packs/")
    early.packs.open(PackKind.DATA, bytes.fromhex(name[-32:]))
    scene.prune(NOW)
    assert scene.world.names("packs/") == []
    scene.wait(timedelta(seconds=KEPT))
    scene.prune()
    assert scene.world.names("condemned/") == scene.world.names("index/") == []
    put_index()
    return early


def test_an_index_that_comes_too_late_misleads_nobody() -> None:
    scene = Scene.new()
    early = _index_after_all(scene)
    for number, repository in enumerate((early, scene.open()[1])):
        scene.commit(back_up(repository, f"next{number}", [901, 902, 903]))
        assert scene.faults() == []


def test_what_is_not_so_is_cleared_from_the_index() -> None:
    scene = Scene.new()
    _index_after_all(scene)
    scene.prune()
    assert scene.world.names("index/") == []


def test_final_records_are_kept_for_a_month() -> None:
    scene = history()
    scene.prune(NOW)
    scene.wait(timedelta(seconds=KEPT - 1))
    scene.prune()
    assert scene.world.names("condemned/") != []
    scene.wait(timedelta(seconds=1))
    scene.prune()
    assert scene.world.names("condemned/") == []


def test_a_run_of_a_month_does_not_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = history()
    _, backup = begin(scene)
    monkeypatch.setattr(backup.run._claims, "_began", -LONGEST_RUN)
    assert not _commits(scene, backup)


# --- broken on purpose ------------------------------------------------------------------------


def _duels_notice() -> bool:
    duels = duel_at_once(), duel_when_due()
    return any(played.scene.faults() for duel in duels for _, played, _ in outcomes(duel))


def _parents_notice() -> bool:
    scene, _ = _parent_removed_during_a_run()
    return bool(scene.faults())


def _outdated_footers_mislead() -> bool:
    scene = Scene.new()
    early = _index_after_all(scene)
    scene.commit(back_up(early, "next", [901, 902, 903]))
    return bool(scene.faults())


def _slow_commit_is_broken() -> bool:
    scene = history()
    process, backup = begin(scene)
    process.before[len(process.operations) + 3] = partial(_sleep_and_prune, scene)
    _commits(scene, backup)
    return bool(scene.faults())


def _refer_to_condemned(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("puller.repository.writing.claims._excluded", lambda _: set())
    patch.setattr(Claims, "admit", lambda _, packs, slots: packs)


def _believe_old_footers(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Footers, "_load", lambda self, kind, pack_id: self._packs.open(kind, pack_id).footer.ids)


def _ignoring(place: object, name: str, answer: object = None) -> Callable[[pytest.MonkeyPatch], None]:
    return lambda patch: patch.setattr(place, name, lambda *_: answer)


_SABOTAGE: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], Callable[[], bool]]] = {
    "the run does not look at the records again": (_ignoring(Claims, "require_standing"), _duels_notice),
    "the run refers to condemned data": (_refer_to_condemned, _duels_notice),
    "the run believes footers from before it began": (_believe_old_footers, _outdated_footers_mislead),
    "the run does not look for its parents": (_ignoring(pending, "_require_bases"), _parents_notice),
    "the run commits however long it takes": (
        _ignoring(pending, "_require_pending", 0.0),
        _slow_commit_is_broken,
    ),
    "prune does not look for pending points": (_ignoring(PendingPoints, "listed", ()), _duels_notice),
    "prune does not look for new points": (_ignoring(Reachability, "add_new"), _duels_notice),
    "prune removes without a final record": (_ignoring(Condemned, "put"), _duels_notice),
}


@pytest.mark.parametrize("what", _SABOTAGE)
def test_a_broken_protocol_is_noticed(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sabotage, notice = _SABOTAGE[what]
    sabotage(monkeypatch)
    assert notice()
