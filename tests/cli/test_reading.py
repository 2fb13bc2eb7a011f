"""``points``, ``show`` and ``stats``: what is in a repository."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import puller
from puller.cli.times import rfc3339
from puller.units import CHUNK, MIB
from tests.cli.conftest import CommandLine
from tests.lab.archive import DOMAIN_XML, make_point

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)

RECORD = {
    "point",
    "domain",
    "uuid",
    "time",
    "mode",
    "kind",
    "parent",
    "checkpoint",
    "consistency",
    "freeze_seconds",
    "scratch_peak",
    "notes",
    "host",
    "tags",
    "disks",
    "seconds",
}
DISK = {
    "disk",
    "kind",
    "size",
    "parent",
    "format",
    "dirty_bytes",
    "read_bytes",
    "zero_bytes",
    "new_bytes",
    "reason",
    "stored_bytes",
}


@pytest.fixture(autouse=True)
def the_repository_is_in_the_environment(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PULLER_REPOSITORY", str(folder))


@pytest.fixture
def points(repository: puller.Repository) -> list[puller.Point]:
    """Three points, two of web1 and between them one of db1, made in another order."""
    content = os.urandom(CHUNK) + bytes(CHUNK)
    later = make_point(repository, {"vda": content}, "web1", NOON + 2 * HOUR)
    first = make_point(repository, {"vda": content, "vdb": bytes(MIB)}, "web1", NOON, {"why": "upgrade"})
    other = make_point(repository, {"vda": b"x" * 512}, "db1", NOON + HOUR)
    return [first, other, later]


def test_points_oldest_first(cli: CommandLine, points: list[puller.Point]) -> None:
    listed = cli("points", "--json").document["points"]
    assert [record["point"] for record in listed] == [point.point for point in points]


@pytest.mark.parametrize("by", ["name", "uuid"])
def test_points_of_one_domain(cli: CommandLine, points: list[puller.Point], by: str) -> None:
    domain = points[0].domain if by == "name" else points[0].uuid
    listed = cli("points", domain, "--json").document["points"]
    assert [record["point"] for record in listed] == [points[0].point, points[2].point]
    assert cli("points", "web9", "--json").document == {"points": []}


def test_point_record(cli: CommandLine, points: list[puller.Point]) -> None:
    record = cli("points", "--json").document["points"][0]
    assert record.keys() == RECORD
    disk = record.pop("disks")[0]
    assert record == {
        "point": points[0].point,
        "domain": "web1",
        "uuid": points[0].uuid,
        "time": "2026-11-23T12:00:00Z",
        "mode": "pull",
        "kind": "full",
        "parent": None,
        "checkpoint": None,
        "consistency": "crash",
        "freeze_seconds": None,
        "scratch_peak": None,
        "notes": [],
        "host": platform.node(),
        "tags": {"why": "upgrade"},
        "seconds": 1.5,
    }
    assert disk.keys() == DISK
    assert (disk["disk"], disk["kind"], disk["size"]) == ("vda", "full", 2 * CHUNK)
    assert disk["read_bytes"] == disk["dirty_bytes"] == 2 * CHUNK
    assert all(isinstance(disk[name], int) for name in DISK if name.endswith("_bytes"))


def test_points_as_a_table(cli: CommandLine, points: list[puller.Point]) -> None:
    head, *rows = cli("points").out.splitlines()
    assert head.split() == ["POINT", "DOMAIN", "TIME", "AGE", "KIND", "DISKS", "SIZE", "READ", "STORED"]
    assert [row.split()[:2] for row in rows] == [[point.point, point.domain] for point in points]
    assert "vda,vdb" in rows[0]
    assert "1.1 MiB" in rows[0]


def test_show_in_full(cli: CommandLine, points: list[puller.Point]) -> None:
    shown = cli("show", points[0].point, "--json").document
    assert shown.keys() == RECORD | {"attachments", "checkpoint_xml"}
    assert shown["attachments"] == [{"name": "domain.xml", "size": len(DOMAIN_XML)}]
    assert shown["checkpoint_xml"] == "<domaincheckpoint/>"
    text = cli("show", points[0].point).out
    for word in (points[0].point, points[0].uuid, "2026-11-23T12:00:00Z", "why=upgrade", "vdb", "domain.xml"):
        assert word in text


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("web1@latest", 2),
        ("db1@latest", 1),
        ("web1@2026-11-23T12:00:00Z", 0),
        ("web1@2026-11-23T13:59:59Z", 0),
        ("web1@2026-11-23T15:00:00+01:00", 2),
        ("20261123T13", 1),
    ],
)
def test_ways_to_name_a_point(cli: CommandLine, points: list[puller.Point], name: str, expected: int) -> None:
    assert cli("show", name, "--json").document["point"] == points[expected].point


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("20261123", "AmbiguousPoint"),
        ("nonsense", "NoSuchPoint"),
        ("", "NoSuchPoint"),
        ("web9@latest", "NoSuchPoint"),
        ("web1@2026-11-23T11:59:59Z", "NoSuchPoint"),
        ("web1@yesterday", "NoSuchPoint"),
    ],
)
@pytest.mark.parametrize("command", [["show"], ["restore", "--output", "/nonexistent/x"], ["check"]])
def test_names_that_fit_no_point_or_several(
    cli: CommandLine, points: list[puller.Point], command: list[str], name: str, error: str
) -> None:
    answer = cli(*command, name, "--json")
    assert (answer.error["code"], answer.error["name"]) == (16, error)


def test_stats(cli: CommandLine, points: list[puller.Point], folder: Path) -> None:
    files = [path for path in folder.rglob("*") if path.is_file()]
    document = cli("stats", "--json").document
    costs = document.pop("costs")
    assert document == {
        "domains": 2,
        "points": 3,
        "logical_bytes": 2 * 2 * CHUNK + MIB + 512,
        "stored_bytes": sum(path.stat().st_size for path in files),
        "packs": sum(path.relative_to(folder).parts[0] in ("packs", "maps") for path in files),
        "objects": len(files),
    }
    assert sorted((cost["domain"], cost["points"]) for cost in costs) == [("db1", 1), ("web1", 2)]
    for cost in costs:
        mine = [point for point in points if point.uuid == cost["uuid"]]
        disks = [disk for point in mine for disk in point.disks]
        assert cost["added_bytes"] == sum(disk.stored_bytes for disk in disks)
        assert cost["logical_bytes"] == sum(disk.size for disk in disks)
        assert (cost["oldest"], cost["newest"]) == (rfc3339(mine[0].time), rfc3339(mine[-1].time))
    assert costs[0]["added_bytes"] >= costs[1]["added_bytes"]
    shown = cli("stats").out
    assert "points   3\n" in shown
    assert "\nweb1 " in shown


def test_nothing_is_stored_yet(cli: CommandLine, repository: puller.Repository) -> None:
    assert cli("points", "--json").document == {"points": []}
    assert cli("points").out == "no restore points\n"
    assert cli("stats", "--json").document["points"] == 0


def test_a_damaged_point(cli: CommandLine, points: list[puller.Point], folder: Path) -> None:
    path = folder / "points" / points[1].uuid / points[1].point
    path.write_bytes(path.read_bytes()[:-1])
    for command in (["points"], ["stats"], ["show", points[1].point]):
        error = cli(*command, "--json").error
        assert error["code"] == 13
        assert points[1].point in error["message"]
    assert cli("show", points[0].point).code == 0
