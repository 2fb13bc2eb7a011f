"""Ranges of ports that users write."""

from __future__ import annotations

import pytest

from puller.host.ports import ports


@pytest.mark.parametrize(
    ("word", "found"), [("10809-10872", (10809, 10872)), ("1-65535", (1, 65535)), ("7", (7, 7))]
)
def test_ports_are_read(word: str, found: tuple[int, int]) -> None:
    assert (ports(word)[0], ports(word)[-1]) == found


@pytest.mark.parametrize(
    "word", ["", "-", "0-5", "5-4", "1-65536", "a-b", "1-2-3", "-5", "5-", "٣-٤", "1 - 2"]
)
def test_what_is_no_range_of_ports(word: str) -> None:
    with pytest.raises(ValueError, match="use two ports with a dash, such as 10809-10872"):
        ports(word)
