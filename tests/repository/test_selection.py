"""Which domains a job means."""

from __future__ import annotations

import pytest
from msgspec import structs

from puller.repository.selection import Scope, select
from tests.upkeep.test_retention import START, point

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
        (["web*"], ["a-A"], ["web2"]),
    ],
)
def test_selection(wanted: list[str], excluded: list[str], chosen: list[str]) -> None:
    assert select(KNOWN, wanted, excluded) == chosen


@pytest.mark.parametrize(
    ("scope", "own"),
    [
        (Scope("nightly", ("web1",), (), ("kvm1",)), True),
        (Scope("nightly", ("web*",), (), ("kvm2", "kvm*")), True),
        (Scope("nightly", ("UUID",), (), ("kvm1",)), True),
        (Scope("hourly", ("web1",), (), ("kvm1",)), False),
        (Scope("nightly", ("db*",), (), ("kvm1",)), False),
        (Scope("nightly", ("web*",), ("web1",), ("kvm1",)), False),
        (Scope("nightly", ("*",), (), ("kvm2",)), False),  # a job of that name on another host
        (Scope("nightly", (), (), ("kvm1",)), False),
    ],
)
def test_which_points_are_a_jobs_own(scope: Scope, own: bool) -> None:
    taken = structs.replace(point(START, "web1"), host="kvm1", tags={"job": "nightly"}, uuid="u-u-id")
    assert scope.has(taken) is own
    assert not scope.has(structs.replace(taken, tags={}))
