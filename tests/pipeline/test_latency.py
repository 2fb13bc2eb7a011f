"""The law of reads in flight: what holds for any latencies."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from puller.pipeline.latency import MOST_READS, PROBE, Baseline, ReadLaw

on_a_busy_machine = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])

latencies = st.floats(1e-5, 100.0)
excesses = st.none() | st.floats(0.0, 1000.0)


def probed(*seconds: float) -> Baseline:
    """The baseline after a probe for each of the latencies."""
    baseline = Baseline()
    for each in seconds:
        baseline = baseline.renew()
        for _ in range(PROBE):
            baseline = baseline.note(each)
    return baseline


def after(law: ReadLaw, *fed: float | None) -> ReadLaw:
    for excess in fed:
        law = law.observe(excess)
    return law


def laws() -> st.SearchStrategy[ReadLaw]:
    return st.builds(ReadLaw, st.floats(1.0, float(MOST_READS)))


@on_a_busy_machine
@given(laws(), st.lists(excesses, max_size=60))
def test_it_never_leaves_its_range(law: ReadLaw, fed: list[float | None]) -> None:
    for excess in fed:
        law = law.observe(excess)
        assert 1 <= law.limit <= MOST_READS


@on_a_busy_machine
@given(laws())
def test_reads_as_fast_as_a_lone_one_get_as_many_as_are_allowed(law: ReadLaw) -> None:
    assert after(law, *[0.0] * 600).limit == MOST_READS


@on_a_busy_machine
@given(laws(), st.floats(1.5, 1000.0))
def test_reads_that_are_too_slow_end_up_alone(law: ReadLaw, excess: float) -> None:
    assert after(law, *[excess] * 150).limit == 1


@on_a_busy_machine
@given(laws(), st.floats(0.0, 1000.0))
def test_a_single_slow_read_changes_nothing(law: ReadLaw, outlier: float) -> None:
    """The median decides, so that a late wake-up is no congestion."""
    assert after(law, outlier, *[0.0] * 15).level >= law.level


@on_a_busy_machine
@given(laws(), st.floats(0.0, 100.0), st.floats(0.0, 100.0))
def test_slower_reads_never_get_more(law: ReadLaw, one: float, other: float) -> None:
    fast, slow = sorted((one, other))
    assert after(law, *[slow] * MOST_READS).level <= after(law, *[fast] * MOST_READS).level


@on_a_busy_machine
@given(laws())
def test_a_limit_that_the_codecs_do_not_let_the_readers_use_falls(law: ReadLaw) -> None:
    assert after(law, *[None] * 200).limit == 1


@on_a_busy_machine
@given(st.lists(latencies, min_size=1, max_size=12))
def test_a_baseline_is_the_least_of_the_last_probes(seconds: list[float]) -> None:
    assert probed(*seconds).seconds == min(seconds)


@on_a_busy_machine
@given(latencies, latencies)
def test_a_baseline_forgets(then: float, now: float) -> None:
    assert probed(then, *[now] * 12).seconds == now


@on_a_busy_machine
@given(latencies, st.lists(latencies, min_size=2, max_size=2))
def test_a_few_odd_reads_of_a_probe_do_not_count(usual: float, odd: list[float]) -> None:
    baseline = Baseline()
    for each in (usual, odd[0], usual, odd[1], usual):
        baseline = baseline.note(each)
    assert baseline.seconds == usual


def test_a_probe_takes_no_more_reads_than_it_needs() -> None:
    assert probed(1.0).note(0.5).seconds == 1.0


def test_without_a_probe_nothing_is_too_slow() -> None:
    assert Baseline().excess(5.0) is None


def test_twice_as_long_is_an_excess_of_one_but_a_wake_up_is_none() -> None:
    assert probed(0.004).excess(0.008) == 1.0
    assert probed(0.0001).excess(0.0006) == pytest.approx(0.5)
