"""``puller fleet check``, ``prove`` and ``copy``."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from puller.cli.commands import check as checking
from puller.cli.commands import copy as copying
from puller.cli.commands import prove as proving
from puller.cli.input.access import open_other, open_repository, secret_named_by
from puller.cli.input.options import Group
from puller.cli.input.quantities import Quantity
from puller.cli.output import failures
from puller.cli.output.outcome import Outcome
from puller.cli.output.reporting.measures import CHECK, MACHINES
from puller.cli.output.reporting.progress import observing
from puller.cli.output.results import proofs
from puller.cli.output.settings import Settings
from puller.errors import PullerError
from puller.fleet.where import parse

if TYPE_CHECKING:
    from puller.fleet.engine import Engine, Work
    from puller.repository.repository import Repository

_ON = click.Option(
    ["--on"],
    required=True,
    type=Quantity("engine", parse),
    metavar="ENGINE",
    help="Run the work on ENGINE: local (a process for each processor), local:N (N processes) or "
    "dask://HOST:PORT (the workers of a Dask cluster).",
)
_METRICS = (
    click.Option(
        ["--metrics-file"],
        metavar="FILE",
        help="Write metrics for Prometheus to this file, as a job does. Without it, none are written.",
    ),
    click.Option(
        ["--metrics-job"],
        metavar="NAME",
        default="fleet",
        show_default=True,
        help="Set the label 'job' of these metrics.",
    ),
)
_NOT_HERE = {"shard", "parallel"}
"""Options of the single commands for which the engine takes care."""

command = Group(
    "fleet",
    help="Share a check, drills or a copy among workers. They open the repository with secrets of their own. "
    "The results and exit codes are those of the single commands.",
    no_args_is_help=False,
)


def _like(single: click.Command, help_: str) -> Callable[[Callable[..., Outcome]], click.Command]:
    """Return the decorator of a command that has the arguments and options of ``single``, and an engine."""

    def decorate(function: Callable[..., Outcome]) -> click.Command:
        own = [parameter for parameter in single.params if parameter.name not in _NOT_HERE]
        made = type(single)(
            single.name,
            params=[*own, _ON, *_METRICS],
            callback=click.pass_obj(function),
            help=help_,
        )
        command.add_command(made)
        return made

    return decorate


@_like(
    checking.command,
    "Verify restore points.\n\nDo as 'puller check': this process reads the "
    "maps, and the workers examine the packs, about 256 in a task.",
)
def check(settings: Settings, /, points: tuple[str, ...], **choices: Any) -> Outcome:
    """Run ``puller fleet check``."""
    from puller.api import arguments
    from puller.fleet.packs import check_in_shards
    from puller.upkeep.checking.schedule import Reading

    run = _Run(settings, choices, "check")
    reading = Reading(choices["read_data"], choices["max_age"], choices["budget"])
    with run.observed(CHECK) as (repository, engine, observer):
        bound = arguments.working(repository, "repository", observer)
        chosen = [bound.points.select(point, choices["hosts"]) for point in points]
        report, tasks = check_in_shards(bound, chosen, reading, observer, engine, _work())
    failure = checking.failure(report)
    return run.outcome(checking.document(report), checking.text(report), failure, tasks, check=report)


@_like(
    proving.command,
    "Prove that machines start.\n\nDo as 'puller "
    "prove', each drill on a worker, with its libvirt and its configuration.",
)
def prove(settings: Settings, /, points: tuple[str, ...], **choices: Any) -> Outcome:
    """Run ``puller fleet prove``."""
    from puller.api import arguments
    from puller.fleet.machines import prove_in_shards
    from puller.recovery.proving import prove as drills

    proving.refuse_nothing(choices["timeout"])
    run = _Run(settings, choices, "prove")
    evidence = choices["evidence"]
    words = {name: choices[name] for name in ("timeout", "memory", "directory")}
    words |= {"evidence": None if evidence is None else str(evidence), "emulate": choices["emulate"] or None}
    words["connect"] = settings.connect
    with run.observed(MACHINES) as (repository, engine, observer):
        repository.keys.require_guest_data()
        bound = arguments.working(repository, "repository", observer)
        chosen = drills.choose(bound, points, choices["hosts"])
        if choices["max_age"] is not None:
            chosen = drills.not_since(bound, chosen, choices["max_age"])
        if choices["count"] is not None or not points:
            chosen = drills.longest_ago(bound, chosen)
        found, tasks = prove_in_shards(bound, chosen, choices["count"], words, observer, engine, _work())
    for domain, error in found.failed:
        if len(found.held) + len(found.failed) > 1:
            failures.complain(failures.translate(error), settings, domain)
    return run.outcome(proofs.document(found), proofs.text(found), proofs.failure(found), tasks, prove=found)


@_like(
    copying.command,
    "Copy restore points.\n\nDo as 'puller copy', the "
    "points of each machine on one worker. The workers open both repositories.",
)
def copy(settings: Settings, /, points: tuple[str, ...], **choices: Any) -> Outcome:
    """Run ``puller fleet copy``."""
    from dataclasses import replace

    from puller.api import arguments
    from puller.fleet.machines import copy_in_shards
    from puller.upkeep.copying.copy import Choice, refuse_unknown, unnamed_points

    run = _Run(settings, choices, "copy")
    files = choices["to_password_file"], choices["to_key_file"]
    choice = Choice(choices["domains"], choices["tags"], choices["since"], choices["latest_only"])
    words = {name: choices[name] for name in _COPY_CHOICES}
    with run.observed(MACHINES) as (repository, engine, observer):
        source = arguments.working(repository, "source", observer)
        with secret_named_by("--to"):
            other = open_other(settings, choices["to"], *files)
        target = arguments.working(other, "target", observer)
        damaged: Sequence[Any] = ()
        refuse_unknown(choice.domains, source)
        if points:
            chosen = choice.of([source.points.select(point, choices["hosts"]) for point in points])
        else:
            chosen, damaged = unnamed_points(source, target, choice, choices["hosts"])
        report, tasks = copy_in_shards(source, target, chosen, files, words, observer, engine, _work())
        report = replace(report, failed=(*damaged, *report.failed))
    return run.outcome(copying.document(report), copying.text(report), report.error, tasks, copy=report)


_COPY_CHOICES = ("compression", "limit_read", "limit_upload")


def _work() -> Work:
    from puller import __version__
    from puller.cli.input.worker import work

    return partial(work, __version__)


class _Run:
    """One command of a fleet: its engine, its summary and its metrics."""

    def __init__(self, settings: Settings, choices: Mapping[str, Any], step: str) -> None:
        self._settings = settings
        self._choices = choices
        self._step = step
        self._began = time.monotonic()

    @contextmanager
    def observed(self, measure: Any) -> Iterator[tuple[Repository, Engine, Any]]:
        """Open the repository and the engine; at the end, close the engine. An error goes to the metrics."""
        from puller.fleet.engine import engine_of

        try:
            repository = open_repository(self._settings)
            engine = engine_of(self._choices["on"], repository.scope)
            try:
                with observing(self._settings, measure) as observer:
                    yield repository, engine, observer
            finally:
                engine.close()
        except BaseException as error:
            self._export(failures.translate(error))
            raise

    def outcome(
        self, document: Mapping[str, Any], text: str, failure: PullerError | None, tasks: int, **report: Any
    ) -> Outcome:
        """Return what the single command would return, with the number of shards added."""
        self._export(failure, **report)
        return Outcome({**document, "shards": tasks}, f"{text}\nshards: {tasks}", failure)

    def _export(self, failure: PullerError | None, **report: Any) -> None:
        if (path := self._choices["metrics_file"]) is None:
            return
        from puller.cli.output import metrics
        from puller.jobs.report import JobReport

        name = self._choices["metrics_job"]
        results = JobReport(name, **report) if report else None
        took = time.monotonic() - self._began
        metrics.export(path, metrics.Run(name, took, results, failure, (self._step,)))
