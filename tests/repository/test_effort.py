"""The level that follows the store, on a model of a machine whose codecs and store have given rates."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from puller.repository.writing.effort import LADDER, AutoLevel

COSTS = dict(zip(LADDER, (1.0, 1.3, 1.6, 3.3, 4.7, 7.5), strict=True))
"""Seconds that a pack takes to compress, in those that it takes at the lowest level."""


class Host:
    """Compresses a pack in ``codec`` seconds at level 1; the store takes ``store`` seconds for one."""

    def __init__(self) -> None:
        self.now = 0.0
        self.effort = AutoLevel(lambda: self.now)

    def packs(self, count: int, codec: float, store: float) -> list[int]:
        levels = []
        for _ in range(count):
            busy = codec * COSTS[self.effort.level]
            waited = max(0.0, store - busy)
            self.now += busy + waited
            self.effort.pack_began(waited)
            levels.append(self.effort.level)
        return levels


@given(st.floats(0.01, 10.0), st.floats(0.0, 100.0))
def test_it_settles_where_neither_waits_long(codec: float, store: float) -> None:
    levels = Host().packs(40, codec, store)[-10:]
    assert max(map(LADDER.index, levels)) - min(map(LADDER.index, levels)) <= 1
    # The highest level that the store leaves time for, or the one above, which it tries again and again.
    affordable = max((level for level in LADDER if codec * COSTS[level] <= store), default=LADDER[0])
    assert min(levels) <= affordable or max(levels) == LADDER[0]
    if max(levels) < LADDER[-1]:
        assert codec * COSTS[max(levels)] >= store * 0.89


def test_it_rises_with_a_slow_store_and_falls_with_a_fast_one() -> None:
    host = Host()
    assert host.packs(20, codec=1, store=100)[-1] == LADDER[-1]
    assert host.packs(20, codec=1, store=0.5)[-1] == LADDER[0]


def test_it_says_what_it_did() -> None:
    host = Host()
    host.packs(20, codec=1, store=0.5)
    assert host.effort.summary() is None
    host.packs(3, codec=1, store=100)
    assert host.effort.summary() == (
        "the store was slower than compression, so levels were raised: "
        "20 at 1, 1 at 3, 1 at 4, 1 at 5 (packs)"
    )
