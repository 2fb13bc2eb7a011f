"""Leases: one holder, expiry by the store's clock, take-over."""

from __future__ import annotations

from contextlib import AbstractContextManager, suppress
from functools import partial

import pytest

from puller.errors import DamagedData, Locked, StoreDenied, StoreUnavailable
from puller.repository.collecting import lease as leases
from puller.repository.collecting.lease import EXPIRY, Lease
from puller.repository.format.sealing import BoxKind
from puller.repository.keys.keyring import KeyRing
from tests.lab.simulated import Died, Process, World

BOXES = KeyRing.unencrypted(bytes(16), bytes(16)).boxes()


def take(world: World) -> AbstractContextManager[Lease]:
    return Lease.take(Process(world), BOXES, "prune")


def test_there_is_one_holder_and_then_none() -> None:
    world = World()
    with take(world):
        assert len(world.names("locks/prune/")) == 1
        assert leases.is_taken(Process(world), BOXES, "prune")
        with pytest.raises(Locked, match="process"), take(world):
            pass
        assert len(world.names("locks/prune/")) == 1
    assert world.names("locks/") == []


def test_other_purposes_do_not_matter() -> None:
    world = World()
    with take(world), Lease.take(Process(world), BOXES, "else"):
        pass


def test_of_two_at_once_there_are_never_two_holders() -> None:
    """The other one comes in whole before any operation of the first."""
    for number in range(6):
        world = World()
        process = Process(world)
        held: list[Lease] = []
        other = take(world)

        def come_in(other: AbstractContextManager[Lease] = other, held: list[Lease] = held) -> None:
            with suppress(Locked):
                held.append(other.__enter__())

        process.before[number] = come_in
        try:
            with Lease.take(process, BOXES, "prune"):
                assert not held
        except Locked:
            assert held or number > 0, "who is alone gets it"
        if held:
            other.__exit__(None, None, None)


def _abandoned(world: World) -> None:
    process = Process(world)
    with pytest.raises(Died), Lease.take(process, BOXES, "prune"):
        process.die()


def test_a_lease_that_was_left_behind_expires() -> None:
    world = World()
    _abandoned(world)
    world.now += EXPIRY - 1
    with pytest.raises(Locked), take(world):
        pass
    world.now += 1
    with take(world) as lease:
        assert lease.now == world.now
        assert len(world.names("locks/")) == 1
    assert world.names("locks/") == []


def test_renewal_keeps_it() -> None:
    world = World()
    with take(world) as lease:
        for _ in range(3):
            world.now += EXPIRY - 1
            assert lease.measure() == world.now
        with pytest.raises(Locked), take(world):
            pass


def _renew(lease: Lease) -> None:
    lease.measure()


def test_the_holder_does_not_give_way_to_an_attempt() -> None:
    """It renews at each moment of somebody else's attempt; the attempt fails, and the holder goes on."""
    for number in range(8):
        world = World()
        with take(world) as lease:
            world.now += EXPIRY - 1
            process = Process(world)
            process.before[number] = partial(_renew, lease)
            with pytest.raises(Locked), Lease.take(process, BOXES, "prune"):
                pass
            assert lease.measure() == world.now
        assert world.names("locks/") == []


def test_a_holder_that_renewed_too_late_gives_way_to_who_took_over() -> None:
    """The other one died after it had taken over, before it could delete the expired lease."""
    world = World()
    with pytest.raises(Locked), take(world) as lease:
        world.now += EXPIRY
        process = Process(world)
        process.before[2] = process.die
        with pytest.raises(Died), Lease.take(process, BOXES, "prune"):
            pass
        assert len(world.names("locks/")) == 2
        lease.measure()


def test_renewal_is_not_done_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    process, now = Process(World()), 0.0
    monkeypatch.setattr(leases, "_now", lambda: now)
    with Lease.take(process, BOXES, "prune") as lease:
        count = len(process.operations)
        lease.renew()
        assert len(process.operations) == count
        now = leases.RENEWAL + 1
        lease.renew()
        assert len(process.operations) > count


