"""``puller run``."""

from __future__ import annotations

import platform
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from puller.cancelling import CancelScope
from puller.cli.commands import check, copy, prune
from puller.cli.commands import report as page
from puller.cli.input.access import open_other, open_repository
from puller.cli.input.options import Bare
from puller.cli.output import failures
from puller.cli.output.outcome import Outcome
from puller.cli.output.reporting.measures import BACKUP, notice_line
from puller.cli.output.reporting.progress import observing
from puller.cli.output.results import proofs, taken
from puller.cli.output.settings import Settings
from puller.cli.output.streams import console
from puller.cli.output.times import duration
from puller.cli.signals import Stopped
from puller.errors import DamagedData, Locked, PartialFailure, PullerError
from puller.events import Notice

if TYPE_CHECKING:
    from puller.configuration.job import Job, JobStep
    from puller.jobs.report import JobReport
    from puller.repository.repository import Repository

STEPS: tuple[JobStep, ...] = ("backup", "copy", "prune", "check", "prove", "report")
_ORDER = ("before", *STEPS, "after")


@click.command("run", cls=Bare)
@click.argument("job", metavar="JOB")
@click.option(
    "--only",
    type=click.Choice(STEPS),
    help="Run only this step, even if the job's 'then' does not name it. Without backup, the job's commands "
    "before and after are not run.",
)
@click.option(
    "--metrics-file",
    metavar="FILE",
    help="Write metrics for Prometheus to this file. Without it, the job's metrics-file is used if it has "
    "one.",
)
@click.pass_obj
def command(settings: Settings, job: str, only: JobStep | None, metrics_file: str | None) -> Outcome:
    """Run a job of the configuration.

    Back up all domains that the job matches, as many at once as its 'parallel' says. Then do the steps in its
    'then': copy its points to another repository, prune by its rules, check, prove that some machines start,
    and write a page about all machines. If the job is already running on this host, the exit code is 11.
    """
    chosen = settings.begin_job(job)
    return _Command(settings, chosen, metrics_file or chosen.metrics_file).run(
        (only,) if only else chosen.steps
    )


class _Command:
    """One run of a job, and its reports."""

    def __init__(self, settings: Settings, job: Job, metrics_file: str | None) -> None:
        self._settings = settings
        self._job = job
        self._metrics_file = metrics_file
        self._began = time.monotonic()

    def run(self, steps: Sequence[JobStep]) -> Outcome:
        """Run the steps. Every failure is counted for Prometheus."""
        console.speak_about(job=self._job.name)
        self._tell_began()
        try:
            report = self._work(steps)
        except (Exception, Stopped) as error:
            failed = failures.translate(error)
            self._export(steps, None, failed)
            self._tell_ended(None, failed)
            raise
        failure = _failure(report)
        unkept = self._export(steps, report, failure)
        failure = failure or unkept
        self._tell_ended(report, failure)
        parts = self._parts(report)
        if console.is_heard_by_programs():
            for event, text in parts.items():
                console.say(text, event)
            code = failure.exit_code if failure else 0
            console.say(self._summary(report), "summary", exit_code=code)
        points = [taken.text(report.taken)] if report.taken.points else []
        text = "\n".join([*points, *parts.values(), self._summary(report)])
        return Outcome(document(report), text, failure)

    def _tell_began(self) -> None:
        if self._job.notify is not None:
            from puller.notifying import notify

            notify.began(self._job.notify, self._complain)

    def _tell_ended(self, report: JobReport | None, failure: PullerError | None) -> None:
        """Send the job's notifications, unless another run of the job is still going on: that one sends
        them."""
        if self._job.notify is None or (report is None and isinstance(failure, Locked)):
            return
        from puller.notifying import notify
        from puller.notifying.ending import Ending

        ending = Ending(
            self._job.name,
            platform.node(),
            0 if failure is None else failure.exit_code,
            f"job {self._job.name} failed" if report is None else self._summary(report),
            "" if failure is None else failure.message,
            "" if failure is None else failure.advice,
            (type(failure).__name__,) if report is None else _failed(report),
            () if report is None else tuple((domain, alarm.text) for domain, alarm in report.alarms),
            time.monotonic() - self._began,
        )
        notify.ended(self._job.notify, ending, self._complain)

    def _complain(self, error: PullerError) -> None:
        """Print a notice that a notification could not be delivered: this does not fail the run."""
        console.say(notice_line(Notice(self._job.name, error.message)), "notice", console.NOTICE)

    def _tell(self, text: str) -> None:
        if self._settings.verbosity >= 0:
            console.say(notice_line(Notice("repository", text)), "notice", console.NOTICE)

    def _work(self, steps: Sequence[JobStep]) -> JobReport:
        # Nobody waits at a terminal, and a store that is unavailable for a moment when the timer fires must
        # not cost the night's backup.
        repository = open_repository(self._settings, CancelScope().working(self._tell))
        from puller.jobs.job import run_job

        configuration = self._settings.configure()
        with observing(self._settings, BACKUP) as observer:
            reporters = taken.audience(self._settings, observer, complaining=True)
            return run_job(
                repository,
                self._job,
                steps=steps,
                connect=self._settings.connect,
                drills=configuration.prove,
                copies=self._open_target if self._job.copy_to else None,
                alarms=configuration.alarms,
                observer=reporters.observer,
                on_point=reporters.on_point,
                on_failure=reporters.on_failure,
            )

    def _open_target(self) -> Repository:
        scope = CancelScope().working(self._tell)
        return open_other(self._settings, self._job.copy_to or "", None, None, scope)

    def _export(
        self, steps: Sequence[str], report: JobReport | None, failure: PullerError | None
    ) -> PullerError | None:
        """Write the metrics. A failure is reported and returned, so that it hides no other failure."""
        if self._metrics_file is None:
            return None
        from puller.cli.output import metrics

        took = time.monotonic() - self._began
        try:
            metrics.export(
                self._metrics_file, metrics.Run(self._job.name, took, report, failure, tuple(steps))
            )
        except PullerError as error:
            failures.complain(error, self._settings, self._job.name)
            return error
        return None

    def _parts(self, report: JobReport) -> dict[str, str]:
        """Return the results of the steps after the backups, for people."""
        parts = {}
        if report.copy is not None:
            parts["copy"] = copy.text(report.copy)
        if report.prune is not None:
            parts["prune"] = prune.text(report.prune)
        if report.check is not None:
            parts["check"] = check.text(report.check)
        if report.prove is not None:
            parts["prove"] = proofs.text(report.prove)
        if report.report is not None:
            parts["report"] = page.text(report.report, self._job.report)
        return parts

    def _summary(self, report: JobReport) -> str:
        points, failed = len(report.taken.points), len(report.taken.failed)
        parts = [f"{points} of {points + failed} domains backed up"] if points + failed else []
        parts += [f"{step} failed" for step, _ in report.failures]
        took = duration(time.monotonic() - self._began)
        return f"job {report.job}: {', '.join(parts) or 'done'} in {took}"


