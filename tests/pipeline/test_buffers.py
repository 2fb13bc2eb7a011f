"""Memory of a pool goes with the pool, not with the garbage."""

from __future__ import annotations

import weakref

import pytest

from puller.pipeline.buffers import BufferPool
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
