"""Durations as a user writes them: ``7d``, ``36h``, ``2w``, ``1y6m``."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import click

_HOURS = {"y": 366 * 24, "m": 31 * 24, "w": 7 * 24, "d": 24, "h": 1}
"""Hours in each unit. A year and a month are the longest of the calendar: nothing goes too early."""

# Six digits each keep the sum within what a timedelta holds.
_DURATION = re.compile("".join(rf"(?:(?P<{unit}>[0-9]{{1,6}}){unit})?" for unit in _HOURS))


class Duration(click.ParamType[timedelta]):
    """A duration on the command line: numbers with units, the larger unit first; or ``0``."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        """See click."""
        try:
            return value if isinstance(value, timedelta) else parse(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


def parse(word: str) -> timedelta:
    """The duration that ``word`` gives. Raises ValueError."""
    match = _DURATION.fullmatch(word)
    if word != "0" and not (word and match):
        raise ValueError(f"'{word}' is no duration such as 36h, 7d, 2w or 1y6m (m is months)")
    numbers = match.groupdict() if match else {}
    hours = sum(int(number) * _HOURS[unit] for unit, number in numbers.items() if number)
    return timedelta(hours=hours)
