"""The gate in front of the network: who passes, what it feeds to the law, how it ends."""

from __future__ import annotations

import threading
from contextlib import suppress

import pytest

from puller.pipeline.concurrency import Concurrency, Sample
from puller.pipeline.gate import Gate
from puller.pipeline.lane import Closed


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Recorded(Concurrency):
    """Notes what it is fed, and obeys a plan."""

    def __init__(self, *plan: int) -> None:
        super().__init__(1, 64, plan[0])
        self.plan = list(plan[1:])
        self.fed: list[Sample] = []

    def observe(self, sample: Sample) -> int:
        self.fed.append(sample)
        if self.plan:
            self.limit = self.plan.pop(0)
        return self.limit


def test_the_law_is_fed_once_as_many_have_passed_as_it_allows() -> None:
    clock, told = Clock(), list[int]()
    law = Recorded(3, 5)
    gate = Gate(law, told.append, clock)
    for _ in range(3):
        with gate.passing(100):
            clock.now += 2.0
    assert law.fed == [Sample(6.0, 300, demand=False)]
    assert told == [5]


def test_idle_time_is_no_part_of_a_sample() -> None:
    clock, law = Clock(), Recorded(2)
    gate = Gate(law, clock=clock)
    for _ in range(2):
        for _ in range(2):
            with gate.passing(10):
                clock.now += 1.0
        clock.now += 1000.0
    assert [sample.seconds for sample in law.fed] == [2.0, 2.0]


def test_no_more_pass_at_once_than_the_limit_and_waiting_is_demand() -> None:
    clock, law = Clock(), Recorded(2)
    gate = Gate(law, clock=clock)
    inside, most = 0, 0
    lock, full, go = threading.Lock(), threading.Semaphore(0), threading.Semaphore(0)

    def work() -> None:
        nonlocal inside, most
        with gate.passing(1):
            with lock:
                inside += 1
                most = max(most, inside)
            full.release()
            go.acquire()
            with lock:
                inside -= 1
                clock.now += 1.0

    threads = [threading.Thread(target=work, daemon=True) for _ in range(8)]
    for thread in threads:
        thread.start()
    for _ in threads:
        assert full.acquire(timeout=60)
        go.release()
    for thread in threads:
        thread.join(60)
    assert most <= 2
    assert law.fed[0].demand
    assert not law.fed[-1].demand


def test_closing_ends_every_wait() -> None:
    gate = Gate(Concurrency.fixed(1))
    ended = threading.Event()

    def wait() -> None:
        with suppress(Closed), gate.passing(1):
            return
        ended.set()

    with gate.passing(1):
        threading.Thread(target=wait, daemon=True).start()
        gate.close()
        assert ended.wait(60)
    with pytest.raises(Closed), gate.passing(1):
        pass


def test_a_transfer_that_fails_leaves_its_place() -> None:
    gate = Gate(Concurrency.fixed(1))
    for _ in range(3):
        with pytest.raises(OSError, match="of the test"), gate.passing(1):
            raise OSError("of the test")
