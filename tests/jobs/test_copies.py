"""The step "copy" of a job: which points it copies, when it opens the target, and its exit code."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import puller
from puller.cli.output.metrics import Run, export
from puller.configuration.job import Job
from puller.errors import StoreUnavailable
from puller.jobs.job import run_job
from tests.cli.conftest import CommandLine
from tests.cli.test_metrics import figures
from tests.lab.archive import make_point

NOW = datetime(2026, 11, 28, tzinfo=UTC)
DAY = timedelta(days=1)
JOB = Job("nightly", ("web*",), exclude=("web9",), then=("copy",), copy_to="elsewhere")


@pytest.fixture
def repository(tmp_path: Path) -> puller.Repository:
    return puller.create_repository(str(tmp_path / "repository"), password=None)


@pytest.fixture
def target(tmp_path: Path) -> puller.Repository:
    return puller.create_repository(str(tmp_path / "elsewhere"), password=None)


@pytest.fixture
def points(repository: puller.Repository) -> list[str]:
    """Ids of the job's own points; there are others, of other domains and by hand."""
    tags = {"job": "nightly"}
    for domain in ("web9", "mail"):
        make_point(repository, {"vda": b"x"}, domain, NOW, tags)
    make_point(repository, {"vda": b"x"}, "web1", NOW)
    return [
        make_point(repository, {"vda": domain.encode()}, domain, NOW + number * DAY, tags).point
        for number, domain in enumerate(("web1", "web2", "web1"))
    ]


def _ids(repository: puller.Repository) -> list[str]:
    return [point.point for point in puller.list_points(repository)]


def test_a_job_copies_its_own_points_that_the_target_lacks(
    repository: puller.Repository, target: puller.Repository, points: list[str], tmp_path: Path
) -> None:
    report = run_job(repository, JOB, steps=["copy"], copies=lambda: target)
    assert _ids(target) == points
    assert report.copy is not None
    assert report.exit_code == 0
    export(str(tmp_path / "m.prom"), Run("nightly", 1.0, report, None, ("copy",)))
    assert figures(tmp_path / "m.prom")["copy_exit_code", "nightly", ""] == 0
    again = run_job(repository, JOB, steps=["copy"], copies=lambda: target)
    assert again.copy is not None
    assert again.copy.copied == ()


def test_damage_is_the_exit_code_of_the_job(
    repository: puller.Repository, target: puller.Repository, points: list[str], tmp_path: Path
) -> None:
    packs = [path for path in (tmp_path / "repository" / "packs").rglob("*") if path.is_file()]
    for pack in packs:
        pack.unlink()
    report = run_job(repository, JOB, steps=["copy"], copies=lambda: target)
    assert report.exit_code == 13
    assert _ids(target) == []


def test_a_target_that_is_away_fails_the_step_alone(repository: puller.Repository, points: list[str]) -> None:
    def refuse() -> puller.Repository:
        raise StoreUnavailable("cannot reach the store")

    report = run_job(repository, JOB, steps=["copy", "check"], copies=refuse)
    assert [step for step, _ in report.failures] == ["copy"]
    assert report.check is not None
    assert report.exit_code == StoreUnavailable.exit_code


def test_run_opens_the_target_by_the_configuration(
    cli: CommandLine,
    repository: puller.Repository,
    target: puller.Repository,
    points: list[str],
    tmp_path: Path,
) -> None:
    text = f"""
[repositories.main]
url = "{tmp_path / "repository"}"
[repositories.elsewhere]
url = "{tmp_path / "elsewhere"}"
[jobs.nightly]
repository = "main"
domains = ["web*"]
exclude = ["web9"]
then = ["copy"]
copy-to = "elsewhere"
"""
    (tmp_path / "puller.toml").write_text(text)
    words = ("run", "nightly", "--only", "copy", "--config", str(tmp_path / "puller.toml"))
    document = cli(*words, "--json").document
    assert [item["point"] for item in document["copy"]["copied"]] == points
    assert cli(*words).out.startswith("0 points copied\n")
