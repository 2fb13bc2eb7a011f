"""A bound for the time that a server may take, also if it goes on sending a byte now and then."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from puller.cancelling import CancelScope, NoAnswer

PATIENCE = 30.0
"""Seconds for all that is told by one server."""

T = TypeVar("T")


def within_time(ask: Callable[[], T]) -> T:
    """Return what ``ask`` does. Raises TimeoutError after PATIENCE; its thread is then abandoned."""
    end = time.monotonic() + PATIENCE
    try:
        return CancelScope().call(ask, lambda: end - time.monotonic())
    except NoAnswer:
        raise TimeoutError("no answer") from None
