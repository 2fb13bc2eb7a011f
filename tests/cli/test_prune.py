"""``prune`` and ``delete``: which points go, what is told, and what stays readable."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import puller
from puller.repository.collecting.lease import Lease
from puller.units import CHUNK
from tests.cli.conftest import CommandLine
from tests.lab.archive import data_packs, make_point

pytestmark = pytest.mark.usefixtures("repository_in_the_environment")

NOON = datetime(2023, 11, 20, 12, tzinfo=UTC)
DAY = timedelta(days=1)
REPORT = {"kept", "removed", "held", "packs_condemned", "packs_deleted", "packs_compacted", "bytes_freed"} | {
    "waiting"
}
COUNTS = REPORT - {"kept", "removed", "held", "waiting"}


@pytest.fixture
def points(repository: puller.Repository) -> list[str]:
    """Ids of four daily points of web1, each with bytes of its own, and one of db1; oldest first."""
    made = [make_point(repository, {"vda": os.urandom(CHUNK)}, "web1", NOON + day * DAY) for day in range(4)]
    other = make_point(repository, {"vda": os.urandom(CHUNK)}, "db1", NOON + 9 * DAY)
    return [point.point for point in [*made, other]]


def _listed(cli: CommandLine) -> list[str]:
    return [point["point"] for point in cli("points", "--json").document["points"]]


@pytest.mark.parametrize(
    ("rules", "kept"),
    [
        (["--keep-last", "2"], [2, 3, 4]),
        (["--keep-hourly", "2"], [2, 3, 4]),
        (["--keep-daily", "3"], [1, 2, 3, 4]),
        (["--keep-weekly", "9"], [3, 4]),
        (["--keep-monthly", "9"], [3, 4]),
        (["--keep-yearly", "9"], [3, 4]),
        (["--keep-within", "2d"], [1, 2, 3, 4]),
        (["--keep-within", "24h", "--keep-last", "1"], [2, 3, 4]),
    ],
)
def test_each_rule_keeps_by_domain(
    cli: CommandLine, points: list[str], rules: list[str], kept: list[int]
) -> None:
    document = cli("prune", *rules, "--json").document
    assert document.keys() == REPORT
    expected = [points[place] for place in kept]
    assert sorted(document["kept"]) == sorted(expected)
    assert sorted(document["removed"]) == sorted(set(points) - set(expected))
    assert _listed(cli) == expected


def test_without_a_rule_no_point_goes_and_that_is_said(cli: CommandLine, points: list[str]) -> None:
    answer = cli("prune", "--json")
    assert answer.document["removed"] == []
    assert "no restore point is removed" in answer.err
    assert _listed(cli) == points
    assert "no restore point is removed" not in cli("prune", "--keep-last", "9").err
    assert cli("prune", "-q").err == ""


def test_a_dry_run_explains_each_point_and_touches_nothing(
    cli: CommandLine, points: list[str], folder: Path
) -> None:
    before = sorted((path, path.stat().st_mtime_ns) for path in folder.rglob("*"))
    document = cli("prune", "--keep-last", "1", "--dry-run", "--json").document
    assert sorted((path, path.stat().st_mtime_ns) for path in folder.rglob("*")) == before
    assert document.keys() == REPORT | {"decisions"}
    assert sorted(document["removed"]) == points[:3]
    assert {document[name] for name in COUNTS} == {0}
    decisions = {decision["point"]: decision for decision in document["decisions"]}
    assert decisions[points[0]] == {
        "point": points[0],
        "domain": "web1",
        "keep": False,
        "reasons": ["no rule keeps it"],
        "host": platform.node(),
    }
    assert decisions[points[3]]["reasons"] == ["newest of its domain", "last 1"]
    lines = cli("prune", "--keep-last", "1", "--dry-run").out.splitlines()
    assert [line.split()[:4] for line in lines if points[0] in line] == [
        [points[0], "web1", platform.node(), "remove"]
    ]
    assert [line.split()[:4] for line in lines if points[3] in line] == [
        [points[3], "web1", platform.node(), "keep"]
    ]


def test_space_waits_for_the_grace_time(cli: CommandLine, points: list[str], folder: Path) -> None:
    before = data_packs(folder)
    document = cli("prune", "--keep-last", "1", "--json").document
    assert (document["packs_deleted"], document["bytes_freed"]) == (0, 0)
    assert data_packs(folder) == before


def test_without_grace_space_is_freed_at_once_and_the_rest_is_sound(
    cli: CommandLine, points: list[str], folder: Path
) -> None:
    before = data_packs(folder)
    document = cli("prune", "--keep-last", "1", "--grace", "0", "--json").document
    after = data_packs(folder)
    assert len(before) - len(after) == 3
    assert document["packs_deleted"] >= 3
    assert document["bytes_freed"] >= 3 * CHUNK
    assert cli("check", "--read-data").code == 0


def test_for_a_person(cli: CommandLine, points: list[str]) -> None:
    answer = cli("prune", "--keep-last", "1", "--grace", "0h", "-v")
    assert answer.out.startswith("points: 2 kept, 3 removed\npacks: ")
    assert answer.out.rstrip().endswith("KiB freed")
    assert "repository: reclaim\n" in answer.err


def test_another_prune(cli: CommandLine, repository: puller.Repository) -> None:
    with Lease.take(repository.store, repository.keys.boxes(), "prune"):
        error = cli("prune", "--json").error
    assert (error["code"], error["name"], error["retryable"]) == (11, "Locked", True)


def test_an_empty_repository(cli: CommandLine, repository: puller.Repository) -> None:
    assert cli("prune", "--keep-last", "1", "--json").document["kept"] == []
    assert cli("prune", "--dry-run").out == "no restore points\n"


def test_delete_in_any_order_each_once(cli: CommandLine, points: list[str]) -> None:
    document = cli("delete", points[2], "db1@latest", points[0], points[2], "--json").document
    assert document == {"removed": [points[2], points[4], points[0]]}
    assert _listed(cli) == [points[1], points[3]]
    assert cli("check", "--read-data").code == 0
    assert cli("delete", points[1]).out == f"deleted {points[1]}\n"


@pytest.mark.parametrize("name", ["nonsense", "web9@latest", "2026112"])
def test_delete_nothing_if_one_is_not_found(cli: CommandLine, points: list[str], name: str) -> None:
    assert cli("delete", points[0], name, "--json").error["code"] == 16
    assert _listed(cli) == points


def test_delete_a_damaged_point(cli: CommandLine, points: list[str], folder: Path) -> None:
    (record,) = folder.rglob(f"points/*/{points[1]}")
    record.write_bytes(b"torn")
    assert cli("points").code == 13
    assert cli("prune", "--keep-last", "1", "--json").error["code"] == 13
    assert cli("delete", points[1]).code == 0
    assert _listed(cli) == [points[0], *points[2:]]
