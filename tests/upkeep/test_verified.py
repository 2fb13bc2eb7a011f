"""What checks have read and found sound: each pack once, oldest first, shared between checks, kept tidy."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import count

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from puller.errors import DamagedData, KeyNotHeld, StoreDenied, UsageError
from puller.events import DiskDone, DiskPlanned, DiskProgress, Event, Notice, ignore
from puller.repository.format.sealing import BoxKind
from puller.repository.keys.keyring import KeyRing
from puller.repository.points import Point
from puller.repository.records import verified
from puller.repository.records.verified import VerifiedPack, VerifiedRecord, decode, encode, tidy
from puller.repository.repository import Repository
from puller.store.base import Body, ObjectInfo
from puller.upkeep.checking import schedule
from puller.upkeep.checking.check import CheckReport, check
from puller.upkeep.checking.schedule import Allowance, Candidate, Reading, batch, due, shuffled
from puller.upkeep.pruning.prune import GRACE, prune
from puller.upkeep.retention.policy import Policy
from tests.lab.history import MOMENT, back_up, pack_id_of
from tests.lab.simulated import Process, World
from tests.upkeep.scene import NOW, Scene

MONTH = timedelta(days=30)
ALL = Reading(100.0)


@pytest.fixture
def scene() -> Scene:
    """A repository of eight data packs of one size."""
    scene = Scene.new()
    for number in range(8):
        scene.back_up(f"d{number}", [10 * number + place for place in range(1, 4)])
    assert len(scene.world.names("packs/")) == 8
    return scene


class Counting(Process):
    """Counts how often each data pack is opened."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.opened: Counter[str] = Counter()

    def get_tail(self, key: str, length: int) -> tuple[bytes, ObjectInfo]:
        if key.startswith("packs/"):
            self.opened[key] += 1
        return super().get_tail(key, length)


def _open(scene: Scene) -> tuple[Counting, Repository]:
    store = Counting(scene.world)
    return store, Repository(store, scene.template.descriptor, scene.template.keys)


def _run(scene: Scene, reading: Reading, clock: Callable[[], float] = lambda: 0.0) -> CheckReport:
    return check(_open(scene)[1], (), reading, ignore, clock)


def _opened_by(scene: Scene, reading: Reading) -> tuple[CheckReport, Counter[str]]:
    store, repository = _open(scene)
    return check(repository, (), reading, ignore), store.opened


def _size(scene: Scene) -> int:
    return sum(info.size for info in scene.world.objects.list("packs/"))


# --- how much is read, and what -----------------------------------------------------------------


def test_four_checks_of_a_quarter_each_read_every_pack_exactly_once(scene: Scene) -> None:
    opened: Counter[str] = Counter()
    for number in range(1, 5):
        report, fresh = _opened_by(scene, Reading(max_age=MONTH, budget=_size(scene) // 4 - 1000))
        assert (report.packs_verified, report.packs_left) == (2, 8 - 2 * number)
        opened += fresh
        scene.wait(timedelta(days=2))
    assert opened == dict.fromkeys(scene.world.names("packs/"), 1)
    assert _run(scene, Reading(max_age=MONTH)).packs_verified == 0
    scene.wait(timedelta(days=23))
    report = _run(scene, Reading(max_age=MONTH))
    assert report.packs_verified == 2, "those of the first check are a month old"


def test_a_percentage_is_a_rotation(scene: Scene) -> None:
    records: list[set[bytes]] = []
    for _ in range(4):
        before = set(scene.world.names("verified/"))
        assert _run(scene, Reading(25.0)).packs_verified == 2
        records.append(_recorded(scene, set(scene.world.names("verified/")) - before))
        scene.wait(timedelta(minutes=1))
    assert len(set[bytes]().union(*records)) == 8
    before = set(scene.world.names("verified/"))
    _run(scene, Reading(25.0))
    assert _recorded(scene, set(scene.world.names("verified/")) - before) == records[0]


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=40), st.sampled_from([4.0, 5.0, 12.5, 25.0, 50.0]))
@example([1] * 9, 25.0)
def test_so_many_percentages_as_make_a_hundred_read_everything(sizes: list[int], percent: float) -> None:
    times: dict[int, float] = {}
    for now in range(round(100 / percent)):
        packs = [Candidate(bytes([number]), size, times.get(number)) for number, size in enumerate(sizes)]
        times |= {pack.pack_id[0]: float(now) for pack in due(packs, Reading(percent), 0.0)}
    assert times.keys() == set(range(len(sizes)))


