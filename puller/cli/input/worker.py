"""What a worker of a fleet does: a task, with the configuration and the secrets of its own host."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace

from puller import __version__
from puller.cli.input.access import open_other, open_repository
from puller.cli.output import failures
from puller.cli.output.settings import Settings
from puller.cli.signals import EXIT_CODE, Stopped, stop_on_signals
from puller.errors import DamagedData, NoSuchPoint, RepositoryError, UsageError
from puller.fleet import packs
from puller.fleet.task import Answer, CopyTask, DrillTask, PacksTask, Place, Task
from puller.repository.points import Point
from puller.repository.repository import Repository

_opened: dict[tuple[Place, str | None, str | None], Repository] = {}
"""Repositories that this worker has opened, because a password takes a second."""

_opening = threading.Lock()


def work(version: str, task: Task) -> Answer:
    """Do the task of a driver with this version of puller.

    An error is part of the answer: the driver decides whether to try again.
    """
    try:
        # Packs need no cleaning up, so their reader dies at once; drills and copies end in order.
        with nullcontext() if isinstance(task, PacksTask) else stop_on_signals(_let_clean_up):
            return _do(version, task)
    except Stopped:  # the driver ends the processes of its pool
        os._exit(EXIT_CODE)
    except Exception as error:  # noqa: BLE001 - the driver gets one line for any exception
        return Answer(error=failures.translate(error))


def _let_clean_up() -> None:
    """Let further signals end nothing: a pool sends one to the others as soon as its first worker has ended.

    The driver kills a worker that takes too long.
    """
    signal.set_wakeup_fd(-1)


def _do(version: str, task: Task) -> Answer:
    if version != __version__:
        raise UsageError(
            f"a worker has puller {__version__}, and the command puller {version}",
            advice="Install the same version of puller on this host and on all workers.",
        )
    match task:
        case PacksTask():
            return Answer(packs.examine(_working(_repository(task.repository)), task))
        case DrillTask():
            return _prove(task)
        case CopyTask():
            return _copy(task)
    raise UsageError(f"unknown task {type(task).__name__}")


def _prove(task: DrillTask) -> Answer:
    from puller import api
    from puller.recovery.proving.prove import Drills

    repository = _repository(task.repository)
    try:
        point = repository.points.select(task.point)
    except (NoSuchPoint, DamagedData) as error:  # since the driver has chosen it
        return Answer(Drills(failed=[(task.domain, error)]), error)
    settings = _settings(task.repository)
    connect = task.choices.get("connect") or settings.connect or api.DEFAULT_URI
    choices = {**task.choices, "connect": connect, "settings": settings.configure().prove}
    found = api.prove(repository, [point], **choices)
    if found.interruption is not None:
        raise found.interruption
    translated = [(domain, failures.translate(error)) for domain, error in found.failed]
    found.failed = list(translated)
    return Answer(found, translated[0][1] if translated else None)


def _copy(task: CopyTask) -> Answer:
    from puller import api
    from puller.upkeep.copying.copy import CopyReport

    source = _repository(task.repository)
    target = _repository(task.target, task.password_file, task.key_file, task.repository)
    points, gone = _chosen(source, task.points)
    report = CopyReport((), (), ())
    if points:  # without any, all points would be meant
        report = api.copy_points(source, target, points, **task.choices)
    report = replace(report, failed=(*gone, *report.failed))
    return Answer(report, report.error)


def _chosen(
    source: Repository, names: Sequence[str]
) -> tuple[list[Point], list[tuple[str, RepositoryError]]]:
    """Return the points, and those that were deleted or damaged since the driver has chosen them."""
    points: list[Point] = []
    gone: list[tuple[str, RepositoryError]] = []
    for name in names:
        try:
            points.append(source.points.select(name))
        except (NoSuchPoint, DamagedData) as error:
            gone.append((name, error))
    return points, gone


def _settings(place: Place) -> Settings:
    settings = Settings.begin(os.environ, ())
    settings.repository = place.url
    settings.complete(settings.configure())
    return settings


def _repository(
    place: Place, password_file: str | None = None, key_file: str | None = None, first: Place | None = None
) -> Repository:
    """Open a repository, or return it as just opened: without anything that an earlier task has cached."""
    key = place, password_file, key_file
    with _opening:
        if key not in _opened:
            _opened[key] = _open(place, password_file, key_file, first)
    opened = _opened[key]
    fresh = Repository(opened.store, opened.descriptor, opened.keys)
    fresh.index_budget, fresh.store_options = opened.index_budget, opened.store_options
    return fresh


def _open(place: Place, password_file: str | None, key_file: str | None, first: Place | None) -> Repository:
    if first is None:
        found = open_repository(_settings(place))
    else:
        found = open_other(_settings(first), place.url, password_file, key_file)
    if found.id != place.id:
        raise UsageError(
            f"a worker finds another repository at {place.url}",
            advice="Give the worker the store's endpoint and credentials that this host has.",
        )
    return found


def _working(repository: Repository) -> Repository:
    from puller.api.arguments import working
    from puller.events import ignore

    return working(repository, "repository", ignore)
