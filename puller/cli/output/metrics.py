"""Metrics for Prometheus, in a text file that node_exporter's textfile collector reads.

The file may hold the metrics of many jobs: a run replaces those of its own job and keeps the others. Values
that a failed run does not know, such as the time of the last success, stay as they were. A run that was
refused because another run of its job is running leaves the job's metrics unchanged.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from puller.cli.output import failures
from puller.cli.output.results import proofs
from puller.errors import DamagedData, JobLeftOpen, Locked, PullerError
from puller.jobs.batch import Taken

if TYPE_CHECKING:
    from puller.jobs.report import JobReport
    from puller.repository.points import Point

_DOMAIN, _JOB = ("job", "domain"), ("job",)
_ERRORS = "puller_errors_total"
_SUCCESS = "puller_backup_success"
_LEFT_OPEN = "puller_backup_job_left_open"
_ALARMS = "puller_backup_alarms"
_DRILLS = "puller_prove_"
_OLDEST = "puller_check_oldest_verified_timestamp_seconds"
_GAUGES: Mapping[str, tuple[tuple[str, ...], str]] = {
    "puller_backup_last_success_timestamp_seconds": (_DOMAIN, "Time of the newest point."),
    "puller_backup_success": (_DOMAIN, "1 if the last run took a point of the domain, else 0."),
    "puller_backup_duration_seconds": (_DOMAIN, "Duration of the backup that took the newest point."),
    "puller_backup_dirty_bytes": (_DOMAIN, "Bytes that the source reported as changed, newest point."),
    "puller_backup_read_bytes": (_DOMAIN, "Bytes read from the disks, newest point."),
    "puller_backup_stored_bytes": (_DOMAIN, "Bytes added to the store, newest point."),
    "puller_backup_deduplicated_bytes": (
        _DOMAIN,
        "Bytes read that were zero or already in the repository, newest point.",
    ),
    "puller_backup_freeze_seconds": (
        _DOMAIN,
        "Time that the guest's file systems were frozen, newest point.",
    ),
    "puller_backup_scratch_peak_bytes": (
        _DOMAIN,
        "Bytes of scratch that the guest's writes used, newest point.",
    ),
    "puller_backup_job_left_open": (
        _DOMAIN,
        "1 if the newest point's backup job could not be ended, else 0.",
    ),
    _ALARMS: (_DOMAIN, "Signs in the newest point that something is wrong; 0 is well."),
    "puller_job_last_run_timestamp_seconds": (_JOB, "Time of the end of the last run with backups."),
    "puller_job_duration_seconds": (_JOB, "Duration of the last run with backups."),
    "puller_job_exit_code": (_JOB, "Exit code of the last run with backups; 0 is success."),
    "puller_copy_exit_code": (_JOB, "Exit code of the last copy; 0 is success."),
    "puller_copy_last_success_timestamp_seconds": (_JOB, "Time of the last copy without an error."),
    "puller_prune_exit_code": (_JOB, "Exit code of the last prune; 0 is success."),
    "puller_prune_last_success_timestamp_seconds": (_JOB, "Time of the last successful prune."),
    "puller_prune_freed_bytes": (_JOB, "Bytes freed by the last prune."),
    "puller_check_exit_code": (_JOB, "Exit code of the last check; 0 is success."),
    "puller_check_last_success_timestamp_seconds": (_JOB, "Time of the last check that found no error."),
    "puller_check_errors": (_JOB, "Errors found by the last check."),
    "puller_check_packs_left": (_JOB, "Packs that were due in the last check, but beyond its budget."),
    _OLDEST: (_JOB, "Time of the oldest verification of a pack, if each pack was verified once."),
    "puller_prove_exit_code": (_JOB, "Exit code of the last restore drills; 0 is success."),
    "puller_prove_success": (_DOMAIN, "1 if the domain's last restore drill proved that it starts, else 0."),
    "puller_prove_timestamp_seconds": (_DOMAIN, "Time of the domain's last restore drill."),
    "puller_prove_start_seconds": (
        _DOMAIN,
        "Time from the start to the evidence in the last drill that proved that the domain starts.",
    ),
    "puller_report_exit_code": (_JOB, "Exit code of the last page about all machines; 0 is success."),
    "puller_report_last_success_timestamp_seconds": (_JOB, "Time of the last complete page."),
}
_ERRORS_HELP = "Failures by class of error; those of a whole job have an empty domain."

Labels = tuple[tuple[str, str], ...]
Samples = dict[tuple[str, Labels], float]
"""Values by name and labels of the sample."""


@dataclass(frozen=True, slots=True)
class Run:
    """Results of a run of ``steps``; without a ``report`` it failed before its first step."""

    job: str
    seconds: float
    report: JobReport | None
    failure: PullerError | None
    steps: Sequence[str] = ("backup",)

    @property
    def was_refused(self) -> bool:
        """Whether nothing was begun because another run of the job is running."""
        return self.report is None and isinstance(self.failure, Locked)

    @property
    def taken(self) -> Taken:
        """Results of the backups."""
        return Taken() if self.report is None else self.report.taken


def export(path: str, run: Run) -> None:
    """Update the file with this run. Raises PullerError."""
    try:
        with _held(Path(path).parent):
            _replace(Path(path), render(merge(_read(Path(path)), run, time.time())))
    except (OSError, ValueError) as error:
        raise PullerError(
            f"cannot write the metrics file {path}: {getattr(error, 'strerror', None) or error}",
            advice="Set a file in a directory that puller can write to, and delete a damaged file.",
        ) from error


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Lock the file: two jobs that end at once must not lose each other's metrics."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _read(path: Path) -> Samples:
    try:
        text = path.read_text()
    except FileNotFoundError:
        return {}
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def _replace(path: Path, content: bytes) -> None:
    """Replace the file atomically, readable by node_exporter, which is another user.

    It is synced first, because a file that a power cut emptied would fail every later run.
    """
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with fresh.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        fresh.chmod(0o644)
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)


def merge(old: Samples, run: Run, now: float) -> Samples:
    """Return the old metrics updated by those of this run."""
    merged = dict(old)
    if not run.was_refused:
        if "backup" in run.steps:
            merged = _with_backups(merged, run)
            merged |= dict(_of_job(run, now))
        for step in ("copy", "prune", "check", "prove", "report"):
            merged |= dict(_of_step(run, step))
        if run.report is not None and run.report.check is not None:
            merged.pop(_sample(_OLDEST, run.job), None)  # a new pack was never verified
        merged |= dict(_of_report(run, now))
        merged |= dict(_of_drills(run))
    for key in _errors(run):
        merged[key] = merged.get(key, 0.0) + 1
    return merged


def _with_backups(old: Samples, run: Run) -> Samples:
    """Return the metrics of the job's domains.

    A domain that was not reached keeps its earlier figures, with success = 0. If all were reached, domains
    that the job no longer matches are dropped.
    """
    points = {point.domain: point for point in run.taken.points}
    begun = {*points, *(domain for domain, _ in run.taken.failed)}
    is_whole = bool(begun) and run.taken.interruption is None

    def stays(name: str, words: Mapping[str, str]) -> bool:
        domain = words.get("domain")
        if words["job"] != run.job or not domain:
            return True
        if domain in points:
            return name == _ERRORS or name.startswith(_DRILLS)
        return domain in begun or not is_whole

    merged = {key: value for key, value in old.items() if stays(key[0], dict(key[1]))}
    alarms = Counter(domain for domain, _ in run.report.alarms) if run.report else Counter[str]()
    stuck = {domain for domain, error in run.taken.left if isinstance(error, JobLeftOpen)}
    for point in points.values():
        merged |= dict(_of_point(run.job, point))
        merged[_sample(_LEFT_OPEN, run.job, point.domain)] = float(point.domain in stuck)
        merged[_sample(_ALARMS, run.job, point.domain)] = float(alarms[point.domain])
    missed = begun.union(_domains(merged, run.job)) - set(points)
    return merged | {_sample(_SUCCESS, run.job, domain): 0.0 for domain in missed}


def _domains(samples: Samples, job: str) -> set[str]:
    """Return the domains whose result is known."""
    labels = [dict(labels) for name, labels in samples if name == _SUCCESS]
    return {words["domain"] for words in labels if words["job"] == job}


def _sample(name: str, job: str, domain: str | None = None) -> tuple[str, Labels]:
    labels = {"job": job} if domain is None else {"domain": domain, "job": job}
    return name, tuple(labels.items())


def _of_job(run: Run, now: float) -> Iterator[tuple[tuple[str, Labels], float]]:
    yield _sample("puller_job_last_run_timestamp_seconds", run.job), now
    yield _sample("puller_job_duration_seconds", run.job), run.seconds
    yield _sample("puller_job_exit_code", run.job), run.failure.exit_code if run.failure else 0


def _of_step(run: Run, step: str) -> Iterator[tuple[tuple[str, Labels], float]]:
    """Return the exit code of a later step, alone or after the backups, if it was begun."""
    name = _sample(f"puller_{step}_exit_code", run.job)
    if run.steps == (step,):
        yield name, run.failure.exit_code if run.failure else 0
    elif run.report is not None:
        failed = [failures.translate(error) for at, error in run.report.failures if at == step]
        damage = step == "check" and run.report.check is not None and run.report.check.errors
        drills = step == "prove" and run.report.prove is not None and proofs.failure(run.report.prove)
        copying = run.report.copy.error if step == "copy" and run.report.copy is not None else None
        if failed or damage:
            yield name, failed[0].exit_code if failed else DamagedData.exit_code
        elif drills:
            yield name, drills.exit_code
        elif copying is not None:
            yield name, copying.exit_code
        elif getattr(run.report, step) is not None:
            yield name, 0


def _of_report(run: Run, now: float) -> Iterator[tuple[tuple[str, Labels], float]]:
    if run.report is not None and run.report.copy is not None and run.report.copy.error is None:
        yield _sample("puller_copy_last_success_timestamp_seconds", run.job), now
    if run.report is not None and run.report.prune is not None:
        yield _sample("puller_prune_last_success_timestamp_seconds", run.job), now
        yield _sample("puller_prune_freed_bytes", run.job), run.report.prune.bytes_freed
    if run.report is not None and run.report.report is not None:
        yield _sample("puller_report_last_success_timestamp_seconds", run.job), now
    if run.report is not None and run.report.check is not None:
        oldest, errors = run.report.check.oldest_verified, len(run.report.check.errors)
        yield _sample("puller_check_errors", run.job), errors
        yield _sample("puller_check_packs_left", run.job), run.report.check.packs_left
        if oldest is not None:
            yield _sample(_OLDEST, run.job), oldest.timestamp()
        if not errors:
            yield _sample("puller_check_last_success_timestamp_seconds", run.job), now


def _of_drills(run: Run) -> Iterator[tuple[tuple[str, Labels], float]]:
    if run.report is None or run.report.prove is None:
        return
    for drill in run.report.prove.held:
        domain, proof = drill.point.domain, drill.proof
        is_proven = proof.verdict == "proven"
        yield _sample(f"{_DRILLS}success", run.job, domain), float(is_proven)
        yield _sample(f"{_DRILLS}timestamp_seconds", run.job, domain), proof.time.timestamp()
        if is_proven and proof.seconds is not None:
            yield _sample(f"{_DRILLS}start_seconds", run.job, domain), proof.seconds


def _of_point(job: str, point: Point) -> Iterator[tuple[tuple[str, Labels], float]]:
    figures = {
        "last_success_timestamp_seconds": point.time.timestamp(),
        "success": 1.0,
        "duration_seconds": point.seconds,
        "dirty_bytes": sum(disk.dirty_bytes for disk in point.disks),
        "read_bytes": sum(disk.read_bytes for disk in point.disks),
        "stored_bytes": sum(disk.stored_bytes for disk in point.disks),
        # The last chunk of a disk counts as a whole one if it is new, so this could be below 0.
        "deduplicated_bytes": sum(max(0, disk.read_bytes - disk.new_bytes) for disk in point.disks),
        "freeze_seconds": point.freeze_seconds,
        "scratch_peak_bytes": point.scratch_peak,
    }
    for name, value in figures.items():
        if value is not None:
            yield _sample(f"puller_backup_{name}", job, point.domain), value


def _errors(run: Run) -> Iterator[tuple[str, Labels]]:
    domains = [*run.taken.failed, *run.taken.left]
    steps = [] if run.report is None else run.report.failures
    told = [*domains, *(("", error) for _, error in steps)]
    if run.failure is not None and not told:
        told = [("", run.failure)]
    for domain, error in told:
        kind = type(failures.translate(error)).__name__
        yield _ERRORS, (("domain", domain), ("error", kind), ("job", run.job))


class _Figures(Collector):
    def __init__(self, samples: Samples) -> None:
        self._samples = samples

    def collect(self) -> Iterator[Metric]:
        for name, (labels, text) in _GAUGES.items():
            gauge = GaugeMetricFamily(name, text, labels=labels)
            for words, value in self._of(name):
                gauge.add_metric([words.get(label, "") for label in labels], value)
            if gauge.samples:
                yield gauge
        counter = CounterMetricFamily(_ERRORS, _ERRORS_HELP, labels=("job", "domain", "error"))
        for words, value in self._of(_ERRORS):
            counter.add_metric([words["job"], words["domain"], words["error"]], value)
        if counter.samples:
            yield counter

    def _of(self, name: str) -> Iterator[tuple[dict[str, str], float]]:
        return (
            (dict(labels), value) for (known, labels), value in sorted(self._samples.items()) if known == name
        )


def render(samples: Samples) -> bytes:
    """Return the metrics in Prometheus's text format."""
    registry = CollectorRegistry()
    registry.register(_Figures(samples))
    return generate_latest(registry)
