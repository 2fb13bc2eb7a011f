"""Bounded queues between threads."""

import threading
from collections import Counter

import pytest

from puller.pipeline.lane import Closed, Lane


@pytest.mark.parametrize("capacity", [1, 2, 3, 10])
@pytest.mark.parametrize(("putters", "takers"), [(1, 1), (3, 1), (1, 3), (3, 3)])
def test_every_item_arrives_once_however_many_wait(capacity: int, putters: int, takers: int) -> None:
    lane: Lane[tuple[int, int]] = Lane(capacity)
    taken: list[tuple[int, int]] = []

    def put(name: int) -> None:
        for number in range(500):
            lane.put((name, number))

    sources = [threading.Thread(target=put, args=(name,)) for name in range(putters)]
    sinks = [threading.Thread(target=lambda: taken.extend(lane)) for _ in range(takers)]
    for thread in sources + sinks:
        thread.start()
    for thread in sources:
        thread.join()
    lane.finish()
    for thread in sinks:
        thread.join()
    assert Counter(taken) == Counter((name, number) for name in range(putters) for number in range(500))


def test_one_taker_gets_items_in_order() -> None:
    lane: Lane[int] = Lane(3)
    for number in range(3):
        lane.put(number)
    lane.finish()
    assert list(lane) == [0, 1, 2]


def test_close_drops_items_and_wakes_whoever_waits() -> None:
    full: Lane[int] = Lane(1)
    full.put(0)
    empty: Lane[int] = Lane(1)
    ended: list[str] = []

    def put() -> None:
        with pytest.raises(Closed):
            full.put(1)
        ended.append("put")

    def take() -> None:
        with pytest.raises(Closed):
            next(iter(empty))
        ended.append("take")

    threads = [threading.Thread(target=put), threading.Thread(target=take)]
    for thread in threads:
        thread.start()
    full.close()
    empty.close()
    for thread in threads:
        thread.join()
    assert sorted(ended) == ["put", "take"]
    with pytest.raises(Closed):
        next(iter(full))
