"""The step "report" of a job: what its page shows, what its failures do, and its exit code."""

from __future__ import annotations

import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import puller
from puller.cli.output.metrics import Run, export
from puller.configuration.job import Job
from puller.errors import OutputFailed, StoreUnavailable, UsageError
from puller.jobs.job import run_job
from tests.cli.conftest import CommandLine
from tests.cli.test_metrics import figures
from tests.lab.archive import make_point

NOW = datetime.now(UTC).replace(microsecond=0)
DAY = timedelta(days=1)
TAGS = {"job": "nightly"}


@pytest.fixture
def repository(tmp_path: Path) -> puller.Repository:
    """A point of the job, and one of another domain taken by hand."""
    made = puller.create_repository(str(tmp_path / "repository"), password=None)
    make_point(made, {"vda": b"web"}, "web1", NOW - DAY, TAGS)
    make_point(made, {"vda": b"mail"}, "mail", NOW - DAY)
    return made


@pytest.fixture
def target(tmp_path: Path) -> puller.Repository:
    return puller.create_repository(str(tmp_path / "elsewhere"), password=None)


def _job(page: Path) -> Job:
    return Job("nightly", ("web*",), then=("report",), report=str(page))


def _domains(report: puller.JobReport) -> list[str]:
    assert report.report is not None
    return [machine.status.domain for machine in report.report.machines]


def test_the_page_shows_all_machines_of_the_repository(repository: puller.Repository, tmp_path: Path) -> None:
    page = tmp_path / "backups.html"
    page.write_text("the page of yesterday")
    page.chmod(0o600)
    report = run_job(repository, _job(page), steps=["report"])
    assert report.exit_code == 0
    assert sorted(_domains(report)) == ["mail", "web1"]
    assert all(f">{domain}<" in page.read_text() for domain in ("mail", "web1"))
    assert stat.S_IMODE(page.stat().st_mode) == 0o644
    assert [path.name for path in tmp_path.glob("*backups*")] == ["backups.html"]
    export(str(tmp_path / "m.prom"), Run("nightly", 1.0, report, None, ("report",)))
    shown = figures(tmp_path / "m.prom")
    assert shown["report_exit_code", "nightly", ""] == 0
    assert shown["report_last_success_timestamp_seconds", "nightly", ""] > NOW.timestamp()


def test_the_page_comes_last_and_shows_what_was_copied_in_the_same_run(
    repository: puller.Repository, target: puller.Repository, tmp_path: Path
) -> None:
    steps = Job("nightly", ("web*",), then=("report", "copy")).steps
    assert steps == ("backup", "copy", "report")
    opened = []

    def copies() -> puller.Repository:
        opened.append(target)
        return target

    report = run_job(repository, _job(tmp_path / "backups.html"), steps=steps[1:], copies=copies)
    assert report.exit_code == 0
    assert report.report is not None
    machines = report.report.machines
    copied = [(one.status.domain, any(day.copied for day in one.days)) for one in machines]
    assert sorted(copied) == [("mail", False), ("web1", True), ("web1", True)], "one line in each repository"
    assert [one.points for one in report.report.repositories] == [2, 1]
    assert len(opened) == 1


def test_a_page_that_cannot_be_written_fails_the_step_alone(
    repository: puller.Repository, tmp_path: Path
) -> None:
    page = tmp_path / "missing" / "backups.html"
    report = run_job(repository, _job(page), steps=["check", "report"])
    assert report.check is not None
    assert report.report is None
    [(step, error)] = report.failures
    assert step == "report"
    assert isinstance(error, OutputFailed)
    assert error.message == f"cannot write {page}: No such file or directory"
    assert error.advice == "Name a file in a writable directory."
    assert report.exit_code == OutputFailed.exit_code
    export(str(tmp_path / "m.prom"), Run("nightly", 1.0, report, error, ("check", "report")))
    shown = figures(tmp_path / "m.prom")
    assert shown["report_exit_code", "nightly", ""] == OutputFailed.exit_code
    assert ("report_last_success_timestamp_seconds", "nightly", "") not in shown


def test_a_page_that_cannot_be_replaced_leaves_nothing_beside_it(
    repository: puller.Repository, tmp_path: Path
) -> None:
    page = tmp_path / "backups.html"
    page.mkdir()
    report = run_job(repository, _job(page), steps=["report"])
    assert report.exit_code == OutputFailed.exit_code
    assert [path.name for path in tmp_path.glob("*backups*")] == ["backups.html"]


def test_the_page_of_yesterday_stays_if_the_other_repository_cannot_be_reached(
    repository: puller.Repository, tmp_path: Path
) -> None:
    def refuse() -> puller.Repository:
        raise StoreUnavailable("cannot reach the store")

    page = tmp_path / "backups.html"
    page.write_text("the page of yesterday")
    report = run_job(repository, _job(page), steps=["report"], copies=refuse)
    assert report.exit_code == StoreUnavailable.exit_code
    assert page.read_text() == "the page of yesterday"


def test_a_damaged_record_fails_the_step_after_the_page_is_written(
    repository: puller.Repository, tmp_path: Path
) -> None:
    made = make_point(repository, {"vda": b"gone"}, "web2", NOW - DAY, TAGS)
    [record] = (
        path for path in (tmp_path / "repository" / "points").rglob(f"*{made.point}*") if path.is_file()
    )
    record.write_bytes(b"damaged")
    page = tmp_path / "backups.html"
    report = run_job(repository, _job(page), steps=["report"])
    assert report.exit_code == 13
    assert report.report is None
    assert ">web1<" in page.read_text()


def test_a_job_without_a_file_for_the_page_says_so(repository: puller.Repository) -> None:
    report = run_job(repository, Job("nightly", ("web*",)), steps=["report"])
    [(_, error)] = report.failures
    assert isinstance(error, UsageError)
    assert error.advice == "Set report in the job."


def test_run_writes_the_page_by_the_configuration(
    cli: CommandLine, repository: puller.Repository, target: puller.Repository, tmp_path: Path
) -> None:
    page = tmp_path / "backups.html"
    text = f"""
[repositories.main]
url = "{tmp_path / "repository"}"
[repositories.elsewhere]
url = "{tmp_path / "elsewhere"}"
[jobs.nightly]
repository = "main"
domains = ["web*"]
then = ["copy", "report"]
copy-to = "elsewhere"
report = "{page}"
"""
    (tmp_path / "puller.toml").write_text(text)
    words = ("run", "nightly", "--config", str(tmp_path / "puller.toml"))
    assert cli(*words, "--only", "copy").code == 0
    assert cli(*words, "--only", "report").out.startswith(f"{page}: 2 machines, 0 late, ")
    assert ">web1<" in page.read_text()
    document = cli(*words, "--only", "report", "--json").document
    assert [item["points"] for item in document["report"]["repositories"]] == [2, 1]
    page.unlink()
    page.mkdir()
    failed = cli(*words, "--only", "report", "--json")
    assert failed.code == OutputFailed.exit_code
    assert failed.document["report"] is None
    assert [item["step"] for item in failed.document["failures"]] == ["report"]
