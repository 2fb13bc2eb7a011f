"""Rates as a user writes them."""

from __future__ import annotations

import pytest

from puller.configuration.quantities import rate as parse


@pytest.mark.parametrize(
    ("word", "expected"),
    [("1", 1), ("500K", 500 << 10), ("20m", 20 << 20), ("1.5G", 3 << 29), ("0.5K", 512)],
)
def test_rates(word: str, expected: int) -> None:
    assert parse(word) == expected


@pytest.mark.parametrize("word", ["", "0", "0.1", "K", "-1M", "1T", "1 M", "1e6", "٣M", "1.M", "inf", "1MB"])
def test_invalid_rates(word: str) -> None:
    with pytest.raises(ValueError, match="invalid rate"):
        parse(word)
