"""A store that does not answer is asked again within a budget, and nothing is done twice that must not be."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from puller import cancelling
from puller.cancelling import WORK, CancelScope, RetryPolicy, cleanup
from puller.errors import ObjectExists, StoreDenied, StoreError, StoreFull, StoreUnavailable
from puller.store.wrapping.retrying import FIRST_PAUSE, LONGEST_PAUSE, RetryingStore, pauses
from tests.lab.memory import MemoryStore


class Clock:
    """Seconds that pass only while somebody waits."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.pauses: list[float] = []

    def __call__(self) -> float:
        return self.now

    def wait(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds


class Faulty(MemoryStore):
    """Each of its calls first takes the next of ``faults``: raised before it, or after it if ``late``."""

    def __init__(self, *faults: StoreError | None, late: bool = False) -> None:
        super().__init__()
        self.faults: Iterator[StoreError | None] = iter(faults)
        self.late = late
        self.calls = 0

    def _do(self, work: Callable[[], Any]) -> Any:
        self.calls += 1
        fault = next(self.faults, None)
        if fault is not None and not self.late:
            raise fault
        done = work()
        if fault is not None:
            raise fault
        return done

    def put(self, key: str, body: Any) -> None:
        self._do(lambda: MemoryStore.put(self, key, body))

    def put_new(self, key: str, body: Any) -> None:
        self._do(lambda: MemoryStore.put_new(self, key, body))

    def get(self, key: str, *, max_size: int | None = None) -> bytes:
        return bytes(self._do(lambda: MemoryStore.get(self, key, max_size=max_size)))


GONE = StoreUnavailable("connection refused")


def retrying(
    store: MemoryStore, chance: float = 0.5, scope: CancelScope | None = None
) -> tuple[RetryingStore, Clock]:
    clock = Clock()
    return RetryingStore(store, scope, clock, clock.wait, lambda: chance), clock


@pytest.mark.parametrize("chance", [0.0, 0.3, 0.999])
def test_pauses_double_and_are_between_half_and_all_of_it_at_random(chance: float) -> None:
    found = list(islice(pauses(lambda: chance), 40))
    share = 0.5 + chance / 2
    expected = [min(10.0, 0.25 * 2**number) * share for number in range(40)]
    assert found == pytest.approx(expected)


@settings(deadline=None)
@given(st.floats(0, 1), st.floats(1, 1000))  # less than a second may be over before a thread has answered
def test_the_budget_is_used_and_never_exceeded(chance: float, seconds: float) -> None:
    """Pauses double up to the longest, at random between half and all of it; the last error is raised."""
    faulty = Faulty(*[GONE] * 10_000)
    store, clock = retrying(faulty, chance, CancelScope(RetryPolicy(seconds)))
    with pytest.raises(StoreUnavailable, match="connection refused"):
        store.get("a")
    assert sum(clock.pauses) <= seconds
    assert sum(clock.pauses) + LONGEST_PAUSE > seconds
    assert faulty.calls == len(clock.pauses) + 1
    for number, pause in enumerate(clock.pauses):
        whole = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(number, 99))
        assert whole / 2 <= pause <= whole


@given(st.integers(0, 12))
def test_an_outage_within_the_budget_is_told_once_and_survived(failures: int) -> None:
    told: list[str] = []
    store, _ = retrying(Faulty(*[GONE] * failures), scope=CancelScope(WORK, told.append))
    store.put("a", b"1")
    store.put("b", b"2")
    assert [info.key for info in store.list("")] == ["a", "b"]
    outage = ["the store does not answer; trying again for 150 s: connection refused"]
    assert told == ([*outage, "the store answers again"] if failures > 1 else [])


@pytest.mark.parametrize("error", [StoreDenied("expired"), StoreFull("full"), StoreError("odd")])
def test_what_a_store_says_for_good_is_raised_at_once(error: StoreError) -> None:
    faulty = Faulty(error)
    store, clock = retrying(faulty)
    with pytest.raises(type(error), match=error.message):
        store.put("a", b"1")
    assert (faulty.calls, clock.pauses) == (1, [])


def test_a_conditional_put_whose_answer_was_lost_is_done() -> None:
    faulty = Faulty(GONE, late=True)
    store, _ = retrying(faulty)
    store.put_new("a", b"1")
    assert store.get("a") == b"1"