def document(report: JobReport) -> dict[str, Any]:
    """Return the document of docs/cli.md: as of ``backup``, with those of the other steps that ran."""
    return {
        "job": report.job,
        **taken.document(report.taken),
        "alarms": [
            {"domain": domain, "point": alarm.point, "sign": alarm.sign, "text": alarm.text}
            for domain, alarm in report.alarms
        ],
        "copy": None if report.copy is None else copy.document(report.copy),
        "prune": None if report.prune is None else prune.document(report.prune),
        "check": None if report.check is None else check.document(report.check),
        "prove": None if report.prove is None else proofs.document(report.prove),
        "report": None if report.report is None else page.document(report.report),
        "failures": [
            {"step": step, "error": failures.document(failures.translate(error))}
            for step, error in report.failures
        ],
    }


def _failed(report: JobReport) -> tuple[str, ...]:
    """Return the names of what failed: domains, and steps."""
    names = {domain for domain, _ in (*report.taken.failed, *report.taken.left)}
    names |= {step for step, _ in report.failures}
    if report.copy is not None and report.copy.error is not None:
        names.add("copy")
    if report.check is not None and report.check.errors:
        names.add("check")
    if report.prove is not None:
        names |= {drill.point.domain for drill in report.prove.unproven}
        names |= {domain for domain, _ in report.prove.failed}
    return tuple(sorted(names))


def _failure(report: JobReport) -> PullerError | None:
    """Return the interruption; else the only failure; for several failures, a partial failure.

    The latter needs stored points. Without them it is the first error, or the damage that was found.
    """
    if report.interruption is not None:
        return taken.stopped(report.taken, failures.translate(report.interruption))
    found = [(step, failures.translate(error)) for step, error in report.failures]
    if (missed := taken.failure(report.taken)) is not None:
        found.append(("backup", missed))
    if report.copy is not None and report.copy.error is not None:
        found.append(("copy", report.copy.error))
    if report.check is not None and (damage := check.failure(report.check)) is not None:
        found.append(("check", damage))
    if report.prove is not None and (unproven := proofs.failure(report.prove)) is not None:
        found.append(("prove", unproven))
    found.sort(key=lambda item: _ORDER.index(item[0]))
    if len(found) < 2:
        return found[0][1] if found else None
    text = f"job {report.job}: " + "; ".join(f"{step}: {error.message}" for step, error in found)
    if stored := len(report.taken.points):
        return PartialFailure(text, advice=f"Read each error above; {stored} domains were backed up.")
    errors = [error for _, error in found]
    first = next((error for error in errors if isinstance(error, DamagedData)), errors[0])
    return type(first)(text, advice=first.advice)
