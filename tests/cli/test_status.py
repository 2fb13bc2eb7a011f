"""``puller status``: which machines are late, and what was proven."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import puller
from puller.repository.records.proofs import Proof
from tests.cli.conftest import CommandLine
from tests.lab.archive import make_point

pytestmark = pytest.mark.usefixtures("repository_in_the_environment")

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
NOW = datetime.now(UTC).replace(microsecond=0)


def taken(
    repository: puller.Repository,
    domain: str,
    age: timedelta,
    tags: Mapping[str, str] | None = None,
    host: str = "kvm1",
) -> puller.Point:
    return make_point(repository, {"vda": domain.encode()}, domain, NOW - age, tags, host)


@pytest.fixture
def fleet(repository: puller.Repository) -> dict[str, puller.Point]:
    """Of two nightly machines, one is late; a third has one point, by hand."""
    nightly = {"job": "nightly", "interval": "1d"}
    taken(repository, "web1", 2 * DAY, nightly)
    made = {
        "db1": taken(repository, "db1", 2 * DAY, nightly, "kvm2"),
        "old": taken(repository, "old", 90 * DAY),
        "web1": taken(repository, "web1", HOUR, nightly),
    }
    proof = Proof(NOW - HOUR, "proven", "db1", "kvm2", "agent", 20.0)
    repository.proofs.put((made["db1"].uuid, made["db1"].point), proof)
    return made


def test_the_late_ones_come_first_and_give_exit_code_1(
    cli: CommandLine, fleet: dict[str, puller.Point], folder: Path
) -> None:
    answer = cli("status", "--json")
    assert answer.code == 1
    assert answer.document["error"]["message"] == "1 of 3 machines is late: db1"
    first, second, third = answer.document["domains"]
    assert first == {
        "domain": "db1",
        "uuid": fleet["db1"].uuid,
        "host": "kvm2",
        "repository": str(folder),
        "job": "nightly",
        "last_point": fleet["db1"].point,
        "last_time": (NOW - 2 * DAY).isoformat().replace("+00:00", "Z"),
        "interval": 86400,
        "interval_declared": True,
        "late": True,
        "last_proof": (NOW - HOUR).isoformat().replace("+00:00", "Z"),
        "verdict": "proven",
        "proven_point": fleet["db1"].point,
        "proven_time": (NOW - 2 * DAY).isoformat().replace("+00:00", "Z"),
    }
    assert [(one["domain"], one["late"], one["interval"]) for one in (second, third)] == [
        ("old", False, None),
        ("web1", False, 86400),
    ]


def test_the_table(cli: CommandLine, fleet: dict[str, puller.Point]) -> None:
    lines = [" ".join(line.split()) for line in cli("status").out.splitlines()]
    assert lines == [
        "DOMAIN HOST JOB STATE LAST POINT EVERY LAST PROOF VERDICT PROVEN STATE",
        "db1 kvm2 nightly LATE 2 d ago 1 d 1 h ago proven 2 d old",
        "old kvm1 - ok 90 d ago unknown never - none",
        "web1 kvm1 nightly ok 1 h ago 1 d never - none",
    ]


@pytest.mark.parametrize(
    ("options", "domains"),
    [
        (["--host", "kvm2"], ["db1"]),
        (["--host", "kvm*", "--exclude", "db*"], ["old", "web1"]),
        (["--exclude", "web1", "--exclude", "db1"], ["old"]),
    ],
)
def test_a_selection(
    cli: CommandLine, fleet: dict[str, puller.Point], options: list[str], domains: list[str]
) -> None:
    answer = cli("status", "--json", *options)
    assert [one["domain"] for one in answer.document["domains"]] == domains
    assert answer.code == (1 if "db1" in domains else 0)


def test_a_machine_that_has_moved_belongs_to_its_newest_host(
    cli: CommandLine, repository: puller.Repository
) -> None:
    for age in range(9, 4, -1):
        taken(repository, "web1", age * DAY, host="kvm1")
    for age in range(4, 0, -1):
        taken(repository, "web1", age * DAY, host="kvm2")
    (machine,) = cli("status", "--json").document["domains"]
    assert (machine["host"], machine["late"], machine["interval"]) == ("kvm2", False, 86400)
    assert cli("status", "--json", "--host", "kvm1").document["domains"] == []


def test_machines_of_two_repositories_are_told_apart(
    cli: CommandLine, repository: puller.Repository, fleet: dict[str, puller.Point], tmp_path: Path
) -> None:
    other = puller.create_repository(str(tmp_path / "other"))
    other.points.commit(fleet["db1"])
    answer = cli("status", "--also", str(tmp_path / "other"))
    lines = [line for line in answer.out.splitlines() if line.startswith("db1")]
    assert sorted(line.split()[-1] for line in lines) == sorted([repository.store.url, other.store.url])
    assert "1 of 3 machines is late: db1" in answer.err
    assert "REPOSITORY" not in cli("status").out


def test_an_empty_repository(cli: CommandLine, repository: puller.Repository) -> None:
    answer = cli("status")
    assert (answer.code, answer.out) == (0, "no restore points\n")


def test_a_damaged_record_is_told_and_the_others_are_shown(
    cli: CommandLine, fleet: dict[str, puller.Point], folder: Path
) -> None:
    path = folder / "points" / fleet["old"].uuid / fleet["old"].point
    path.chmod(0o600)
    path.write_bytes(path.read_bytes()[:-1])
    answer = cli("status", "--json")
    assert answer.code == 13
    assert [one["domain"] for one in answer.document["domains"]] == ["db1", "web1"]


def test_a_failed_drill_is_no_proof(
    cli: CommandLine, repository: puller.Repository, fleet: dict[str, puller.Point]
) -> None:
    name = (fleet["old"].uuid, fleet["old"].point)
    repository.proofs.put(name, Proof(NOW, "failed", "old", "kvm1", "agent", None, "no answer"))
    machine = cli("status", "--json").document["domains"][1]
    assert (machine["domain"], machine["verdict"], machine["proven_point"]) == ("old", "failed", None)
