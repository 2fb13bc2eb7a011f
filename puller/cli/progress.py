"""Progress on stderr: bars on a terminal, a line for each finished disk elsewhere, nothing with -q."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from puller.cli.console import NOTICE, printable, say
from puller.cli.options import Settings
from puller.cli.progressjson import Documents
from puller.cli.times import duration
from puller.events import DiskDone, DiskPlanned, DiskProgress, Event, Notice, Observer, Step, ignore
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


@contextmanager
def observing(settings: Settings, measure: Measure) -> Iterator[Observer]:
    """An observer that tells the user and the service manager."""
    with telling(settings, measure) as tell:

        def observe(event: Event) -> None:
            settings.service(event)
            tell(event)

        yield observe


@contextmanager
def telling(settings: Settings, measure: Measure) -> Iterator[Observer]:
    """The observer that suits the terminal and the user's wish for words."""
    verbose = settings.verbosity > 0
    if settings.verbosity < 0:
        yield ignore
    elif settings.progress == "json":
        yield Documents()
    elif settings.progress != "lines" and _is_live():
        from puller.cli.live import LiveProgress

        with LiveProgress(measure, verbose) as live:
            yield live
    else:
        yield Lines(measure, verbose)


def _is_live() -> bool:
    return sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb"


class Lines:
    """Writes lines. Progress only changes a dictionary's value: it comes from many threads, often."""

    def __init__(self, measure: Measure, verbose: bool) -> None:
        self._measure = measure
        self._verbose = verbose
        self._latest: dict[tuple[str, str], DiskProgress] = {}
        self._began: dict[tuple[str, str], float] = {}

    def __call__(self, event: Event) -> None:
        """The observer."""
        match event:
            case DiskProgress():
                self._latest[event.subject, event.disk] = event
            case DiskPlanned():
                self._began[event.subject, event.disk] = time.monotonic()
                if self._verbose:
                    line = planned_line(event, self._measure)
                    say(line, "plan", domain=event.subject, disk=event.disk, total=event.total)
            case DiskDone():
                line = self._done_line(event.subject, event.disk)
                say(line, "done", domain=event.subject, disk=event.disk)
            case Notice():
                say(notice_line(event), "notice", NOTICE, domain=event.subject)
            case Step() if self._verbose:
                say(
                    f"{printable(event.subject)}: {event.name}", "step", domain=event.subject, step=event.name
                )

    def _done_line(self, subject: str, disk: str) -> str:
        latest = self._latest.get((subject, disk))
        line = f"{printable(subject)}: {disk}"
        if latest is not None and (words := self._measure.words(latest.moved, latest.stored)):
            line += f": {', '.join(words)}"
        began = self._began.get((subject, disk))
        return line if began is None else f"{line} in {duration(time.monotonic() - began)}"


def planned_line(event: DiskPlanned, measure: Measure) -> str:
    """How much is to be done, as far as it is known before."""
    return (
        f"{printable(event.subject)}: {event.disk}: {measure.show(event.total)} of {measure.show(event.size)}"
    )


def notice_line(event: Notice) -> str:
    """A notice, as a line."""
    return f"{printable(event.subject)}: {printable(event.text)}"
