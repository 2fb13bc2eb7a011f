"""Rates as a user writes them: ``500K``, ``20M``, ``1.5G``; bytes a second, the letters powers of 1024."""

from __future__ import annotations

import re
from typing import Any

import click

from puller.units import GIB, KIB, MIB

_UNITS = {"": 1, "K": KIB, "M": MIB, "G": GIB}

_RATE = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,6})?)([KMG]?)", re.IGNORECASE)


class Rate(click.ParamType[int]):
    """A rate on the command line, in bytes a second."""

    name = "rate"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """See click."""
        try:
            return value if isinstance(value, int) else parse(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


def parse(word: str) -> int:
    """The rate that ``word`` gives, in bytes a second, at least 1. Raises ValueError."""
    match = _RATE.fullmatch(word)
    rate = int(float(match[1]) * _UNITS[match[2].upper()]) if match else 0
    if rate < 1:
        raise ValueError(f"'{word}' is no rate such as 500K, 20M or 1.5G (bytes a second)")
    return rate