@pytest.mark.parametrize("content", [b"2", b"longer"])
def test_a_conditional_put_that_lost_against_another_is_refused(content: bytes) -> None:
    """The first try did not arrive; meanwhile somebody took the key."""
    faulty = Faulty(GONE)
    MemoryStore.put(faulty, "a", content)
    store, _ = retrying(faulty)
    with pytest.raises(ObjectExists):
        store.put_new("a", b"1")


def test_a_conditional_put_that_finds_its_own_content_is_done() -> None:
    """Some client below, such as botocore, has repeated a request whose answer was lost."""
    memory = MemoryStore()
    store, _ = retrying(memory)
    memory.put("a", b"1")
    store.put_new("a", b"1")
    with pytest.raises(ObjectExists):
        store.put_new("a", b"2")


class Torn(MemoryStore):
    """Its listings break off after ``after`` objects, so many ``times``."""

    def __init__(self, after: int, times: int) -> None:
        super().__init__()
        self.after, self.times = after, times

    def list(self, prefix: str) -> Iterator[Any]:
        for number, info in enumerate(MemoryStore.list(self, prefix)):
            if self.times and number == self.after:
                self.times -= 1
                raise GONE
            yield info


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2500), st.integers(0, 3))
def test_a_listing_that_breaks_off_goes_on_without_gap_or_repetition(after: int, times: int) -> None:
    torn = Torn(after, times)
    names = [f"x/{number:04}" for number in range(2300)]
    for name in names:
        MemoryStore.put(torn, name, b"")
    store, _ = retrying(torn)
    assert [info.key for info in store.list("")] == names


@pytest.mark.parametrize("count", [0, 999, 1000, 1001, 2500])
def test_as_many_are_deleted_at_a_time_as_one_request_takes(count: int) -> None:
    """Each request is tried again by itself, so none is larger than what a server takes."""
    asked: list[int] = []

    class Counting(MemoryStore):
        def delete(self, keys: Iterable[str]) -> None:
            names = tuple(keys)
            asked.append(len(names))
            super().delete(names)

    inner = Counting()
    for number in range(count):
        inner.put(f"x/{number:04}", b"")
    store, _ = retrying(inner)
    store.delete(f"x/{number:04}" for number in range(count))
    assert not list(inner.list(""))
    assert asked == [1000] * (count // 1000) + [count % 1000] * (count % 1000 > 0)


class Hanging(MemoryStore):
    """Its reads hang until ``released``."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.released = threading.Event(), threading.Event()

    def get(self, key: str, *, max_size: int | None = None) -> bytes:
        self.asked.set()
        self.released.wait(60)
        return b""


@pytest.mark.parametrize("whose", ["own", "parent's"])
def test_who_waits_for_a_store_that_hangs_is_let_go_when_the_scope_is_cancelled(whose: str) -> None:
    hanging = Hanging()
    parent = CancelScope(WORK)
    own = parent.child()
    store = RetryingStore(hanging, own)
    raised: list[StoreError] = []

    def ask() -> None:
        try:
            store.get("a")
        except StoreError as error:
            raised.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    assert hanging.asked.wait(60)
    (own if whose == "own" else parent).cancel()
    asking.join(60)
    assert [error.message for error in raised] == [
        "a request to the store was cancelled before it was answered"
    ]
    with pytest.raises(StoreUnavailable):
        store.get("a")
    hanging.released.set()


def test_tidying_up_outlives_the_end_and_does_not_wait_for_a_store_that_hangs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ended = CancelScope(WORK)
    ended.cancel()
    monkeypatch.setattr(cancelling, "CLEANUP", RetryPolicy(0.01, limit=0.01))
    hanging = Hanging()
    with pytest.raises(StoreUnavailable, match="did not answer"):
        RetryingStore(hanging, ended).within(cleanup()).get("a")
    monkeypatch.undo()
    RetryingStore(MemoryStore(), ended).within(cleanup()).put("a", b"1")
    hanging.released.set()


def test_an_outage_that_two_children_meet_is_told_once() -> None:
    told: list[str] = []
    scope = CancelScope(WORK, told.append)
    for child in (scope.child(), scope.child().child()):
        child.note_failure("connection refused")
    scope.child().note_answer()
    scope.note_answer()
    outage = "the store does not answer; trying again for 150 s: connection refused"
    assert told == [outage, "the store answers again"]
