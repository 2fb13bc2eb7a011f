"""The days of a machine as an SVG strip."""

from __future__ import annotations

from puller.overview.calendar import Day
from puller.overview.page.strip import bars, spoken, strip


def test_a_strip_has_a_line_for_each_run_of_equal_days() -> None:
    days = [Day("kept"), Day("kept", proven=True), Day("late"), Day(), Day("kept", copied=True)]
    svg = str(strip(days))
    assert '<path class="k" d="M0 7h18M40 7h8"/>' in svg
    assert '<path class="l" d="M20 7h8"/>' in svg
    assert '<path class="p" d="M14 7h0.1"/>' in svg
    assert '<path class="c" d="M40 16h8"/>' in svg
    assert spoken(days) == "5 days: 3 with a point, 1 late, 1 proven, 1 copied"


def test_bars_are_never_nothing_where_something_is() -> None:
    assert 'd="M4 10v-10M24 10v-1"' in str(bars([1000, 0, 1], 10))
    assert 'd="M4 10v-5"' in str(bars([500], 10, top=1000))