def _recorded(scene: Scene, names: set[str]) -> set[bytes]:
    repository = scene.open()[1]
    infos = [info for info in repository.verified.listed() if info.key in names]
    return {pack.pack_id for record in repository.verified.read(infos) for pack in record.packs}


def test_a_check_without_reading_opens_every_pack_and_verifies_none(scene: Scene) -> None:
    report, opened = _opened_by(scene, Reading())
    assert (report.packs_verified, report.oldest_verified) == (0, None)
    assert len(opened) == 8
    assert scene.world.names("verified/") == []


def test_what_is_not_due_is_looked_for_all_the_same(scene: Scene) -> None:
    assert _run(scene, ALL).packs_verified == 8
    (point,) = (point for point in scene.open()[1].points.all() if point.domain == "d0")
    scene.world.objects.delete([_pack_of(scene, point)])
    report = _run(scene, Reading(max_age=MONTH))
    assert {error.domain for error in report.errors} == {"d0"}
    assert report.oldest_verified is None


def _pack_of(scene: Scene, point: Point) -> str:
    """The data pack of a point, as checking it alone opens it."""
    store, repository = _open(scene)
    check(repository, [point], Reading(), ignore)
    (name,) = store.opened
    return name


def test_the_oldest_verification_is_told(scene: Scene) -> None:
    began = datetime.fromtimestamp(scene.world.now, UTC)
    assert _run(scene, Reading(budget=_size(scene) // 2 - 1000)).oldest_verified is None, (
        "half was never verified"
    )
    scene.wait(timedelta(days=1))
    assert _run(scene, Reading(max_age=MONTH)).oldest_verified == began
    scene.wait(timedelta(days=1))
    assert _run(scene, Reading()).oldest_verified == began
    assert _run(scene, Reading(max_age=timedelta(days=2))).oldest_verified == began + timedelta(days=1)


def test_a_budget_of_time_ends_the_reading_in_order(scene: Scene) -> None:
    now = 0.0

    def clock() -> float:
        nonlocal now
        now += 600.0
        return now

    report = _run(scene, Reading(budget=timedelta(hours=1)), clock)
    assert 0 < report.packs_verified < 8
    assert report.packs_verified + report.packs_left == 8
    rest = _run(scene, Reading(max_age=MONTH))
    assert rest.packs_verified == report.packs_left
    assert rest.errors == ()


def test_a_budget_that_is_spent_before_it_begins_reads_a_pack(scene: Scene) -> None:
    """Else a repository whose maps take longer than the budget would never be read."""
    now = 0.0

    def clock() -> float:
        nonlocal now
        now += 3600.0
        return now

    assert _run(scene, Reading(budget=timedelta(seconds=1)), clock).packs_verified == 1


@pytest.mark.parametrize("budget", [1, timedelta(seconds=1)])
def test_the_progress_ends_with_what_the_budget_allowed(scene: Scene, budget: int | timedelta) -> None:
    clock = count(0.0, 3600.0)
    told: list[Event] = []
    check(scene.open()[1], (), Reading(budget=budget), told.append, lambda: next(clock))
    plans = [(event.total, event.size) for event in told if isinstance(event, DiskPlanned)]
    counts = [event.done for event in told if isinstance(event, DiskProgress)]
    assert (plans[-1], counts) == ((1, 8), [1])
    assert told.index(DiskDone("repository", "packs")) > max(
        place for place, event in enumerate(told) if isinstance(event, DiskPlanned | DiskProgress)
    )


def test_a_check_of_one_point_reads_its_packs_only(scene: Scene) -> None:
    (point,) = (point for point in scene.open()[1].points.all() if point.domain == "d3")
    report = check(scene.open()[1], [point], ALL, ignore)
    assert report.packs_verified == 1
    assert _run(scene, Reading(max_age=MONTH)).packs_verified == 7


@pytest.mark.parametrize("wrong", [{"percent": 101.0}, {"budget": 0}, {"budget": NOW}, {"max_age": -MONTH}])
def test_what_cannot_be_meant_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        Reading(**wrong)  # type: ignore[arg-type]


# --- what counts ----------------------------------------------------------------------------------


def _flip(scene: Scene, name: str) -> bytes:
    sound = scene.world.objects.get(name)
    scene.world.objects.put(name, bytes([sound[0] ^ 1]) + sound[1:])
    return sound


def test_damage_takes_back_what_was_verified(scene: Scene) -> None:
    _run(scene, ALL)
    name = scene.world.names("packs/")[0]
    sound = _flip(scene, name)
    assert _run(scene, Reading(max_age=MONTH)).errors == ()
    scene.wait(timedelta(days=1))
    report = _run(scene, ALL)
    assert (len(report.errors), report.packs_verified, report.oldest_verified) == (1, 7, None)
    scene.world.objects.put(name, sound)
    scene.wait(timedelta(days=1))
    report, opened = _opened_by(scene, Reading(max_age=MONTH))
    assert opened.keys() == {name}
    assert (report.packs_verified, scene.world.names("damaged/")) == (1, [])
    assert report.oldest_verified is not None


def test_damage_that_hurts_no_point_is_recorded_too(scene: Scene) -> None:
    """A later backup would find the slot."""
    before = set(scene.world.names("packs/"))
    first = scene.back_up("a", [901, 902, 903])
    (name,) = set(scene.world.names("packs/")) - before
    scene.back_up("a", [904, 902, 903], first, moment=MOMENT + timedelta(hours=1))
    scene.delete(first)
    _flip(scene, name)
    assert _run(scene, ALL).errors == ()
    assert scene.open()[1].damaged.read()[0].packs == {pack_id_of(name)}
    assert scene.back_up("b", [901]).disks[0].new_bytes > 0


def test_a_new_generation_is_not_verified(scene: Scene) -> None:
    first = scene.back_up("a", [1001, 1002, 1003, 1004])
    scene.back_up("b", [1003, 1009])
    _run(scene, ALL)
    scene.delete(first)
    assert scene.prune(NOW).packs_compacted == 1
    (name,) = (name for name in scene.world.names("packs/") if name.endswith(".1"))
    report, opened = _opened_by(scene, Reading(max_age=MONTH))
    assert (report.packs_verified, opened[name]) == (1, 1)
    assert _run(scene, Reading(max_age=MONTH)).packs_verified == 0


def test_a_record_that_cannot_be_read_is_passed_over(scene: Scene) -> None:
    _run(scene, ALL)
    (name,) = scene.world.names("verified/")
    scene.world.objects.put(name, scene.world.objects.get(name)[:-1])
    assert _run(scene, Reading(max_age=MONTH)).packs_verified == 8


def test_no_verification_is_later_than_its_record() -> None:
    info = ObjectInfo("verified/x", 1, 1000.0, "")
    record = decode(
        encode(
            [VerifiedPack(bytes(16), 0, 5000.0), VerifiedPack(bytes(16), 1), VerifiedPack(bytes(16), 2, 3.5)]
        ),
        info,
    )
    assert [pack.time for pack in record.packs] == [1000.0, 1000.0, 3.5]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b'{"packs": [{"ids": "00"}]}',
        b'{"packs": [{"ids": "", "generation": -1}]}',
        b'{"packs": 1}',
    ],
)
def test_a_damaged_record_is_refused(content: bytes) -> None:
    with pytest.raises(DamagedData):
        decode(content, ObjectInfo("verified/x", 1, 1000.0, ""))


