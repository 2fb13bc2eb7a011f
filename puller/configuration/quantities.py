"""Durations and rates as a user writes them, on the command line and in the configuration."""

from __future__ import annotations

import re
from datetime import timedelta

from puller.units import GIB, KIB, MIB

_HOURS = {"y": 366 * 24, "m": 31 * 24, "w": 7 * 24, "d": 24, "h": 1}
"""Hours in each unit. A year and a month are the longest of the calendar: nothing goes too early."""

# Six digits each keep the sum within what a timedelta holds.
_DURATION = re.compile("".join(rf"(?:(?P<{unit}>[0-9]{{1,6}}){unit})?" for unit in _HOURS))

_RATE = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,6})?)([KMG]?)", re.IGNORECASE)
_FACTORS = {"": 1, "K": KIB, "M": MIB, "G": GIB}


def duration(word: str) -> timedelta:
    """The duration that ``word`` gives: ``7d``, ``36h``, ``1y6m``, ``0``. Raises ValueError."""
    match = _DURATION.fullmatch(word)
    if word != "0" and not (word and match):
        raise ValueError(f"'{word}' is no duration such as 36h, 7d, 2w or 1y6m (m is months)")
    numbers = match.groupdict() if match else {}
    hours = sum(int(number) * _HOURS[unit] for unit, number in numbers.items() if number)
    return timedelta(hours=hours)


def rate(word: str) -> int:
    """Bytes a second that ``word`` gives, at least 1: ``512K``, ``50M``, ``1.5G``. Raises ValueError."""
    match = _RATE.fullmatch(word)
    number = int(float(match[1]) * _FACTORS[match[2].upper()]) if match else 0
    if number < 1:
        raise ValueError(f"'{word}' is no rate such as 500K, 20M or 1.5G (bytes a second)")
    return number
