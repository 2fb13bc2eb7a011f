"""Ranges of TCP ports in text."""

from __future__ import annotations


def ports(word: str) -> range:
    """Read a range of ports such as ``10809-10872``, or one port. Raises ValueError."""
    first, dash, last = word.partition("-")
    numbers = [first, last if dash else first]
    if all(number.isascii() and number.isdecimal() and len(number) < 6 for number in numbers):
        found = range(int(numbers[0]), int(numbers[1]) + 1)
        if found and found[0] > 0 and found[-1] < 65536:
            return found
    raise ValueError(f"invalid ports '{word}': use two ports with a dash, such as 10809-10872")