def test_who_may_not_read_data_is_refused(scene: Scene) -> None:
    for reading in (Reading(5.0), Reading(max_age=MONTH), Reading(budget=1)):
        repository = scene.open()[1]
        repository.keys = _BackupOnly(repository.keys)  # type: ignore[assignment]
        with pytest.raises(KeyNotHeld):
            check(repository, (), reading, ignore)


class _BackupOnly:
    can_read_data = False

    def __init__(self, keys: KeyRing) -> None:
        self._keys = keys


def test_where_nothing_can_be_recorded_it_is_told_once_and_the_check_goes_on(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    class ReadOnly(Process):
        def put_new(self, key: str, body: object) -> None:
            raise StoreDenied("the policy allows no put")

    monkeypatch.setattr(schedule, "BATCH_PACKS", 2)
    told: list[Event] = []
    repository = Repository(ReadOnly(scene.world), scene.template.descriptor, scene.template.keys)
    report = check(repository, (), Reading(max_age=MONTH), told.append)
    assert (report.packs_verified, report.errors) == (8, ())
    assert report.oldest_verified is not None
    (notice,) = [event.text for event in told if isinstance(event, Notice)]
    assert "cannot record the verified packs" in notice and "policy" in notice


# --- two at once ------------------------------------------------------------------------------------


def _check_all(repository: Repository) -> None:
    check(repository, (), Reading(max_age=MONTH), ignore)


def test_two_checks_at_once_share_the_work(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second one comes in whole at each operation of the first; what both read is one batch at most."""
    monkeypatch.setattr(schedule, "BATCH_PACKS", 2)
    process, repository = scene.copy().open()
    check(repository, (), Reading(max_age=MONTH), ignore)
    first_read = next(
        number for number, text in enumerate(process.operations) if text.startswith("get packs/")
    )
    for number in range(first_read, len(process.operations)):
        world = scene.copy()
        process, repository = _open(world)
        other, others = _open(world)
        process.before[number] = partial(_check_all, others)
        assert check(repository, (), Reading(max_age=MONTH), ignore).errors == ()
        opened = process.opened + other.opened
        assert opened.keys() == set(world.world.names("packs/"))
        assert opened.total() <= 8 + 2, f"at operation {number}"


def _prune_in(scene: Scene) -> None:
    scene.prune()


def test_what_a_prune_merges_meanwhile_is_not_taken_for_the_work_of_another_check(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the check has done by then: the merged record says what was verified before."""
    monkeypatch.setattr(schedule, "BATCH_PACKS", 1)
    _run(scene, ALL)
    scene.wait(2 * MONTH)
    process, repository = scene.copy().open()
    check(repository, (), Reading(max_age=MONTH), ignore)
    operations = process.operations
    for number in range(operations.index("list verified/"), len(operations), 2):
        world = scene.copy()
        process, repository = world.open()
        process.before[number] = partial(_prune_in, world)
        report = check(repository, (), Reading(max_age=MONTH), ignore)
        assert report.packs_verified == 8, f"at operation {number}"


def test_two_checks_take_packs_of_one_age_in_orders_of_their_own() -> None:
    candidates = [Candidate(bytes([number]) * 16, 1, None) for number in range(100)]
    one, other = (shuffled(candidates, random.Random(seed).random) for seed in (1, 2))
    assert set(one) == set(other) == set(candidates)
    assert len(set(one[:10]) & set(other[:10])) < 6


# --- the schedule -----------------------------------------------------------------------------------


def _candidate(number: int, verified_at: float | None, size: int = 10) -> Candidate:
    return Candidate(bytes([number]) * 16, size, verified_at)


def test_the_least_recently_verified_are_due_first() -> None:
    old, new, never = _candidate(1, 5000.0), _candidate(2, 90000.0), _candidate(3, None)
    assert due([new, old, never], Reading(100.0), 0.0) == [never, old, new]
    assert due([new, old, never], Reading(max_age=timedelta(seconds=20000)), 100000.0) == [never, old]
    assert due([new, old, never], Reading(50.0), 0.0) == [never, old], "about half"
    assert due([new, old, never], Reading(1.0), 0.0) == [never]
    assert shuffled([never, old, new], lambda: 0.5) == [never, old, new]


def test_a_batch_ends_at_a_size_or_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    queue = [_candidate(number, None) for number in range(10)]
    monkeypatch.setattr(schedule, "BATCH", 25)
    assert len(batch(queue)) == 3
    monkeypatch.setattr(schedule, "BATCH_PACKS", 2)
    assert len(batch(queue)) == 2


def test_a_budget_of_bytes() -> None:
    allowance = Allowance(Reading(budget=25))
    queue = [_candidate(number, None) for number in range(10)]
    assert len(list(allowance.take(queue))) == 3
    assert allowance.is_spent and list(allowance.take(queue)) == []


# --- what prune keeps tidy --------------------------------------------------------------------------


def _record(modified: float, *packs: VerifiedPack) -> VerifiedRecord:
    return VerifiedRecord(f"verified/{modified}", modified, packs)


def test_what_is_said_elsewhere_or_gone_is_void() -> None:
    a, b, gone = bytes(16), bytes(15) + b"b", bytes(15) + b"g"
    old = _record(1.0, VerifiedPack(a, 0, 1.0), VerifiedPack(gone, 0, 1.0))
    new = _record(2.0, VerifiedPack(a, 0, 2.0))
    other = _record(1.5, VerifiedPack(b, 0, 1.5))
    assert tidy([old, new, other], lambda pack: pack.pack_id != gone).void == (old,)


def test_small_records_are_merged_with_their_times() -> None:
    ids = [bytes([number]) * 16 for number in range(verified.LEAST)]
    records = [
        _record(float(number), VerifiedPack(ids[number], 0, number - 0.5)) for number in range(len(ids))
    ]
    assert tidy(records[1:], lambda _: True).merged == ()
    tidied = tidy(records, lambda _: True)
    assert {(pack.pack_id, pack.time) for pack in tidied.merged} == {
        (ids[number], number - 0.5) for number in range(len(ids))
    }
    merged = _record(100.0, *tidied.merged)
    again = tidy([*records, merged], lambda _: True)
    assert again.merged == (), "records that could not be deleted are not merged again"
    assert set(again.void) == set(records)


def test_the_latest_verification_of_a_pack_survives_a_merge() -> None:
    """Also one that an older record gives: a merge of an earlier prune."""
    pack = bytes(16)
    records = [
        _record(float(number), VerifiedPack(pack, 0, 50.0 - number)) for number in range(verified.LEAST)
    ]
    assert [pack.time for pack in tidy(records, lambda _: True).merged] == [50.0]


def test_a_prune_that_may_not_write_records_says_so_and_ends_well(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Denying(Process):
        def put_new(self, key: str, body: Body) -> None:
            if key.startswith(verified.PREFIX):
                raise StoreDenied("the policy allows no put")
            super().put_new(key, body)

    monkeypatch.setattr(schedule, "BATCH_PACKS", 1)
    _run(scene, ALL)
    told: list[Event] = []
    repository = Repository(Denying(scene.world), scene.template.descriptor, scene.template.keys)
    prune(repository, Policy(last=1), GRACE, told.append)
    assert len(scene.world.names("verified/")) == 8
    (notice,) = [event.text for event in told if isinstance(event, Notice)]
    assert "cannot merge the records of verified packs: the policy" in notice


def test_prune_keeps_the_records_few_and_true(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedule, "BATCH_PACKS", 1)
    began = datetime.fromtimestamp(scene.world.now, UTC)
    _run(scene, ALL)
    assert len(scene.world.names("verified/")) == 8
    scene.wait(GRACE)
    scene.prune()
    assert len(scene.world.names("verified/")) == 1
    report = _run(scene, Reading(max_age=MONTH))
    assert (report.packs_verified, report.oldest_verified) == (0, began)
    scene.delete(*scene.open()[1].points.all())
    scene.prune(NOW)
    scene.prune(NOW)
    assert scene.world.names("verified/") == []


def test_a_record_is_of_a_kind_of_its_own(scene: Scene) -> None:
    _run(scene, ALL)
    (name,) = scene.world.names("verified/")
    box = scene.world.objects.get(name)
    assert box[5] == 6
    boxes = scene.open()[1].keys.boxes()
    with pytest.raises(DamagedData):
        boxes.unpack(BoxKind.DAMAGED, name, box)
    assert back_up(scene.open()[1], "later", [1]).commit()
