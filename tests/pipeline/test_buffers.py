"""Memory of a pool goes with the pool, not with the garbage."""

from __future__ import annotations

import threading
import weakref

import pytest

from puller.pipeline.buffers import BufferBudget, BufferPool
from puller.pipeline.lane import Closed
from puller.units import MIB


def test_a_closed_pool_holds_no_memory() -> None:
    pool = BufferPool(2, MIB)
    free, used = pool.acquire(), pool.acquire()
    memory = [weakref.ref(buffer.view.obj) for buffer in (free, used)]
    free.release()
    del free
    assert all(reference() is not None for reference in memory)
    pool.close()
    assert memory[0]() is None, "nobody uses it"
    used.view[0] = 1
    used.release()
    del used
    assert memory[1]() is None
    with pytest.raises(Closed):
        pool.acquire()


def test_a_budget_has_room_for_more_small_buffers() -> None:
    budget = BufferBudget(4 * MIB, 2 * MIB)
    large = [budget.acquire(), budget.acquire()]
    budget.resize(4 * MIB, MIB)
    large.pop().release()
    small = [budget.acquire(), budget.acquire()]
    assert [len(buffer.view) for buffer in small] == [MIB, MIB]
    held = weakref.ref(small[0].view.obj)
    small.pop(0).release()
    assert held() is not None, "it is kept for the next one"
    assert held() is budget.acquire().view.obj


def test_a_budget_that_shrinks_gives_memory_back() -> None:
    budget = BufferBudget(4 * MIB, MIB)
    buffers = [budget.acquire() for _ in range(4)]
    memory = [weakref.ref(buffer.view.obj) for buffer in buffers]
    budget.resize(2 * MIB, MIB)
    while buffers:
        buffers.pop().release()
    assert sum(reference() is not None for reference in memory) <= 2


def test_a_budget_waits_for_room_and_ends_when_it_is_closed() -> None:
    budget = BufferBudget(MIB, MIB)
    first = budget.acquire()
    got: list[bool] = []

    def wait() -> None:
        try:
            budget.acquire()
            got.append(True)
            budget.acquire()
        except Closed:
            got.append(False)

    waiting = threading.Thread(target=wait, daemon=True)
    waiting.start()
    first.release()
    while not got:
        waiting.join(0.01)
    budget.close()
    waiting.join(60)
    assert got == [True, False]


def test_one_buffer_fits_into_any_budget() -> None:
    assert len(BufferBudget(1, MIB).acquire().view) == MIB
