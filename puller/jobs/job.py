"""A job of the configuration: the command before, the backups, what follows them, the command after."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from msgspec import structs

from puller import __version__, api
from puller.backups.machines.connecting import connect
from puller.cancelling import find_stop
from puller.configuration.alarms import DEFAULTS, Thresholds
from puller.configuration.drills import DrillSettings
from puller.configuration.job import Job, JobStep
from puller.configuration.quantities import duration
from puller.configuration.schema import Command
from puller.errors import (
    CommandFailed,
    CommitUnreadable,
    DamagedData,
    Locked,
    NoSuchDomain,
    PullerError,
    UsageError,
)
from puller.events import Notice, Observer, ignore
from puller.host.command import outcome, run_command
from puller.hypervisor.locking.lock import JobLock, lock_directory
from puller.hypervisor.uri import is_local
from puller.jobs.batch import Failed, Reporters, Stored, take_all
from puller.jobs.report import AFTER, BACKUP, BEFORE, CHECK, COPY, PROVE, PRUNE, REPORT, STEPS, JobReport
from puller.recovery.proving.prove import newest_points
from puller.repository.collecting import lease
from puller.repository.points import Point
from puller.repository.repository import Repository
from puller.repository.selection import INTERVAL_TAG, JOB_TAG, Scope, select
from puller.upkeep.checking.check import CheckError, CheckReport
from puller.upkeep.copying.copy import Choice, CopyReport, unnamed_points
from puller.upkeep.pruning.prune import GRACE
from puller.upkeep.retention.policy import NOT_OWN, Policy

PRUNE_PATIENCE = lease.EXPIRY + lease.RENEWAL
"""Seconds that a prune waits for another host's prune. The lease of a dead one expires in that time."""

_PAUSE = 10.0
"""Seconds between two checks for that end."""


def _ignore_point(point: Point) -> None:
    """Do nothing: the default."""


def _ignore_failure(subject: str, error: BaseException) -> None:
    """Do nothing: the default."""


def run_job(  # noqa: PLR0913 - one keyword for each choice
    repository: Repository,
    job: Job,
    *,
    steps: Sequence[JobStep] | None = None,
    drills: DrillSettings | None = None,
    copies: Callable[[], Repository] | None = None,
    alarms: Thresholds = DEFAULTS,
    connect: str | None = None,
    observer: Observer = ignore,
    on_point: Stored = _ignore_point,
    on_failure: Failed = _ignore_failure,
) -> JobReport:
    """Run a job of the configuration: back up its domains, then do the steps in its ``then``.

    A step or a domain that fails does not stop the others: the report has the errors. So does a
    KeyboardInterrupt, which stops the run. The job's commands are run before and after its backups.

    Args:
        repository: The open repository. ``job.repository`` is ignored.
        job: The job, from ``read_configuration(...).job(NAME)``.
        steps: The steps to run, of ``backup``, ``copy``, ``prune``, ``check``, ``prove`` and ``report``.
            Default: those of the job.
        drills: How to hold restore drills, such as ``read_configuration(...).prove``.
        copies: Opens the repository to copy to, when the step ``copy`` or ``report`` begins. ``job.copy_to``
            is ignored.
        alarms: The thresholds above which a point looks wrong, as in ``read_configuration(...).alarms``.
        connect: The connection URI of libvirt. Default: the job's, else ``qemu:///system``.
        observer: Called with the events of all domains and steps, from several threads if ``parallel`` is
            set.
        on_point: Called with each new point.
        on_failure: Called with the name of each domain or step that fails, and its error.

    Returns:
        The results, the failures, and the exit code of ``puller run``.

    Raises:
        Locked: The same step of this job is running on this host.
        UsageError: A step does not exist.

    Example:
        >>> job = puller.read_configuration("/etc/puller/puller.toml").job("nightly")
        >>> report = puller.run_job(repository, job)
        >>> report.exit_code
        0
    """
    chosen = _checked(job.steps if steps is None else steps)
    uri, reporters = connect or job.connect or api.DEFAULT_URI, Reporters(observer, on_point, on_failure)
    run = _Run(repository, job, uri, reporters, drills or DrillSettings(), alarms, copies)
    with JobLock(job.name, chosen[0], lock_directory()):
        run.all(chosen)
    return run.report


def _checked(steps: Sequence[str]) -> Sequence[str]:
    if not steps or isinstance(steps, str) or not set(steps) <= set(STEPS):
        raise UsageError(f"invalid steps {steps!r}", advice=f"Use a list of: {', '.join(STEPS)}.")
    return steps


