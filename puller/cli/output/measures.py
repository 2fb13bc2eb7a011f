"""Words and lines that bars and lines of progress share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from puller.cli.output.console import printable
from puller.events import DiskPlanned, Notice
from puller.units import format_bytes


@dataclass(frozen=True, slots=True)
class Measure:
    """What a command counts: words for what it moves and what it stores, and how a count is written.

    Without a word a counter is not shown.
    """

    moved: str
    stored: str = ""
    show: Callable[[float], str] = format_bytes

    def words(self, moved: int | None, stored: int) -> list[str]:
        """The counters of a disk, each with its word; nothing where nobody knows what was moved."""
        counts = [] if moved is None else [(moved, self.moved), (stored, self.stored)]
        return [f"{self.show(count)} {word}" for count, word in counts if word]


def _count(number: float) -> str:
    return f"{number:.0f}"


BACKUP = Measure("read", "stored")
RESTORE = Measure("written")
CHECK = Measure("looked at", show=_count)
PRUNE = Measure("")
"""Prune tells its steps only."""


def planned_line(event: DiskPlanned, measure: Measure) -> str:
    """How much is to be done, as far as it is known before."""
    return (
        f"{printable(event.subject)}: {event.disk}: {measure.show(event.total)} of {measure.show(event.size)}"
    )


def notice_line(event: Notice) -> str:
    """A notice, as a line."""
    return f"{printable(event.subject)}: {printable(event.text)}"
