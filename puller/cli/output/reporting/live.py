"""Progress on a terminal: a bar for each disk, with bytes read and stored, rate and time left."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import IO, TextIO, cast

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from puller.cli.output.reporting.measures import Measure, notice_line, planned_line
from puller.cli.output.streams.console import printable, silence
from puller.events import DiskPlanned, DiskProgress, Event, Notice, Step

_REFRESHES = 8
"""Redraws per second."""


class _Amount(ProgressColumn):
    """The counters of one disk, and the rate of moved bytes; skipped zeros are only in the bar."""

    def __init__(self, measure: Measure) -> None:
        super().__init__()
        self._measure = measure

    def render(self, task: Task) -> Text:
        moved = task.fields["moved"]
        words = self._measure.words(moved, task.fields["stored"])
        if words and (elapsed := task.finished_time or task.elapsed):
            words.append(f"{self._measure.show(moved / elapsed)}/s")
        return Text("  ".join(words))


class _Sturdy:
    """A stream for drawing in a thread; a terminal that disappears must not fail the work."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        try:
            self._stream.write(text)
        except OSError:
            silence(self._stream)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:
            silence(self._stream)

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()


class _Bars(Progress):
    """Bars that fetch the newest counts when they are drawn, not whenever a count changes."""

    def __init__(self, measure: Measure) -> None:
        self.latest: dict[tuple[str, str], DiskProgress] = {}
        self.tasks_of: dict[tuple[str, str], TaskID] = {}
        self.step = ""
        super().__init__(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            _Amount(measure),
            TimeRemainingColumn(),
            console=Console(file=cast("IO[str]", _Sturdy(sys.stderr)), highlight=False, markup=False),
            refresh_per_second=_REFRESHES,
            redirect_stdout=False,
        )

    def get_renderables(self) -> Iterable[RenderableType]:
        """Return the current step, then the bars."""
        for key, event in self.latest.copy().items():
            self.update(self.tasks_of[key], completed=event.done, moved=event.moved, stored=event.stored)
        if self.step:
            yield Text(self.step)
        yield from super().get_renderables()


class LiveProgress:
    """An observer and a context: it shows the bars while it lasts, and leaves them as a record."""

    def __init__(self, measure: Measure, verbose: bool) -> None:
        self._measure = measure
        self._verbose = verbose
        self._bars = _Bars(measure)

    def __enter__(self) -> LiveProgress:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.step = ""
        self._bars.stop()

    def __call__(self, event: Event) -> None:
        """Observe. Progress only changes a dictionary's value, as it comes often and from many threads."""
        match event:
            case DiskProgress():
                self._bars.latest[event.subject, event.disk] = event
            case DiskPlanned():
                self._plan(event)
            case Notice():
                self._print(notice_line(event))
            case Step():
                self._bars.step = f"{printable(event.subject)}: {event.name}"
                if self._verbose:
                    self._print(self._bars.step)

    def _plan(self, event: DiskPlanned) -> None:
        key, name = (event.subject, event.disk), f"{event.subject} {event.disk}"
        if key not in self._bars.tasks_of:
            self._bars.tasks_of[key] = self._bars.add_task(
                printable(name), total=event.total, moved=0, stored=0
            )
        else:
            self._bars.update(self._bars.tasks_of[key], total=event.total)
        if self._verbose:
            self._print(planned_line(event, self._measure))

    def _print(self, line: str) -> None:
        self._bars.console.print(line, soft_wrap=True)