class _Run:
    def __init__(  # noqa: PLR0913, PLR0917 - what a run is made of
        self,
        repository: Repository,
        job: Job,
        connect: str,
        audience: Reporters,
        drills: DrillSettings,
        thresholds: Thresholds = DEFAULTS,
        copies: Callable[[], Repository] | None = None,
    ) -> None:
        self._repository = repository
        self._job = job
        self._connect = connect
        self._audience = audience
        self._drills = drills
        self._thresholds = thresholds
        self._copies = copies
        self._target: Repository | None = None
        self._other: str | None = None
        self.report = JobReport(job.name)

    def all(self, steps: Sequence[str]) -> None:
        """Run the steps between the commands. The command afterwards always runs."""
        work = {
            BACKUP: self._back_up,
            COPY: self._copy,
            PRUNE: self._prune,
            CHECK: self._check,
            PROVE: self._prove,
            REPORT: self._write_page,
        }
        if BACKUP not in steps:
            self._each(steps, work)
            return
        if self._try(BEFORE, lambda: self._command(self._job.before, {})):
            self._each(steps, work)
        facts = {"PULLER_EXIT_CODE": str(self.report.exit_code)}
        self._try(AFTER, lambda: self._command(self._job.after, facts))

    def _each(self, steps: Sequence[str], work: Mapping[str, Callable[[], None]]) -> None:
        for step in steps:
            if self.report.interruption is None:
                self._try(step, work[step])

    def _try(self, step: str, work: Callable[[], None]) -> bool:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - the results must be reported in any case
            self.report.failures.append((step, error))
            self.report.interruption = self.report.interruption or find_stop(error)
            self._audience.on_failure(step, error)
            return False
        return True

    def _command(self, command: Command | None, facts: Mapping[str, str]) -> None:
        if command is not None:
            facts = {"PULLER_JOB": self._job.name, **facts}
            words = command.command
            if code := run_command(words, facts, self._repository.scope, command.timeout):
                raise CommandFailed(f"{words[0]} failed with {outcome(code)}")

    def _back_up(self) -> None:
        report, job = self.report, self._job
        scope = self._repository.scope.child()
        repository = self._repository.within(scope)

        def take(domain: str, observer: Observer) -> Point:
            return api.backup(
                repository, domain, connect=self._connect, observer=observer, **choices(self._job)
            )

        report.taken = take_all(self._domains(), take, self._audience, job.parallel, scope)
        report.interruption = report.taken.interruption
        if report.interruption is None:
            self._watch(report.taken.points)

    def _watch(self, points: Sequence[Point]) -> None:
        """Report what looks wrong in the new points. If that cannot be determined, no backup fails."""
        for point in points:
            try:
                found = api.alarms(self._repository, point, thresholds=self._thresholds)
            except PullerError as error:
                self._audience.observer(Notice(point.domain, f"cannot judge the point: {error.message}"))
                continue
            for alarm in found:
                self.report.alarms.append((point.domain, alarm))
                self._audience.observer(Notice(point.domain, f"the point looks wrong: {alarm.text}"))

    def _host(self) -> str | None:
        """Return the name of the other host whose domains the job backs up; None if that is this host."""
        if self._job.hosts or is_local(self._connect):
            return None
        if self._other is None:
            with connect(self._connect, self._repository.scope) as host:
                self._other = host.access.node_name()
        return self._other

    def _domains(self) -> list[str]:
        with connect(self._connect, self._repository.scope) as host:
            known = host.uuids()
        chosen = select(known, self._job.domains, self._job.exclude)
        if not chosen:
            raise NoSuchDomain(
                f"libvirt at {self._connect} has no domain that job {self._job.name} matches",
                advice="List the domains with 'virsh list --all', or correct the job's 'domains'.",
            )
        return chosen

    def _copy(self) -> None:
        """Copy the job's own points that the other repository lacks."""
        target = self._elsewhere()
        if target is None:
            raise UsageError(
                f"job {self._job.name} has no repository to copy to", advice="Set copy-to in the job."
            )
        chosen, damaged = unnamed_points(
            self._repository, target, Choice(own=scope_of(self._job, self._host())), ()
        )
        report = CopyReport((), (), ())
        if chosen:
            report = api.copy_points(
                self._repository,
                target,
                chosen,
                compression=self._job.compression or 1,
                limit_upload=self._job.limit_upload,
                observer=self._audience.observer,
            )
        self.report.copy = replace(report, failed=(*damaged, *report.failed))

    def _elsewhere(self) -> Repository | None:
        """Return the repository to copy to, which two steps of a run open once; None if there is none."""
        if self._target is None and self._copies is not None:
            self._target = self._copies()
        return self._target

    def _prune(self) -> None:
        policy = policy_of(self._job, self._host())
        grace = self._job.grace if self._job.grace is not None else GRACE
        if policy.is_empty:
            self._tell(f"job {self._job.name} has no keep rules, so no point is removed")
        deadline = time.monotonic() + PRUNE_PATIENCE
        while self.report.prune is None:
            try:
                self.report.prune = api.prune(
                    self._repository, policy, grace=grace, observer=self._audience.observer
                )
            except CommitUnreadable:
                raise  # the end of another prune would not change that
            except Locked as error:
                if time.monotonic() > deadline:
                    raise
                self._tell(f"{error.message}; waiting until it ends")
                self._await_lease(deadline)
        if all(NOT_OWN in decision.reasons for decision in self.report.prune.decisions):
            self._tell(f"{self._none()}: no point was considered")

    def _none(self) -> str:
        scope = scope_of(self._job, self._host())
        return f"job {scope.job} has no points of its domains from {', '.join(scope.hosts)}"

    def _await_lease(self, deadline: float) -> None:
        """Wait until nobody holds the lease. Waits at least once, so that retries have a pause."""
        while True:
            self._repository.scope.pause(_PAUSE)
            self._repository.scope.check()
            store, boxes = self._repository.store, self._repository.keys.boxes()
            if time.monotonic() >= deadline or not lease.is_taken(store, boxes, PRUNE):
                return

    def _check(self) -> None:
        """Check the job's own points: a repository may hold many domains of others.

        The owner of a damaged record is unknown, so every damaged record is an error.
        """
        damaged: list[CheckError] = []

        def add(name: str, error: DamagedData) -> None:
            damaged.append(CheckError(error.message, name))

        points = api.list_points(self._repository, damaged=add)
        mine = list(filter(scope_of(self._job, self._host()).has, points))
        if not mine and not damaged:
            self._tell(f"{self._none()}: nothing was checked")
            return
        report = CheckReport(0, 0, 0, ())
        if mine:
            report = api.check(
                self._repository,
                mine,
                read_data=self._job.check,
                max_age=self._job.check_max_age,
                budget=self._job.check_budget,
                observer=self._audience.observer,
            )
        self.report.check = replace(report, errors=(*damaged, *report.errors))

    def _prove(self) -> None:
        """Drill the newest points of the job's own machines, those that were drilled longest ago."""
        damaged: list[DamagedData] = []
        points = api.list_points(self._repository, damaged=lambda _, error: damaged.append(error))
        mine = newest_points(filter(scope_of(self._job, self._host()).has, points))
        if not mine:
            self._tell(f"{self._none()}: nothing was proven")
            return
        found = api.prove(
            self._repository,
            mine,
            count=self._job.prove,
            settings=self._drills,
            connect=self._connect,
            observer=self._audience.observer,
        )
        self.report.prove = found
        self.report.interruption = self.report.interruption or found.interruption
        for domain, error in found.failed:
            self._audience.on_failure(domain, error)

    def _write_page(self) -> None:
        """Write the page about all machines, those of other jobs included.

        A damaged record fails the step, but the page about the other points is written first.
        """
        if self._job.report is None:
            raise UsageError(
                f"job {self._job.name} has no file for the page", advice="Set report in the job."
            )
        from puller.overview.page.page import TITLE, render
        from puller.overview.page.writing import replace_page

        damaged: list[DamagedData] = []
        other = self._elsewhere()
        found = api.report(
            [self._repository] if other is None else [self._repository, other],
            thresholds=self._thresholds,
            damaged=lambda _, error: damaged.append(error),
        )
        replace_page(Path(self._job.report), render(found, TITLE, __version__))
        if damaged:
            raise damaged[0]
        self.report.report = found

    def _tell(self, text: str) -> None:
        self._audience.observer(Notice("repository", text))