@pytest.mark.parametrize("ended", [False, True], ids=["at work", "ended"])
def test_who_was_taken_over_is_told(ended: bool) -> None:
    world = World()
    with pytest.raises(Locked), take(world) as lease:
        world.now += EXPIRY
        other = take(world)
        other.__enter__()
        if ended:
            other.__exit__(None, None, None)
        lease.measure()
    if not ended:
        other.__exit__(None, None, None)
    assert world.names("locks/") == []


def test_a_store_that_fails_at_the_end_does_not_hide_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(keys: object) -> None:
        raise StoreUnavailable("gone")

    process = Process(World())
    with Lease.take(process, BOXES, "prune"):
        monkeypatch.setattr(process, "delete", fail)


def test_who_may_not_delete_gives_the_lease_back_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def deny(keys: object) -> None:
        raise StoreDenied("this role may not delete")

    world = World()
    for _ in range(2):  # the second one finds what the first has left
        process = Process(world)
        monkeypatch.setattr(process, "delete", deny)
        with Lease.take(process, BOXES, "prune"), pytest.raises(Locked, match="process"), take(world):
            pass
        assert not leases.is_taken(process, BOXES, "prune")
    assert len(world.names("locks/prune/")) == 4
    with take(world):
        assert len(world.names("locks/prune/")) == 1
    assert world.names("locks/prune/") == []


def test_a_lease_unpacks_to_no_more_than_it_may_hold() -> None:
    world = World()
    name = "locks/prune/" + "0" * 32 + "-00000000"
    world.put(name, BOXES.pack(BoxKind.LOCK, name, bytes(64 << 20)))
    with pytest.raises(DamagedData, match="are allowed"):
        BOXES.unpack(BoxKind.LOCK, name, world.objects.get(name), 1 << 16)
    with pytest.raises(Locked), take(world):
        pass


def test_a_renewal_is_an_object_of_its_own_and_two_are_there() -> None:
    world = World()
    with take(world) as lease:
        (first,) = world.names("locks/")
        lease.measure()
        second = sorted(set(world.names("locks/")) - {first})[-1]
        assert world.names("locks/") == [first, second]
        lease.measure()
        third = sorted(set(world.names("locks/")) - {first, second})[-1]
        assert world.names("locks/") == [second, third]
    assert world.names("locks/") == []


class Undeletable(Process):
    """A store that never lets anything go."""

    def delete(self, keys: object) -> None:
        raise StoreDenied("the retention is not over")


def test_where_nothing_can_be_deleted_the_newest_renewal_counts() -> None:
    world = World()
    with Lease.take(Undeletable(world), BOXES, "prune") as lease:
        for number in range(2, 6):
            world.now += EXPIRY - 1
            lease.measure()
            assert len(world.names("locks/prune/")) == number
        world.now += EXPIRY - 1
        with pytest.raises(Locked), Lease.take(Undeletable(world), BOXES, "prune"):
            pass
        lease.measure()
    with Lease.take(Undeletable(world), BOXES, "prune"):
        pass
    assert not leases.is_taken(Process(world), BOXES, "prune")


@pytest.mark.parametrize("ended", [False, True], ids=["at work", "ended"])
def test_where_nothing_can_be_deleted_who_was_taken_over_is_told(ended: bool) -> None:
    world = World()
    with pytest.raises(Locked), Lease.take(Undeletable(world), BOXES, "prune") as lease:
        world.now += EXPIRY
        other = Lease.take(Undeletable(world), BOXES, "prune")
        other.__enter__()
        if ended:
            other.__exit__(None, None, None)
        lease.measure()
    if not ended:
        other.__exit__(None, None, None)


def test_a_lease_that_was_left_behind_and_cannot_be_deleted_expires() -> None:
    world = World()
    process = Undeletable(world)
    with pytest.raises(Died), Lease.take(process, BOXES, "prune") as lease:
        lease.measure()
        process.die()
    world.now += EXPIRY - 1
    with pytest.raises(Locked), Lease.take(Undeletable(world), BOXES, "prune"):
        pass
    world.now += 1
    with Lease.take(Undeletable(world), BOXES, "prune") as lease:
        assert lease.now == world.now
