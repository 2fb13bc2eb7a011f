"""The control law of concurrent transfers, on simulated networks."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from puller.pipeline.concurrency import GAIN, Concurrency, Sample

Wire = Callable[[int], float]
"""The rate of this many transfers at once, in bytes per second."""

samples = st.builds(Sample, st.floats(0.0, 100.0), st.integers(0, 1 << 40), st.booleans())


@st.composite
def laws(draw: st.DrawFn) -> Concurrency:
    least = draw(st.integers(1, 8))
    most = least + draw(st.integers(0, 60))
    return Concurrency(least, most, draw(st.integers(least, most)))


def run(law: Concurrency, wire: Wire, count: int, demand: bool = True) -> list[int]:
    """The limits after each of ``count`` samples."""
    return [law.observe(Sample(1.0, int(wire(law.limit)), demand)) for _ in range(count)]


@given(laws(), st.lists(samples, max_size=60))
def test_it_never_leaves_its_range(law: Concurrency, fed: list[Sample]) -> None:
    for sample in fed:
        assert law.least <= law.observe(sample) <= law.most


@given(st.integers(1, 64), st.lists(samples, max_size=50))
def test_a_fixed_number_stays(count: int, fed: list[Sample]) -> None:
    law = Concurrency.fixed(count)
    assert {law.observe(sample) for sample in fed} <= {count}


@given(laws(), st.integers(1000, 1 << 30))
def test_a_wire_with_a_rate_per_connection_gets_as_many_as_are_allowed(law: Concurrency, rate: int) -> None:
    """A doubling each, and a way down at the end of the range that is given up again."""
    limits = run(law, lambda count: rate * count, 40)
    assert max(limits) == law.most
    assert sorted(limits)[len(limits) // 2] == law.most


@given(laws(), st.integers(1000, 1 << 30))
def test_a_wire_that_gains_nothing_gets_the_fewest(law: Concurrency, rate: int) -> None:
    limits = run(law, lambda _: rate, 400)
    assert sorted(limits[-100:])[50] == law.least


@given(st.integers(2, 24), st.integers(1000, 1 << 20))
def test_a_saturated_wire_gets_about_as_many_as_saturate_it(enough: int, rate: int) -> None:
    law = Concurrency(1, 64, 2)
    limits = run(law, lambda count: rate * min(count, enough), 400)
    usual = sorted(limits[-200:])[100]
    assert enough / (1 + GAIN) - 1 <= usual <= 2 * enough


@given(laws(), st.lists(st.integers(0, 1 << 30), min_size=1))
def test_without_demand_it_falls_to_the_fewest(law: Concurrency, moved: list[int]) -> None:
    limits = [law.observe(Sample(1.0, moved[turn % len(moved)], False)) for turn in range(400)]
    assert limits[-1] == law.least
    assert limits == sorted(limits, reverse=True)


@given(st.integers(1000, 1 << 20))
def test_it_finds_out_that_the_wire_has_grown(rate: int) -> None:
    law = Concurrency(2, 32, 2)
    run(law, lambda count: rate * min(count, 2), 100)
    assert law.limit <= 4
    assert max(run(law, lambda count: rate * count, 100)) == 32


def test_trials_in_vain_become_rare() -> None:
    law = Concurrency(4, 32, 4)
    limits = run(law, lambda _: 1000.0, 400)
    assert sum(limit > 4 for limit in limits[-200:]) <= 10


@pytest.mark.parametrize("numbers", [(0, 1, 1), (2, 1, 2), (2, 4, 1), (2, 4, 5)])
def test_an_impossible_range_is_refused(numbers: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="range"):
        Concurrency(*numbers)
