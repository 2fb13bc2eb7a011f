"""Durations as a user writes them."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from puller.configuration.quantities import duration as parse

COUNTS = st.one_of(st.none(), st.integers(0, 999_999))


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("0", timedelta(0)),
        ("0d", timedelta(0)),
        ("36h", timedelta(hours=36)),
        ("7d", timedelta(days=7)),
        ("2w", timedelta(days=14)),
        ("1m", timedelta(days=31)),
        ("1y6m", timedelta(days=366 + 6 * 31)),
        ("1w2d3h", timedelta(days=9, hours=3)),
    ],
)
def test_durations(word: str, expected: timedelta) -> None:
    assert parse(word) == expected


@pytest.mark.parametrize(
    "word", ["", "7", "d", "-1d", "1.5d", "1 d", "6m1y", "1d1d", "1D", "7d ", "٣d", "1000000y", "1min", "00"]
)
def test_what_is_none(word: str) -> None:
    with pytest.raises(ValueError, match="is no duration"):
        parse(word)


@given(st.tuples(COUNTS, COUNTS, COUNTS, COUNTS, COUNTS))
def test_any_duration_is_the_sum_of_its_parts(counts: tuple[int | None, ...]) -> None:
    parts = [f"{count}{unit}" for count, unit in zip(counts, "ymwdh", strict=True) if count is not None]
    total = sum((parse(part) for part in parts), timedelta(0))
    assert parse("".join(parts) or "0") == total
