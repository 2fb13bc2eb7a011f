"""Tasks and answers: what travels between the driver of a fleet and its workers.

No task holds a key or a password: a worker opens repositories with secrets of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from puller.errors import PullerError


@dataclass(frozen=True, slots=True)
class Place:
    """A repository by its URL, and the id that it must have."""

    url: str
    id: str


@dataclass(frozen=True, slots=True)
class Task:
    """Base of all tasks."""

    repository: Place


@dataclass(frozen=True, slots=True)
class PacksTask(Task):
    """Examine packs: each by its id, with the bits of the slots that points reach.

    ``whole`` packs are read and recorded as verified; of others only the footers are read. The record has the
    name ``token``, so a worker knows what an earlier try of the task has done.
    """

    token: str
    packs: tuple[tuple[bytes, int], ...]
    whole: bool


@dataclass(frozen=True, slots=True)
class DrillTask(Task):
    """Hold a drill of one point of ``domain``. ``choices`` are keywords of ``puller.prove``."""

    point: str
    domain: str
    choices: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class CopyTask(Task):
    """Copy points of one machine. ``choices`` are keywords of ``puller.copy_points``.

    The worker opens ``target`` with the secret in one of the files, which are its own, or with the one
    that it has for the target.
    """

    points: tuple[str, ...]
    target: Place
    password_file: str | None
    key_file: str | None
    choices: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a worker made of a task: its result, an error, or both if a part of it failed."""

    result: Any = None
    error: PullerError | None = None
