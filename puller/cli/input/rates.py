"""Rates as options: ``500K``, ``20M``, ``1.5G``, in bytes per second; the letters are powers of 1024."""

from __future__ import annotations

from typing import Any

import click

from puller.configuration.quantities import rate


class Rate(click.ParamType[int]):
    """A rate on the command line, in bytes per second."""

    name = "rate"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """See click."""
        try:
            return value if isinstance(value, int) else rate(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)
