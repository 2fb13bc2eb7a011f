"""Sizes, extents and other values that every room shares. Pure values, no effects."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import timedelta

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30
TIB = 1 << 40

CHUNK = 64 * KIB
"""Bytes in a chunk: the unit of hashing, deduplication, compression and addressing.

It is the default granularity of QEMU's dirty bitmaps, so nothing clean is read or stored again."""

PAGE_CHUNKS = 1024
"""Chunks that one map page describes: 64 MiB of disk."""


class Kind(enum.Enum):
    """Content of an extent."""

    DATA = "data"
    ZERO = "zero"


@dataclass(frozen=True, slots=True)
class Extent:
    """A range of a disk: ``offset`` and ``length`` in bytes, ``length`` > 0."""

    offset: int
    length: int
    kind: Kind

    @property
    def end(self) -> int:
        """Offset of the first byte after the extent."""
        return self.offset + self.length


def chunk_count(size: int) -> int:
    """Return the number of chunks that cover ``size`` bytes; the last one may be partial."""
    return -(-size // CHUNK)


def page_count(size: int) -> int:
    """Return the number of map pages that cover ``size`` bytes."""
    return -(-chunk_count(size) // PAGE_CHUNKS)


_AGES = ((60, "s"), (60, "min"), (24, "h"), (365, "d"))


def format_age(length: timedelta) -> str:
    """Format ``length`` in the largest unit that fits: ``'3 h'``. A negative one counts as 0."""
    count = max(0, int(length.total_seconds()))
    for size, unit in _AGES:
        if count < size:
            return f"{count} {unit}"
        count //= size
    return f"{count} y"


_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def format_bytes(count: float) -> str:
    """Format ``count`` bytes in binary units: ``1536`` gives ``'1.5 KiB'``."""
    for unit in _UNITS:
        if abs(count) < 1024 or unit == _UNITS[-1]:
            break
        count /= 1024
    return f"{count:.0f} {unit}" if unit == "B" or abs(count) >= 100 else f"{count:.1f} {unit}"


def format_count(count: int, noun: str) -> str:
    """Format a count with its noun in the singular or plural: ``1`` and ``'error'`` give ``'1 error'``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


_SPANS = ((86400, "d"), (3600, "h"), (60, "min"))


def format_duration(span: timedelta) -> str:
    """Format a span as an option takes it, in the largest exact unit: 36 hours give ``'36h'``."""
    seconds = round(span.total_seconds())
    for size, unit in _SPANS:
        if seconds and seconds % size == 0:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"
