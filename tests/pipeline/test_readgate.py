"""Reads beside a guest, on storage that is nothing but arithmetic."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from statistics import mean

import pytest

from puller.pipeline.lane import Closed
from puller.pipeline.readgate import PROBE_EVERY, GentleGate, OpenGate, ReadGate
from puller.units import MIB
from tests.pipeline.storage import READ, Backup, Guest, Storage

WINDOW = 8 * MIB
SLOW = 0.005
"""Seconds of a read that is alone: of a disk."""
WRITE = 0.001

Gates = Callable[[Storage], ReadGate]


def gentle(storage: Storage) -> GentleGate:
    return GentleGate(WINDOW, storage.clock)


def unlimited(storage: Storage) -> OpenGate:
    return OpenGate(WINDOW)


def one_at_a_time(storage: Storage) -> OpenGate:
    return OpenGate(0)


def rate_alone(gate: Gates, parallel: int, seconds: float = SLOW) -> float:
    storage = Storage(parallel)
    backup = Backup(storage, gate(storage), seconds)
    storage.run(4)
    return backup.rate(12)


def beside_a_guest(gate: Gates, parallel: int, pause: float) -> tuple[float, float]:
    """The mean latency of the guest's writes, and the reads per second."""
    storage = Storage(parallel)
    backup = Backup(storage, gate(storage), SLOW)
    guest = Guest(storage, WRITE, pause)
    rate = backup.rate(20)
    return mean(guest.latencies), rate


@pytest.mark.parametrize(
    ("parallel", "seconds"), [(1, 0.001), (4, 0.001), (1, SLOW), (2, SLOW), (8, SLOW), (16, 0.05)]
)
def test_alone_it_is_nearly_as_fast_as_without_a_gate(parallel: int, seconds: float) -> None:
    assert rate_alone(gentle, parallel, seconds) >= 0.85 * rate_alone(unlimited, parallel, seconds)


def test_a_long_way_to_the_storage_is_not_spent_on_probes() -> None:
    """As through ssh to another continent: a probe takes a second there."""
    storage = Storage(16)
    backup = Backup(storage, gentle(storage), 0.2)
    storage.run(40)
    assert backup.rate(120) >= 0.85 * 16 / 0.2


@pytest.mark.parametrize("pause", [0.0, 0.001, 0.01, 0.1])
def test_a_guest_on_the_same_disk_waits_hardly_longer_than_for_one_read_at_a_time(pause: float) -> None:
    latency, _ = beside_a_guest(gentle, 1, pause)
    assert latency <= 1.7 * beside_a_guest(one_at_a_time, 1, pause)[0]
    assert latency <= 0.4 * beside_a_guest(unlimited, 1, pause)[0]


@pytest.mark.parametrize("parallel", [1, 4])
def test_beside_a_guest_that_never_pauses_it_goes_on(parallel: int) -> None:
    _, rate = beside_a_guest(gentle, parallel, 0.0)
    assert rate >= 0.95 * beside_a_guest(one_at_a_time, parallel, 0.0)[1]


def test_the_disk_is_given_back_once_the_guest_is_quiet() -> None:
    storage = Storage(8)
    backup = Backup(storage, gentle(storage), SLOW)
    storage.run(20)
    alone = backup.rate(10)
    guests = [Guest(storage, SLOW, 0.0) for _ in range(16)]
    beside = backup.rate(20)
    assert beside < 0.5 * alone
    for guest in guests:
        guest.end()
    backup.rate(5)
    assert backup.rate(10) >= 0.9 * alone


@pytest.mark.parametrize("before", [0.0005, 0.05])
def test_storage_that_changes_its_speed_is_soon_used_as_before(before: float) -> None:
    """From the page cache to the disk, which is slower, and from a busy disk to a faster one."""
    storage = Storage(8)
    backup = Backup(storage, gentle(storage), before)
    storage.run(10)
    backup.seconds = SLOW
    backup.rate(13 * PROBE_EVERY)
    assert backup.rate(12) >= 0.85 * rate_alone(unlimited, 8)


def test_the_baseline_stays_where_the_storage_does() -> None:
    """Its own reads must not pass for slow storage: the limit would grow and grow."""
    storage = Storage(1)
    gate = gentle(storage)
    backup = Backup(storage, gate, SLOW)
    limits = []
    for _ in range(180):
        backup.rate(1)
        limits.append(gate.limit)
    assert max(limits) <= 2


