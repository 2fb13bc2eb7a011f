"""Events: what a use case reports to an observer while it runs.

An observer is any callable that takes one event. It is called from several threads, so it must be quick and
thread-safe. An exception that it raises ends the run.
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
    """The run of ``subject`` entered the step ``name``.

    In all events ``subject`` is the domain's name in a backup, the point's id in a restore, and
    ``repository`` elsewhere.
    """

    subject: str
    name: str


@dataclass(frozen=True, slots=True)
class DiskPlanned(Event):
    """The run will move ``total`` bytes of ``disk``, whose size is ``size`` bytes."""

    subject: str
    disk: str
    size: int
    total: int


@dataclass(frozen=True, slots=True)
class DiskProgress(Event):
    """Progress of ``disk`` since the start, in bytes (in packs if ``disk`` is ``packs``).

    Attributes:
        done: Bytes that are finished, zeros included. Reaches the ``total`` of DiskPlanned.
        moved: Bytes of these that a backup read or a restore wrote. None in a push, where QEMU moves them.
        stored: Bytes added to the repository.
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
    """A sentence about something that needs attention but does not fail the run."""

    subject: str
    text: str


@dataclass(frozen=True, slots=True)
class Kept(Event):
    """The pushed image of ``disk`` was kept in the file ``path``."""

    subject: str
    disk: str
    path: str


@dataclass(frozen=True, slots=True)
class Committed(Event):
    """The restore point of ``subject`` is committed. It stays, even if the run fails or is stopped later.

    ``point`` is the :class:`puller.Point`.
    """

    subject: str
    point: Any


Observer = Callable[[Event], None]


def ignore(event: Event) -> None:
    """Do nothing with ``event``: the default observer."""
