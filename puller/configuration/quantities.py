"""Durations, rates and sizes in text, on the command line and in the configuration."""

from __future__ import annotations

import re
from contextlib import suppress
from datetime import timedelta
from typing import Literal

from puller.host.ports import ports as port_range
from puller.units import GIB, KIB, MIB, TIB

Pace = Literal["gentle", "full"] | int
"""How fast disks are read: so that guests keep their speed, as fast as possible, or gently and at
most at a rate, in bytes per second."""

_DAY = 24 * 60 * 60
_SECONDS = {"y": 366 * _DAY, "mo": 31 * _DAY, "w": 7 * _DAY, "d": _DAY, "h": 60 * 60, "min": 60, "s": 1}
"""Seconds in each unit. Month and year have their greatest length, so that nothing is deleted too early."""

# Six digits each keep the sum within the range of a timedelta.
_DURATION = re.compile("".join(rf"(?:(?P<{unit}>[0-9]{{1,6}}){unit})?" for unit in _SECONDS))
_LONE_M = re.compile(r"[0-9]m(?![a-z])")

_NUMBER = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,6})?)([KMGT]?)", re.IGNORECASE)
_FACTORS = {"": 1, "K": KIB, "M": MIB, "G": GIB, "T": TIB}


def duration(word: str) -> timedelta:
    """Read a duration such as ``90min``, ``36h``, ``1y6mo`` or ``0``. Raises ValueError."""
    match = _DURATION.fullmatch(word)
    if word != "0" and not (word and match):
        raise ValueError(f"invalid duration '{word}': {_why_not(word)}")
    numbers = match.groupdict() if match else {}
    return timedelta(seconds=sum(int(number) * _SECONDS[unit] for unit, number in numbers.items() if number))


def interval(word: str) -> str:
    """Check a duration above 0. Raises ValueError."""
    if not duration(word):
        raise ValueError(f"invalid duration '{word}': use one above 0, such as 1d")
    return word


def _why_not(word: str) -> str:
    if _LONE_M.search(word):
        return "does 'm' mean minutes (write min) or months (write mo)?"
    return "use a number and a unit, such as 90min, 36h, 7d, 2w or 1y6mo"


def rate(word: str) -> int:
    """Read a rate in bytes per second, at least 1: ``512K``, ``50M``, ``1.5G``. Raises ValueError."""
    number = _bytes(word, "KMG")
    if number < 1:
        raise ValueError(f"invalid rate '{word}': use bytes per second, such as 500K, 20M or 1.5G")
    return number


def pace(word: str) -> Pace:
    """Read ``gentle``, ``full``, or a rate as ``rate`` does. Raises ValueError."""
    if word == "gentle":
        return "gentle"
    if word == "full":
        return "full"
    try:
        return rate(word)
    except ValueError as error:
        raise ValueError(
            f"invalid pace '{word}': use gentle, full, or bytes per second, such as 500K or 20M"
        ) from error


def ports(word: str) -> str:
    """Check a range of TCP ports such as ``10809-10872``. Raises ValueError."""
    port_range(word)
    return word


def duration_or_size(word: str) -> timedelta | int:
    """Read a duration such as ``2h``, or bytes such as ``500G`` or ``1.5T``. Raises ValueError.

    A small ``m`` is refused: who means minutes would get some megabytes.
    """
    if word[-1:].upper() in _FACTORS and word[-1:] != "m" and _bytes(word):
        return _bytes(word)
    with suppress(ValueError):
        if found := duration(word):
            return found
    raise ValueError(f"invalid budget '{word}': {_why_no_budget(word)}")


def _why_no_budget(word: str) -> str:
    if _LONE_M.search(word):
        return "does 'm' mean minutes (write min) or MiB (write M)?"
    return "use a duration above 0 such as 90min or 2h, or a size such as 500G"


def budget(word: str) -> int:
    """Read a size of at least 1 MiB: ``64M``, ``1.5G``. Raises ValueError."""
    number = _bytes(word)
    if number < MIB:
        raise ValueError(f"invalid size '{word}': use bytes, 1M or more, such as 64M or 1.5G")
    return number


def run_memory(word: str) -> int:
    """Read the memory of a run, at least 256 MiB: ``384M``, ``1G``. Raises ValueError."""
    if (number := budget(word)) < 256 * MIB:
        raise ValueError(f"invalid size '{word}': use 256M or more")
    return number


def size(word: str) -> int:
    """Read a size: ``0``, ``64K``, ``1.5G``. Raises ValueError."""
    if _NUMBER.fullmatch(word) is None:
        raise ValueError(f"invalid size '{word}': use bytes, such as 64K, 16M or 1.5G, or 0")
    return _bytes(word)


def memory(word: str) -> int:
    """Read the memory of a machine: ``2G``, or a plain number of MiB. Raises ValueError."""
    return budget(f"{word}M" if word.isdecimal() else word)


def _bytes(word: str, letters: str = "KMGT") -> int:
    """Return 0 if it is not a number with one of the ``letters``."""
    match = _NUMBER.fullmatch(word)
    if match is None or match[2].upper() not in letters:
        return 0
    return int(float(match[1]) * _FACTORS[match[2].upper()])
