"""Which domains a job means."""

from __future__ import annotations

import pytest

from puller.agent.selection import select

KNOWN = {"web1": "aa", "web2": "bb", "db1": "cc", "odd[1]": "dd", "bb": "ee"}


@pytest.mark.parametrize(
    ("wanted", "excluded", "chosen"),
    [
        (["web1"], [], ["web1"]),
        (["web*"], [], ["web1", "web2"]),
        (["*"], ["web?"], ["bb", "db1", "odd[1]"]),
        (["db1", "web*", "*1"], [], ["db1", "web1", "web2"]),
        (["cc", "db1"], [], ["db1"]),
        (["CC"], [], ["db1"]),
        (["bb"], [], ["bb"]),  # a name comes before a UUID
        (["odd[1]"], [], ["odd[1]"]),  # and before a pattern
        (["web[2-9]"], [], ["web2"]),
        (["gone", "web1"], [], ["gone", "web1"]),
        (["gone-*"], [], []),
        (["WEB*"], [], []),
        (["web*"], ["aa"], ["web2"]),
    ],
)
def test_selection(wanted: list[str], excluded: list[str], chosen: list[str]) -> None:
    assert select(KNOWN, wanted, excluded) == chosen
