"""Durations as a user writes them."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from puller.configuration.quantities import duration as parse
from puller.configuration.quantities import duration_or_size
from puller.units import GIB, MIB

UNITS = ("y", "mo", "w", "d", "h", "min", "s")
COUNTS = st.tuples(*(st.one_of(st.none(), st.integers(0, 999_999)) for _ in UNITS))


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("0", timedelta(0)),
        ("0s", timedelta(0)),
        ("0d", timedelta(0)),
        ("45s", timedelta(seconds=45)),
        ("90min", timedelta(minutes=90)),
        ("36h", timedelta(hours=36)),
        ("7d", timedelta(days=7)),
        ("2w", timedelta(days=14)),
        ("1mo", timedelta(days=31)),
        ("1y6mo", timedelta(days=366 + 6 * 31)),
        ("1mo1min", timedelta(days=31, minutes=1)),
        ("1w2d3h", timedelta(days=9, hours=3)),
    ],
)
def test_durations(word: str, expected: timedelta) -> None:
    assert parse(word) == expected


@pytest.mark.parametrize(
    "word",
    ["", "7", "d", "-1d", "1.5d", "1 d", "6mo1y", "1d1d", "1D", "7d ", "٣d", "1000000y", "00", "0x", "1ms"],
)
def test_invalid_durations(word: str) -> None:
    with pytest.raises(ValueError, match="invalid duration") as caught:
        parse(word)
    assert str(caught.value) == (
        f"invalid duration '{word}': use a number and a unit, such as 90min, 36h, 7d, 2w or 1y6mo"
    )


@pytest.mark.parametrize("word", ["1m", "5m", "1y6m", "6m1d", "1m30s"])
def test_a_lone_m_is_refused_with_a_question(word: str) -> None:
    with pytest.raises(ValueError, match="invalid duration") as caught:
        parse(word)
    assert str(caught.value) == (
        f"invalid duration '{word}': does 'm' mean minutes (write min) or months (write mo)?"
    )


@given(COUNTS)
def test_any_duration_is_the_sum_of_its_parts(counts: tuple[int | None, ...]) -> None:
    parts = [f"{count}{unit}" for count, unit in zip(counts, UNITS, strict=True) if count is not None]
    total = sum((parse(part) for part in parts), timedelta(0))
    assert parse("".join(parts) or "0") == total


@given(st.text(alphabet="0123456789ymowdhins .-", max_size=12))
def test_any_text_is_a_duration_or_an_error_that_quotes_it(word: str) -> None:
    try:
        found = parse(word)
    except ValueError as error:
        assert str(error).startswith(f"invalid duration '{word}': ")
    else:
        assert found >= timedelta(0)
        assert word == "0" or word.endswith(UNITS)


@given(
    st.integers(1, 999), st.sampled_from([(60, "s", "min"), (60, "min", "h"), (24, "h", "d"), (7, "d", "w")])
)
def test_units_agree_with_each_other(count: int, step: tuple[int, str, str]) -> None:
    factor, small, large = step
    assert parse(f"{count * factor}{small}") == parse(f"{count}{large}")


@pytest.mark.parametrize(
    ("word", "expected"),
    [("2h", timedelta(hours=2)), ("90min", timedelta(minutes=90)), ("500G", 500 * GIB), ("64M", 64 * MIB)],
)
def test_budgets(word: str, expected: timedelta | int) -> None:
    assert duration_or_size(word) == expected


@pytest.mark.parametrize("word", ["30m", "1.5m", "2h30m"])
def test_a_budget_of_minutes_is_not_taken_for_megabytes(word: str) -> None:
    with pytest.raises(ValueError, match="invalid budget") as caught:
        duration_or_size(word)
    assert str(caught.value) == (
        f"invalid budget '{word}': does 'm' mean minutes (write min) or MiB (write M)?"
    )


@pytest.mark.parametrize("word", ["", "0", "0s", "500", "2h500G", "-1h"])
def test_invalid_budgets(word: str) -> None:
    with pytest.raises(ValueError, match=r"invalid budget '.*': use a duration above 0 such as"):
        duration_or_size(word)
