"""Budgets as options: a duration, ``90min`` or ``2h``, or a number of bytes, ``500G``."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import click

from puller.configuration.quantities import duration_or_size


class Budget(click.ParamType[timedelta | int]):
    """A budget on the command line: a time, or bytes with a letter for powers of 1024."""

    name = "budget"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> timedelta | int:
        """See click."""
        try:
            return value if isinstance(value, (timedelta, int)) else duration_or_size(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)
