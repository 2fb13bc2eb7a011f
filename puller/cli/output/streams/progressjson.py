"""The reporter for programs: every line on stderr is a JSON document."""

from __future__ import annotations

import json
import sys
import threading
import time
from datetime import UTC, datetime
from typing import Any

import click

from puller.cli.output.streams.console import Line, say, silence
from puller.cli.output.times import rfc3339
from puller.events import DiskDone, DiskPlanned, DiskProgress, Event, Notice, Step

_SECONDS = 1.0
"""Seconds between two lines of progress of one disk."""


def as_json(line: Line) -> None:
    """Write a line as JSON: the reporter."""
    words: dict[str, Any] = {"time": rfc3339(datetime.now(UTC)), "event": line.event}
    if line.text and "message" not in line.fields:
        words["message"] = line.text
    try:
        click.echo(json.dumps({**words, **line.fields}), err=True)
    except OSError:
        silence(sys.stderr)


class Documents:
    """An observer that reports every event, and progress of a disk once a second and at its end."""

    def __init__(self) -> None:
        self._latest: dict[tuple[str, str], DiskProgress] = {}
        self._due: dict[tuple[str, str], float] = {}
        self._lock = threading.Lock()

    def __call__(self, event: Event) -> None:
        """Observe."""
        match event:
            case Step():
                say("", "step", domain=event.subject, step=event.name)
            case DiskPlanned():
                say("", "plan", domain=event.subject, disk=event.disk, size=event.size, total=event.total)
            case DiskProgress():
                self._progress(event)
            case DiskDone():
                self._tell(self._latest.get((event.subject, event.disk)))
                say("", "done", domain=event.subject, disk=event.disk)
            case Notice():
                say(event.text, "notice", domain=event.subject)

    def _progress(self, event: DiskProgress) -> None:
        now, key = time.monotonic(), (event.subject, event.disk)
        with self._lock:
            self._latest[key] = event
            due = self._due.setdefault(key, now) <= now
            if due:
                self._due[key] = now + _SECONDS
        if due:
            self._tell(event)

    @staticmethod
    def _tell(event: DiskProgress | None) -> None:
        if event is not None:
            moved = {} if event.moved is None else {"moved": event.moved}
            counts = {"done": event.done, **moved, "stored": event.stored}
            say("", "progress", domain=event.subject, disk=event.disk, **counts)
