"""The file for Prometheus: what a run changes in it, and what it lets stand."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

import puller
from puller.cli.output.metrics import Run, export
from puller.errors import (
    Interrupted,
    JobLeftOpen,
    Locked,
    NoRepository,
    NoSuchDomain,
    PullerError,
    ScratchFull,
)
from puller.jobs.batch import Taken
from puller.jobs.report import JobReport
from puller.units import CHUNK, MIB
from puller.upkeep.checking.check import CheckError, CheckReport
from tests.cli.conftest import CommandLine
from tests.lab.archive import make_point
from tests.lab.fixtures import MachineFactory
from tests.lab.machine import DiskSpec, Machine


def figures(path: Path) -> dict[tuple[str, str, str], float]:
    """Values by name, job and domain (of errors: domain and class)."""
    return {
        (
            sample.name.removeprefix("puller_"),
            sample.labels["job"],
            " ".join(sample.labels[label] for label in ("domain", "error") if label in sample.labels),
        ): sample.value
        for family in text_string_to_metric_families(path.read_text())
        for sample in family.samples
    }


@pytest.fixture
def points(repository: puller.Repository) -> dict[str, puller.Point]:
    return {name: make_point(repository, {"vda": name.encode()}, domain=name) for name in ("web1", "db1")}


def ran(job: str, points: list[puller.Point], failed: dict[str, PullerError]) -> Run:
    report = JobReport(job, Taken(points, list(failed.items())))
    return Run(job, 12.5, report, next(iter(failed.values()), None))


def test_each_job_keeps_its_own_figures(points: dict[str, puller.Point], tmp_path: Path) -> None:
    path = tmp_path / "puller.prom"
    export(str(path), ran("nightly", [points["web1"], points["db1"]], {}))
    export(str(path), ran("hourly", [points["db1"]], {}))
    found = figures(path)
    for job, domain in (("nightly", "web1"), ("nightly", "db1"), ("hourly", "db1")):
        assert found["backup_last_success_timestamp_seconds", job, domain] == points[domain].time.timestamp()
        assert found["backup_duration_seconds", job, domain] == 1.5
    assert (found["job_exit_code", "nightly", ""], found["job_duration_seconds", "nightly", ""]) == (0, 12.5)


def test_a_failure_does_not_touch_the_last_success(points: dict[str, puller.Point], tmp_path: Path) -> None:
    path = tmp_path / "puller.prom"
    export(str(path), ran("nightly", [points["web1"], points["db1"]], {}))
    for _ in range(2):
        export(str(path), ran("nightly", [points["db1"]], {"web1": ScratchFull("full")}))
    found = figures(path)
    assert found["backup_last_success_timestamp_seconds", "nightly", "web1"] > 0
    assert found["backup_success", "nightly", "web1"] == 0
    assert found["backup_success", "nightly", "db1"] == 1
    assert found["errors_total", "nightly", "web1 ScratchFull"] == 2


def test_domains_that_a_job_has_no_more_are_dropped(points: dict[str, puller.Point], tmp_path: Path) -> None:
    path = tmp_path / "puller.prom"
    export(str(path), ran("nightly", [points["web1"], points["db1"]], {}))
    export(str(path), ran("nightly", [points["db1"]], {}))
    assert not any("web1" in key[2] for key in figures(path))
    # A run that did not come to know its domains drops none, but backed up none either.
    export(str(path), Run("nightly", 1.0, None, NoSuchDomain("none")))
    found = figures(path)
    assert found["backup_success", "nightly", "db1"] == 0
    assert found["backup_last_success_timestamp_seconds", "nightly", "db1"] > 0
    assert found["errors_total", "nightly", " NoSuchDomain"] == 1
    assert found["job_exit_code", "nightly", ""] == 16


def test_an_interrupted_run_drops_no_domain(points: dict[str, puller.Point], tmp_path: Path) -> None:
    path = tmp_path / "puller.prom"
    export(str(path), ran("nightly", [points["web1"], points["db1"]], {}))
    stopped = Interrupted("stopped by SIGTERM")
    report = JobReport("nightly", Taken([points["web1"]], [], stopped), interruption=stopped)
    export(str(path), Run("nightly", 1.0, report, stopped))
    found = figures(path)
    assert found["backup_stored_bytes", "nightly", "db1"] > 0
    assert (found["backup_success", "nightly", "web1"], found["backup_success", "nightly", "db1"]) == (1, 0)


def test_a_job_that_was_left_open_is_told_and_is_no_failed_backup(
    points: dict[str, puller.Point], tmp_path: Path
) -> None:
    path = tmp_path / "puller.prom"
    stuck = JobLeftOpen("it cannot be ended")
    report = JobReport("nightly", Taken([points["web1"], points["db1"]], left=[("web1", stuck)]))
    export(str(path), Run("nightly", 1.0, report, stuck))
    found = figures(path)
    assert found["backup_success", "nightly", "web1"] == 1
    assert found["backup_job_left_open", "nightly", "web1"] == 1
    assert found["backup_job_left_open", "nightly", "db1"] == 0
    assert found["job_exit_code", "nightly", ""] == 17
    assert found["errors_total", "nightly", "web1 JobLeftOpen"] == 1


def test_one_step_alone_says_nothing_of_the_backups(points: dict[str, puller.Point], tmp_path: Path) -> None:
    path = tmp_path / "puller.prom"
    export(str(path), ran("nightly", [points["web1"]], {"db1": ScratchFull("full")}))
    before = figures(path)
    export(str(path), Run("nightly", 1.0, JobReport("nightly"), None, ("prune",)))
    export(str(path), Run("nightly", 1.0, None, NoRepository("none"), ("check",)))
    found = figures(path)
    assert {key: found[key] for key in before} == before
    assert found["prune_exit_code", "nightly", ""] == 0
    assert found["check_exit_code", "nightly", ""] == 10


def test_a_step_after_the_backups_has_its_exit_code_too(tmp_path: Path) -> None:
    path = tmp_path / "puller.prom"
    steps = ("backup", "prune", "check")
    found = CheckReport(1, 1, 0, (CheckError("torn"),))
    report = JobReport("nightly", check=found, failures=[("prune", Locked("another"))])
    export(str(path), Run("nightly", 1.0, report, Locked("another"), steps))
    codes = [figures(path)[f"{step}_exit_code", "nightly", ""] for step in ("job", "prune", "check")]
    assert codes == [11, 11, 13]
    # A run that does not come so far says nothing of it.
    export(str(path), Run("nightly", 1.0, None, NoRepository("none"), steps))
    codes = [figures(path)[f"{step}_exit_code", "nightly", ""] for step in ("job", "prune", "check")]
    assert codes == [10, 11, 13]


def test_what_a_check_has_left(tmp_path: Path) -> None:
    path = tmp_path / "puller.prom"
    oldest = datetime(2026, 11, 1, tzinfo=UTC)

    def checked(report: CheckReport | None) -> dict[str, float]:
        export(str(path), Run("nightly", 1.0, JobReport("nightly", check=report), None, ("check",)))
        found = figures(path)
        names = ("check_packs_left", "check_oldest_verified_timestamp_seconds")
        return {name: found[name, "nightly", ""] for name in names if (name, "nightly", "") in found}

    known = {"check_packs_left": 3, "check_oldest_verified_timestamp_seconds": oldest.timestamp()}
    assert checked(CheckReport(1, 9, 0, (), 6, 3, oldest)) == known
    assert checked(None) == known
    assert checked(CheckReport(2, 10, 0, (), 6, 4, None)) == {"check_packs_left": 4}


def test_a_run_that_is_refused_leaves_the_figures_to_the_other(
    points: dict[str, puller.Point], tmp_path: Path
) -> None:
    path = tmp_path / "puller.prom"
    export(str(path), ran("nightly", [points["web1"]], {}))
    before = figures(path)
    export(str(path), Run("nightly", 1.0, None, Locked("the backup of job nightly is being run")))
    found = figures(path)
    assert found.pop(("errors_total", "nightly", " Locked")) == 1
    assert found == before


def test_what_is_new_in_the_last_chunk_is_not_saved_by_deduplication(
    repository: puller.Repository, tmp_path: Path
) -> None:
    """A chunk that ends with the disk counts as a whole one where it is new."""
    path = tmp_path / "puller.prom"
    (disk,) = (point := make_point(repository, {"vda": b"x" * 512})).disks
    torn = msgspec.structs.replace(disk, read_bytes=512, new_bytes=CHUNK)
    export(str(path), ran("nightly", [msgspec.structs.replace(point, disks=(torn,))], {}))
    assert figures(path)["backup_deduplicated_bytes", "nightly", "web1"] == 0


def test_the_scratch_that_was_used(points: dict[str, puller.Point], tmp_path: Path) -> None:
    path = tmp_path / "puller.prom"
    used = msgspec.structs.replace(points["web1"], scratch_peak=5 * MIB)
    export(str(path), ran("nightly", [used, points["db1"]], {}))
    assert figures(path)["backup_scratch_peak_bytes", "nightly", "web1"] == 5 * MIB
    assert ("backup_scratch_peak_bytes", "nightly", "db1") not in figures(path)


def test_how_long_the_guest_stood_still(points: dict[str, puller.Point], tmp_path: Path) -> None:
    path = tmp_path / "puller.prom"
    quiesced = msgspec.structs.replace(points["web1"], freeze_seconds=0.25)
    export(str(path), ran("nightly", [quiesced, points["db1"]], {}))
    assert figures(path)["backup_freeze_seconds", "nightly", "web1"] == 0.25
    assert ("backup_freeze_seconds", "nightly", "db1") not in figures(path)
    # It is the newest point's: a later one may have been taken without a freeze.
    export(str(path), ran("nightly", [points["web1"], points["db1"]], {}))
    assert ("backup_freeze_seconds", "nightly", "web1") not in figures(path)


def test_others_can_read_it_and_it_is_never_half_written(
    points: dict[str, puller.Point], tmp_path: Path
) -> None:
    path = tmp_path / "puller.prom"
    jobs = [f"job{number}" for number in range(6)]
    threads = [
        threading.Thread(target=export, args=(str(path), ran(job, [points["web1"]], {}))) for job in jobs
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {job for _, job, _ in figures(path)} == set(jobs)
    assert path.stat().st_mode & 0o777 == 0o644
    assert [child.name for child in tmp_path.iterdir() if "prom" in child.name] == ["puller.prom"]


@pytest.mark.parametrize("content", [None, "no metrics {"])
def test_a_file_that_cannot_be_kept(
    points: dict[str, puller.Point], tmp_path: Path, content: str | None
) -> None:
    path = tmp_path / "puller.prom" if content else tmp_path / "nothing" / "puller.prom"
    if content:
        path.write_text(content)
    with pytest.raises(PullerError, match="metrics file"):
        export(str(path), ran("nightly", [points["web1"]], {}))


@pytest.fixture
def machine(machine_factory: MachineFactory) -> Iterator[Machine]:
    made = machine_factory(DiskSpec("vda", 4 * MIB))
    made.write("vda", 7, 0, MIB)
    yield made


def test_a_real_run(
    cli: CommandLine,
    machine: Machine,
    libvirt_uri: str,
    repository: puller.Repository,
    folder: Path,
    tmp_path: Path,
) -> None:
    path = tmp_path / "puller.prom"
    (tmp_path / "puller.toml").write_text(
        f'[defaults]\nrepository = "{folder}"\nconnect = "{libvirt_uri}"\nmetrics-file = "{path}"\n'
        f'[jobs.nightly]\ndomains = ["{machine.name}", "gone"]\n'
        'then = ["prune", "check"]\nkeep = { last = 1 }\n'
    )
    words = ("--config", str(tmp_path / "puller.toml"), "--json")
    (point,) = cli("run", "nightly", *words).document["points"]
    found = figures(path)
    (disk,) = point["disks"]
    for name in ("dirty_bytes", "read_bytes", "stored_bytes"):
        assert found[f"backup_{name}", "nightly", machine.name] == disk[name] > 0
    assert (
        found["backup_deduplicated_bytes", "nightly", machine.name] == disk["read_bytes"] - disk["new_bytes"]
    )
    assert found["errors_total", "nightly", "gone NoSuchDomain"] == 1
    assert found["check_errors", "nightly", ""] == 0
    assert found["prune_freed_bytes", "nightly", ""] == 0
    assert found["job_exit_code", "nightly", ""] == 3
    # An option wins over the file.
    other = tmp_path / "other.prom"
    cli("run", "nightly", "--metrics-file", str(other), "--only", "check", *words)
    assert ("check_errors", "nightly", "") in figures(other)
    # A run that cannot even open the repository is counted.
    assert cli("run", "nightly", "-r", str(tmp_path / "nothing"), *words).code == 10
    assert figures(path)["errors_total", "nightly", " NoRepository"] == 1
    assert figures(path)["backup_success", "nightly", machine.name] == 0


def test_figures_that_cannot_be_kept_hide_no_failure(cli: CommandLine, tmp_path: Path) -> None:
    path = tmp_path / "puller.toml"
    path.write_text(f'[jobs.nightly]\nrepository = "{tmp_path}/nothing"\ndomains = ["x"]')
    words = ("run", "nightly", "--config", str(path), "--metrics-file", "/nonexistent/puller.prom", "--json")
    answer = cli(*words)
    assert answer.error["code"] == 10
    assert "cannot write the metrics file /nonexistent/puller.prom: No such file or directory\n" in answer.err
