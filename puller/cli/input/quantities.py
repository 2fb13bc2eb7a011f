"""Durations (``90min``, ``36h``, ``1y6mo``) and rates (``500K``, ``20M``; powers of 1024) as options."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import click

from puller.configuration.quantities import duration, rate

T = TypeVar("T")


class Quantity(click.ParamType[T]):
    """A quantity on the command line that ``read`` makes of its text."""

    def __init__(self, name: str, kind: type[T], read: Callable[[str], T]) -> None:
        self.name = name
        self._kind = kind
        self._read = read

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> T:
        """See click."""
        try:
            return value if isinstance(value, self._kind) else self._read(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


DURATION = Quantity("duration", timedelta, duration)
RATE = Quantity("rate", int, rate)
"""In bytes per second."""
