"""Progress on stderr: bars on a terminal, a line for each finished disk elsewhere, nothing with -q."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from puller.cli.output.reporting.measures import Measure, notice_line, planned_line
from puller.cli.output.settings import Settings
from puller.cli.output.streams.console import NOTICE, printable, say
from puller.cli.output.streams.progressjson import Documents
from puller.cli.output.times import duration
from puller.events import DiskDone, DiskPlanned, DiskProgress, Event, Notice, Observer, Step, ignore


@contextmanager
def observing(settings: Settings, measure: Measure) -> Iterator[Observer]:
    """Return an observer that reports to the user and the service manager."""
    with telling(settings, measure) as tell:

        def observe(event: Event) -> None:
            settings.service(event)
            tell(event)

        yield observe


@contextmanager
def telling(settings: Settings, measure: Measure) -> Iterator[Observer]:
    """Return the observer for the terminal and the verbosity."""
    verbose = settings.verbosity > 0
    if settings.verbosity < 0:
        yield ignore
    elif settings.progress == "json":
        yield Documents()
    elif settings.progress != "lines" and _is_live():
        from puller.cli.output.reporting.live import LiveProgress

        with LiveProgress(measure, verbose) as live:
            yield live
    else:
        yield Lines(measure, verbose)


def _is_live() -> bool:
    return sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb"


class Lines:
    """Writes lines. Progress only changes a dictionary's value, as it comes often and from many threads."""

    def __init__(self, measure: Measure, verbose: bool) -> None:
        self._measure = measure
        self._verbose = verbose
        self._latest: dict[tuple[str, str], DiskProgress] = {}
        self._began: dict[tuple[str, str], float] = {}

    def __call__(self, event: Event) -> None:
        """Observe."""
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
