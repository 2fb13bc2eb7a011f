"""Rates as a user writes them."""

from __future__ import annotations

import pytest

from puller.configuration.quantities import memory
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


@pytest.mark.parametrize(
    ("word", "expected"), [("1", 1 << 20), ("2048", 2 << 30), ("2G", 2 << 30), ("1.5g", 3 << 29)]
)
def test_the_memory_of_a_machine_is_in_mebibytes_or_has_a_unit(word: str, expected: int) -> None:
    assert memory(word) == expected


@pytest.mark.parametrize("word", ["", "0", "512K", "-1", "2 G", "1.5"])
def test_invalid_memory(word: str) -> None:
    with pytest.raises(ValueError, match="invalid size"):
        memory(word)
