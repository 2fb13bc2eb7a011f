"""Durations (``90min``, ``36h``, ``1y6mo``) and rates (``500K``, ``20M``; powers of 1024) as options."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeVar

import click

from puller.configuration.quantities import (
    budget,
    duration,
    duration_or_size,
    memory,
    pace,
    rate,
    run_memory,
    size,
)
from puller.repository.shard import parse

T = TypeVar("T")


class Quantity(click.ParamType[T]):
    """A quantity on the command line, parsed by ``read``."""

    def __init__(self, name: str, read: Callable[[str], T]) -> None:
        self.name = name
        self._read = read

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> T:
        """See click."""
        try:
            return self._read(value) if isinstance(value, str) else value
        except ValueError as error:
            self.fail(str(error), param, ctx)


def _moment(word: str) -> datetime:
    try:
        found = datetime.fromisoformat(word)
    except ValueError as error:
        raise ValueError(f"invalid time '{word}': use a time such as 2027-01-31T18:00:00Z") from error
    return found if found.tzinfo else found.replace(tzinfo=UTC)


DURATION = Quantity("duration", duration)
SHARD = Quantity("shard", parse)
"""A part of a repository, as ``I/N``."""
RATE = Quantity("rate", rate)
"""In bytes per second."""
PACE = Quantity("pace", pace)
"""``gentle``, ``full``, or bytes per second."""
BUDGET = Quantity("budget", duration_or_size)
"""A time, or a number of bytes."""
AMOUNT = Quantity("size", size)
"""A number of bytes, or 0."""
MEMORY = Quantity("memory", memory)
"""A number of bytes, 1 MiB or more; written as MiB, or with a unit."""
MOMENT = Quantity("time", _moment)
"""A time, in UTC unless it names a zone."""
RUN_MEMORY = Quantity("memory", run_memory)
"""A number of bytes, 256 MiB or more."""
SIZE = Quantity("size", budget)
"""A number of bytes, 1 MiB or more."""