def test_two_backups_share_the_storage() -> None:
    storage = Storage(2)
    first = Backup(storage, gentle(storage), SLOW)
    storage.run(20)
    second = Backup(storage, gentle(storage), SLOW)
    storage.run(80)
    before = first.read, second.read
    storage.run(140)
    rates = [first.read - before[0], second.read - before[1]]
    assert min(rates) >= 0.25 * sum(rates)


def test_small_reads_have_a_baseline_of_their_own() -> None:
    """A read of 64 KiB is no sign that one of 512 KiB is slow."""
    gate = GentleGate(WINDOW, lambda: 0.0)
    for length, seconds in ((READ // 8, 0.001), (READ, 0.008)):
        for _ in range(30):
            gate.enter()
            gate.leave("vda", length, seconds, lone=True)
    assert gate.limit > 1


def test_each_disk_has_a_baseline_of_its_own() -> None:
    """A disk on a server is no sign that the local one beside it is busy."""
    gate = GentleGate(WINDOW, lambda: 0.0)
    for _ in range(200):
        for disk, seconds in (("vda", 0.0002), ("vdb", 0.02)):
            gate.enter()
            gate.leave(disk, READ, seconds, lone=True)
    assert gate.limit > 4


def test_disks_that_share_a_probe_learn_that_their_storage_is_faster_now() -> None:
    now = 0.0
    gate = GentleGate(WINDOW, lambda: now)

    def read(alone: float, beside: float) -> None:
        for disk in ("vda", "vdb"):
            lone = gate.limit == 1
            gate.enter()
            gate.leave(disk, READ, alone if lone else beside, lone=lone)

    for _ in range(100):
        read(0.05, 0.05)
    assert gate.limit > 4
    limits = []
    for _ in range(100):
        now += 1
        read(0.005, 0.05)
        limits.append(gate.limit)
    assert max(limits[-20:]) <= 2


def test_reads_of_several_disks_share_a_limit() -> None:
    gate = GentleGate(WINDOW, lambda: 0.0)
    gate.enter()
    second = threading.Thread(target=gate.enter, daemon=True)
    second.start()
    assert not gate.try_enter(2 * READ)
    gate.leave("vda", READ, 0.005, lone=True)
    second.join(60)
    assert not second.is_alive()


def waiting(gate: GentleGate, work: Callable[[], None]) -> threading.Thread:
    """A thread of another reader that waits for its turn."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    while not gate._waiting and thread.is_alive():
        thread.join(0.001)
    return thread


def test_a_disk_with_one_read_at_a_time_leaves_turns_to_the_others() -> None:
    gate = GentleGate(WINDOW, lambda: 0.0)
    order = []

    def read() -> None:
        gate.enter()
        order.append("other")
        gate.leave("vda", READ, 0.005, lone=True)

    gate.enter()
    other = waiting(gate, read)
    gate.leave("vda", READ, 0.005, lone=True)
    gate.enter()
    order.append("first")
    other.join(60)
    assert order == ["other", "first"]


def test_a_disk_with_many_reads_in_flight_leaves_turns_to_the_others() -> None:
    gate = GentleGate(WINDOW, lambda: 0.0)
    for _ in range(50):
        gate.enter()
        gate.leave("vda", READ, 0.005, lone=True)
    assert gate.limit > 1
    gate.enter()
    while gate.try_enter(READ):
        pass
    other = waiting(gate, gate.enter)
    gate.leave("vda", READ, None, lone=False)
    assert not gate.try_enter(READ)
    other.join(60)
    assert not other.is_alive()


def test_a_reader_has_no_more_in_flight_than_its_window() -> None:
    gate = GentleGate(2 * READ, lambda: 0.0)
    for _ in range(200):
        gate.enter()
        gate.leave("vda", READ, 0.005, lone=True)
    gate.enter()
    assert gate.try_enter(2 * READ)
    assert not gate.try_enter(3 * READ)


def test_dropped_reads_leave_their_places() -> None:
    gate = GentleGate(WINDOW, lambda: 0.0)
    gate.enter()
    gate.drop(1)
    gate.enter()


def test_closing_ends_every_wait() -> None:
    gate = GentleGate(WINDOW)
    ended = threading.Event()

    def wait() -> None:
        with suppress(Closed):
            gate.enter()
        ended.set()

    gate.enter()
    threading.Thread(target=wait, daemon=True).start()
    gate.close()
    assert ended.wait(60)
    with pytest.raises(Closed):
        gate.enter()
