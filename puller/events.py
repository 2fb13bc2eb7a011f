"""What a use case tells while it runs: values passed to an observer, never printed here.

An observer is any callable that takes one event. It is called from whichever thread the fact became
known in, so it must be quick and thread-safe; an exception from it ends the run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Event:
    """Base of all events."""


@dataclass(frozen=True, slots=True)
class Step(Event):
    """The run of ``subject`` (a domain's name or a point's id) entered the step ``name``."""

    subject: str
    name: str


@dataclass(frozen=True, slots=True)
class DiskPlanned(Event):
    """``total`` bytes of ``disk`` are to be moved in this run; ``size`` is the disk's size."""

    subject: str
    disk: str
    size: int
    total: int


@dataclass(frozen=True, slots=True)
class DiskProgress(Event):
    """How far ``disk`` is since the start, in bytes (or packs, where the disk is ``packs``).

    ``done`` is dealt with, zeros that cost nothing included: it runs up to the plan's total. ``moved`` of it
    was read in a backup, written in a restore; None where nobody knows, as in a push, where QEMU counts.
    ``stored`` was added to the repository.
    """

    subject: str
    disk: str
    done: int
    moved: int | None
    stored: int


@dataclass(frozen=True, slots=True)
class DiskDone(Event):
    """``disk`` is finished."""

    subject: str
    disk: str


@dataclass(frozen=True, slots=True)
class Notice(Event):
    """Something the user should know that is no failure, as one sentence."""

    subject: str
    text: str


@dataclass(frozen=True, slots=True)
class Kept(Event):
    """The pushed image of ``disk`` stays, as the user wished, in the file ``path``."""

    subject: str
    disk: str
    path: str


@dataclass(frozen=True, slots=True)
class Committed(Event):
    """The restore point of ``subject`` is committed; it stands, whatever happens to the run from now on.

    ``point`` is the :class:`puller.Point`. An observer learns of it here even if the run is stopped then.
    """

    subject: str
    point: Any


Observer = Callable[[Event], None]


def ignore(event: Event) -> None:
    """The observer that does nothing."""
