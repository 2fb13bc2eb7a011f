"""Until when a machine is locked, and when that is soon."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from msgspec import structs

from puller.overview.locks import lock_of
from tests.overview.making import a_chain

DAY = timedelta(days=1)
TAKEN = datetime(2026, 11, 20, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("length", "age", "soon"),
    [
        (30, 0, False),
        (30, 22, False),
        (30, 24, True),
        (30, 40, True),
        (4, 1, False),
        (4, 3, True),
    ],
)
def test_when_a_lock_ends_soon(length: int, age: int, soon: bool) -> None:
    first, second = a_chain(TAKEN - DAY, TAKEN)
    points = [
        structs.replace(first, locked_until=TAKEN),
        structs.replace(second, locked_until=TAKEN + length * DAY),
    ]
    lock = lock_of(points, TAKEN + age * DAY)
    assert lock is not None
    assert (lock.until, lock.ends_soon) == (TAKEN + length * DAY, soon)


def test_a_newest_point_without_a_lock_does_not_hide_that_the_last_lock_ends() -> None:
    first, second = a_chain(TAKEN - 20 * DAY, TAKEN)
    lock = lock_of([structs.replace(first, locked_until=TAKEN + DAY), second], TAKEN)
    assert lock is not None
    assert lock.ends_soon


def test_without_locks_nothing_is_said() -> None:
    assert lock_of(a_chain(TAKEN), TAKEN) is None
