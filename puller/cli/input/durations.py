"""Durations as options: ``90min``, ``36h``, ``7d``, ``1y6mo``."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import click

from puller.configuration.quantities import duration


class Duration(click.ParamType[timedelta]):
    """A duration on the command line: numbers with units, the larger unit first; or ``0``."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        """See click."""
        try:
            return value if isinstance(value, timedelta) else duration(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)
