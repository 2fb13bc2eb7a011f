"""Words and lines that the forms of progress share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from puller.cli.output.streams.console import printable
from puller.events import DiskPlanned, Notice
from puller.units import format_bytes


@dataclass(frozen=True, slots=True)
class Measure:
    """Counters of a command: words for moved and stored amounts, and the format of a count.

    A counter without a word is not shown.
    """

    moved: str
    stored: str = ""
    show: Callable[[float], str] = format_bytes

    def words(self, moved: int | None, stored: int) -> list[str]:
        """Return the counters of a disk, each with its word; none if the moved amount is unknown."""
        counts = [] if moved is None else [(moved, self.moved), (stored, self.stored)]
        return [f"{self.show(count)} {word}" for count, word in counts if word]


def _count(number: float) -> str:
    return f"{number:.0f}"


BACKUP = Measure("read", "stored")
RESTORE = Measure("written")
PULL = Measure("pulled")
COPY = Measure("read", "sent")
CHECK = Measure("looked at", show=_count)
MACHINES = Measure("done", show=_count)
PRUNE = Measure("")
"""Prune reports only its steps."""


def planned_line(event: DiskPlanned, measure: Measure) -> str:
    """Return the planned amount, as far as it is known."""
    return (
        f"{printable(event.subject)}: {event.disk}: {measure.show(event.total)} of {measure.show(event.size)}"
    )


def notice_line(event: Notice) -> str:
    """Return a notice as a line."""
    return f"{printable(event.subject)}: {printable(event.text)}"