def choices(job: Job) -> dict[str, Any]:
    """Return the job's choices as the keywords of ``puller.backup``."""
    reserved = {JOB_TAG: job.name} | ({INTERVAL_TAG: job.interval} if job.interval else {})
    said = {name: value for name in _CHOICES if (value := getattr(job, name)) is not None}
    return {
        "disks": job.disks,
        "exclude_if_present": job.exclude_disks,
        "quiesce_mountpoints": job.quiesce_mountpoints,
        "tags": {**job.tags, **reserved},
        **said,
    }


_CHOICES = (
    "mode",
    "quiesce",
    "quiesce_timeout",
    "guest_before",
    "guest_after",
    "compression",
    "compare_every",
    "attach_limit",
    "pace",
    "limit_upload",
    "memory",
    "scratch_dir",
    "staging_dir",
    "nbd_tls",
    "nbd_ports",
    "nbd_address",
)
"""Keys of a job that are keywords of ``puller.backup`` with the same name."""


def policy_of(job: Job, host: str | None = None) -> Policy:
    """Return the rules by which the job's points are kept."""
    within = None if job.keep.within is None else duration(job.keep.within)
    rules = {**structs.asdict(job.keep), "within": within}
    return Policy(**rules, scope=scope_of(job, host), across_hosts=job.across_hosts)


def scope_of(job: Job, host: str | None = None) -> Scope:
    """Return the selection of the job's own points: of its hosts, by default of ``host`` or this host."""
    return Scope(job.name, job.domains, job.exclude, job.hosts or (host or platform.node(),))
