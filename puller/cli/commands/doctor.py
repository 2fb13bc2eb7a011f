"""``puller doctor``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from puller.cli.input.access import open_repository, repository_url, store_options
from puller.cli.input.options import Bare
from puller.cli.input.quantities import SIZE
from puller.cli.output.outcome import Outcome
from puller.cli.output.results.exercise import figures, measured
from puller.cli.output.settings import Settings
from puller.cli.output.streams.console import printable, say
from puller.errors import ChecksFailed, UsageError

if TYPE_CHECKING:
    from puller.configuration.job import Job
    from puller.diagnosis.finding import Finding


@click.command("doctor", cls=Bare)
@click.argument("domains", nargs=-1, metavar="[DOMAIN]...")
@click.option(
    "--scratch-dir",
    metavar="DIR",
    help="Check this scratch directory. Without it, check the one that a backup would use by default.",
)
@click.option(
    "--job",
    metavar="JOB",
    help="Check what this job of the configuration would use: its repository, domains, disks and "
    "directories. With DOMAIN, check only those of its domains.",
)
@click.option(
    "--exercise-store",
    "exercise",
    metavar="[SIZE]",
    is_flag=False,
    flag_value="256M",
    type=SIZE,
    help="Check only the store, and test it under load: two thousand small requests, then SIZE bytes of "
    "uploads (default 256M) and a quarter more of downloads, in at most 5 minutes. Nothing is left behind.",
)
@click.pass_obj
def command(
    settings: Settings,
    domains: tuple[str, ...],
    scratch_dir: str | None,
    job: str | None,
    exercise: int | None,
) -> Outcome:
    """Find problems that would make a backup fail.

    Check the host, the store and all domains, or only each DOMAIN (a name or a UUID). Print warnings and
    failures; with -v, print all checks. The exit code is 0 if no check failed, and 1 otherwise.

    Nothing is changed on the host. To test the credentials, one object is put under the repository's locks/
    and deleted again.

    --exercise-store tests under load what puller relies on: whether new objects can be read and listed at
    once, long lists, conditional puts by many writers, and ranges of large objects. It also measures the
    store.
    """
    if exercise is not None and (domains or scratch_dir is not None):
        raise UsageError(
            "--exercise-store checks no domains and no scratch directory",
            advice="Run doctor twice, or write SIZE with its unit, such as 1G.",
        )
    choices: dict[str, Any] = {"domains": tuple(dict.fromkeys(domains))}
    if job is None:
        settings.complete(settings.configure())
        settings.start()
    else:
        choices = _choices(settings.begin_job(job)) | ({} if not domains else choices)
    if scratch_dir is not None:
        choices["scratch_dir"] = scratch_dir
    url = repository_url(settings)
    if exercise is not None:
        return exercised(settings, url, exercise)
    from puller.api import DEFAULT_URI
    from puller.diagnosis.doctor import Examination, doctor
    from puller.store.location import open_store

    # Not puller.doctor: a missing or wrong password is a finding too.
    examination = Examination(settings.connect or DEFAULT_URI, **choices)
    store = open_store(url, store_options(settings))
    checks = list(doctor(store, lambda: open_repository(settings), examination))
    document = {"checks": [_record(check) for check in checks]}
    return Outcome(document, _text(checks, settings.verbosity > 0), _failure(checks))


def exercised(settings: Settings, url: str, size: int) -> Outcome:
    """Exercise the store, and return the report."""
    from puller.diagnosis.doctor import exercise_store
    from puller.diagnosis.exercise.plan import Plan
    from puller.store.location import open_store

    def tell(text: str) -> None:
        if settings.verbosity >= 0:
            say(text)

    report = exercise_store(open_store(url, store_options(settings)), Plan(size), tell)
    text = _text(report.findings, settings.verbosity > 0)
    document = {"checks": [_record(check) for check in report.findings], "exercise": measured(report)}
    return Outcome(document, f"{figures(report)}{text}", _failure(report.findings))


def _choices(job: Job) -> dict[str, Any]:
    """Return the job's choices of what to back up, and where to."""
    return {
        "domains": job.domains,
        "excluded": job.exclude,
        "disks": job.disks,
        "exclude_disks": job.exclude_disks,
        "mode": job.mode or "pull",
        "scratch_dir": job.scratch_dir,
        "staging_dir": job.staging_dir,
    }


def _record(check: Finding) -> dict[str, Any]:
    return {
        "name": check.name,
        "subject": check.subject,
        "status": check.status.value,
        "finding": check.text,
        "advice": check.advice,
    }


def _text(checks: Sequence[Finding], whole: bool) -> str:
    counts = Counter(check.status.value for check in checks)
    shown = [check for check in checks if whole or check.status.value != "ok"]
    summary = ", ".join(f"{counts[word]} {word}" for word in ("ok", "warn", "fail"))
    return "\n".join([*map(_lines, shown), f"{len(checks)} checks: {summary}"])


def _lines(check: Finding) -> str:
    about = printable(f"{check.name} {check.subject}: {check.text}")
    line = f"{check.status.value:<4}  {about}"
    return f"{line}\n      {printable(check.advice)}" if check.advice else line


def _failure(checks: Sequence[Finding]) -> ChecksFailed | None:
    failed = [check for check in checks if check.status.value == "fail"]
    if not failed:
        return None
    return ChecksFailed(
        f"{len(failed)} of {len(checks)} checks failed; {failed[0].subject}: {failed[0].text}",
        advice=failed[0].advice,
    )
