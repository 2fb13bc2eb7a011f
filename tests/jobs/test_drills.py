"""The step "prove" of a job: whose machines, how many, and what becomes of its exit code and its figures."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import puller
from puller.cli.output.metrics import Run, export
from puller.cli.output.results import proofs
from puller.cli.signals import Stopped
from puller.configuration.drills import DrillSettings
from puller.configuration.job import Job
from puller.errors import CannotDrill, Interrupted
from puller.jobs.job import run_job
from puller.jobs.report import JobReport
from puller.recovery.proving.prove import Drills, HeldDrill
from puller.repository.records.proofs import Proof
from tests.cli.test_metrics import figures
from tests.lab.archive import make_point

NOW = datetime(2026, 11, 28, tzinfo=UTC)
DAY = timedelta(days=1)
JOB = Job("nightly", ("web*", "db1"), exclude=("web9",), then=("prove",), prove=2)


@pytest.fixture
def repository(tmp_path: Path) -> puller.Repository:
    return puller.create_repository(str(tmp_path / "repository"), password=None)


def a_drill(point: puller.Point, verdict: Any = "proven") -> HeldDrill:
    seconds = 12.5 if verdict == "proven" else None
    return HeldDrill(point, Proof(NOW, verdict, point.domain, "kvm1", "agent", seconds, "", "the end\n"))


def make_points(repository: puller.Repository) -> dict[str, puller.Point]:
    tags = {"job": "nightly"}
    for domain in ("web1", "web2", "web9", "db1", "mail"):
        make_point(repository, {"vda": domain.encode()}, domain=domain, moment=NOW - DAY, tags=tags)
    made = {
        domain: make_point(repository, {"vda": b"new"}, domain=domain, moment=NOW, tags=tags)
        for domain in ("web1", "web2", "web9", "db1", "mail")
    }
    make_point(repository, {"vda": b"by hand"}, domain="db1", moment=NOW + DAY)
    return made


@pytest.fixture
def proven(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], Any]]:
    """What would have been proven: the points, and everything else that was asked."""
    asked: list[tuple[list[str], Any]] = []

    def prove(repository: puller.Repository, points: Sequence[puller.Point], **options: Any) -> Drills:
        asked.append(([point.point for point in points], options))
        return Drills([a_drill(point) for point in points[: options["count"]]])

    monkeypatch.setattr("puller.api.prove", prove)
    return asked


def test_a_job_proves_the_newest_points_of_its_own_machines(
    repository: puller.Repository, proven: list[tuple[list[str], Any]]
) -> None:
    made = make_points(repository)
    settings = DrillSettings(timeout=timedelta(minutes=9))
    report = run_job(repository, JOB, steps=["prove"], drills=settings, connect="test:///default")
    ((points, options),) = proven
    assert set(points) == {made[name].point for name in ("web1", "web2", "db1")}, "those of this job alone"
    assert options["count"] == 2
    assert options["settings"] == settings
    assert options["connect"] == "test:///default"
    assert report.prove is not None
    assert len(report.prove.held) == 2
    assert report.exit_code == 0


def test_a_job_without_points_proves_nothing_and_says_so(
    repository: puller.Repository, proven: list[tuple[list[str], Any]]
) -> None:
    told: list[puller.Event] = []
    report = run_job(repository, JOB, steps=["prove"], observer=told.append)
    assert proven == []
    assert report.prove is None
    assert next(event.text for event in told if isinstance(event, puller.Notice)).endswith(
        "nothing was proven"
    )


def test_the_steps_come_in_their_order() -> None:
    assert Job("a", ("x",), then=("prove", "check", "prune")).steps == ("backup", "prune", "check", "prove")


def test_exit_codes(repository: puller.Repository) -> None:
    point = make_point(repository, {"vda": b"x"})
    error = CannotDrill("cannot drill web2 on this host: no KVM")
    cases = {
        0: Drills([a_drill(point), a_drill(point, "partial")]),
        1: Drills([a_drill(point, "failed")]),
    }
    for code, drills in cases.items():
        assert JobReport("nightly", prove=drills).exit_code == code
        failure = proofs.failure(drills)
        assert (0 if failure is None else failure.exit_code) == code
    some = proofs.failure(Drills([a_drill(point), a_drill(point, "failed")], [("web2", error)]))
    assert some is not None
    assert (some.exit_code, some.message) == (3, "2 of 3 drills failed: web1, web2")
    assert proofs.failure(Drills([], [("web2", error)])) is error
    none = proofs.failure(Drills([], [("web2", error), ("web3", error)]))
    assert isinstance(none, CannotDrill)
    assert none.message == "2 of 2 drills failed: web2, web3; cannot drill web2 on this host: no KVM"
    stopped = proofs.failure(Drills([a_drill(point)], [], Stopped(2)))
    assert isinstance(stopped, Interrupted)
    assert JobReport("nightly", prove=Drills([], [("web2", error)])).exit_code == 1


def test_what_people_read(repository: puller.Repository) -> None:
    point = make_point(repository, {"vda": b"x"})
    failed = HeldDrill(
        point, Proof(NOW, "failed", "web1", "kvm1", "agent", None, "no evidence", "a\n\x1b[1mb\n")
    )
    text = proofs.text(Drills([a_drill(point), failed]))
    assert text.splitlines() == [
        f"web1: {point.point}: proven: agent after 12 s",
        f"web1: {point.point}: failed: no evidence",
        "  its console ends with: \\x1b[1mb",
    ]
    assert proofs.text(Drills()) == "no drills"


def test_figures_of_drills(repository: puller.Repository, tmp_path: Path) -> None:
    path = str(tmp_path / "puller.prom")
    web, db = (make_point(repository, {"vda": b"x"}, domain=domain) for domain in ("web1", "db1"))

    def ran(*drills: HeldDrill) -> dict[tuple[str, str, str], float]:
        report = JobReport("nightly", prove=Drills(list(drills)))
        export(path, Run("nightly", 1.0, report, None, ("prove",)))
        return figures(Path(path))

    found = ran(a_drill(web), a_drill(db, "failed"))
    assert found["prove_success", "nightly", "web1"] == 1
    assert found["prove_start_seconds", "nightly", "web1"] == 12.5
    assert found["prove_timestamp_seconds", "nightly", "db1"] == NOW.timestamp()
    assert found["prove_success", "nightly", "db1"] == 0
    assert ("prove_start_seconds", "nightly", "db1") not in found
    again = ran(a_drill(web, "failed"))
    assert again["prove_success", "nightly", "web1"] == 0
    assert again["prove_start_seconds", "nightly", "web1"] == 12.5, "of the last one that proved it"
    assert again["prove_success", "nightly", "db1"] == 0, "it had no turn"


def test_a_backup_does_not_drop_the_figures_of_drills(repository: puller.Repository, tmp_path: Path) -> None:
    path, point = tmp_path / "puller.prom", make_point(repository, {"vda": b"x"})
    export(
        str(path), Run("nightly", 1.0, JobReport("nightly", prove=Drills([a_drill(point)])), None, ("prove",))
    )
    report = JobReport("nightly")
    report.taken.points.append(point)
    export(str(path), Run("nightly", 1.0, report, None))
    found = figures(path)
    assert found["prove_success", "nightly", point.domain] == 1
    assert found["backup_success", "nightly", point.domain] == 1
