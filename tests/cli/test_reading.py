"""``points``, ``show`` and ``stats``: what is in a repository."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

import puller
from puller.cli.output.times import rfc3339
from puller.store.directory.folder import FolderStore
from puller.units import CHUNK, MIB
from tests.cli.conftest import CommandLine
from tests.lab.archive import DOMAIN_XML, make_point

pytestmark = pytest.mark.usefixtures("repository_in_the_environment")

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)

RECORD = {
    "previous",
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
    "keep",
    "proof",
    "guest_commands",
    "locked_until",
    "copied_from",
}
DISK = {
    "disk",
    "encryption",
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
        "previous": None,
        "checkpoint": None,
        "consistency": "crash",
        "freeze_seconds": None,
        "guest_commands": [],
        "scratch_peak": None,
        "notes": [],
        "host": platform.node(),
        "tags": {"why": "upgrade"},
        "seconds": 1.5,
        "keep": None,
        "proof": None,
        "locked_until": None,
        "copied_from": None,
    }
    assert disk.keys() == DISK
    assert (disk["disk"], disk["kind"], disk["size"]) == ("vda", "full", 2 * CHUNK)
    assert disk["read_bytes"] == disk["dirty_bytes"] == 2 * CHUNK
    assert all(isinstance(disk[name], int) for name in DISK if name.endswith("_bytes"))


def test_points_as_a_table(cli: CommandLine, points: list[puller.Point]) -> None:
    head, *rows = cli("points").out.splitlines()
    assert head.split() == [
        "POINT",
        "DOMAIN",
        "HOST",
        "TIME",
        "AGE",
        "KIND",
        "DISKS",
        "SIZE",
        "READ",
        "STORED",
    ]
    shown = [[point.point, point.domain, point.host] for point in points]
    assert [row.split()[:3] for row in rows] == shown
    assert "vda,vdb" in rows[0]
    assert "1.1 MiB" in rows[0]


def test_show_in_full(cli: CommandLine, points: list[puller.Point]) -> None:
    shown = cli("show", points[0].point, "--json").document
    assert shown.keys() == RECORD | {"attachments", "checkpoint_xml"}
    assert shown["attachments"] == [{"name": "domain.xml", "size": len(DOMAIN_XML), "time": None}]
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


def test_an_ambiguous_prefix_shows_some_ids_and_that_there_are_more(
    cli: CommandLine, points: list[puller.Point], repository: puller.Repository
) -> None:
    names = sorted(point.point for point in points)
    assert cli("show", "20261123", "--json").error["message"].endswith(f"restore points: {', '.join(names)}")
    made = [make_point(repository, {"vda": b"x"}, moment=NOON + number * HOUR) for number in (9, 10)]
    shown = ", ".join(sorted([*names, *(point.point for point in made)])[:4])
    assert cli("show", "2", "--json").error["message"] == f"'2' matches 5 restore points, such as {shown}"


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


class TestTwoHosts:
    """A machine and its copy on another host, which has the UUID of the original."""

    @pytest.fixture
    def both(self, repository: puller.Repository) -> list[puller.Point]:
        hosts = ["kvm1", "lab", "kvm1", "lab"]
        return [
            make_point(repository, {"vda": bytes([number]) * CHUNK}, moment=NOON + number * HOUR, host=host)
            for number, host in enumerate(hosts, 1)
        ]

    def test_they_are_listed_apart(self, cli: CommandLine, both: list[puller.Point]) -> None:
        listed = cli("points", "web1", "--host", "kvm*", "--json").document["points"]
        assert [item["point"] for item in listed] == [both[0].point, both[2].point]
        assert len(cli("points", "--host", "kvm1", "--host", "lab", "--json").document["points"]) == 4
        assert cli("points", "--host", "kvm9", "--json").document["points"] == []

    @pytest.mark.parametrize("command", ["show", "check", "delete"])
    def test_the_newest_of_a_domain_is_not_a_matter_of_which_ran_last(
        self, cli: CommandLine, both: list[puller.Point], command: str
    ) -> None:
        error = cli(command, "web1@latest", "--json").error
        assert (error["code"], error["name"]) == (16, "AmbiguousPoint")
        assert error["message"] == "points of domain 'web1' were taken on 2 hosts: kvm1, lab"
        assert "--host lab" in error["advice"]
        assert cli(command, "web1@latest", "--host", "kvm1", "--json").code == 0

    def test_whose_is_restored_is_said(
        self, cli: CommandLine, both: list[puller.Point], tmp_path: Path
    ) -> None:
        def newest(*words: str) -> str:
            output = tmp_path / "-".join(words).replace("*", "all")
            document = cli("restore", "web1@latest", *words, "-o", str(output), "--json").document
            return str(document["point"])

        assert newest("--host", "kvm1") == both[2].point
        assert newest("--host", "lab") == both[3].point
        assert newest("--host", "*") == both[3].point
        refused = cli("restore", "web1@latest", "-o", str(tmp_path / "x"), "--json")
        assert refused.error["name"] == "AmbiguousPoint"

    def test_a_time_before_the_copy_is_clear(self, cli: CommandLine, both: list[puller.Point]) -> None:
        early = rfc3339(both[0].time + HOUR / 2)
        assert cli("show", f"web1@{early}", "--json").document["point"] == both[0].point
        error = cli("show", f"web1@{early}", "--host", "lab", "--json").error
        assert error["message"].startswith("no restore point of domain 'web1' was taken on lab at or before")

    def test_stats_count_them_apart(self, cli: CommandLine, both: list[puller.Point]) -> None:
        document = cli("stats", "--json").document
        assert sorted((cost["host"], cost["points"]) for cost in document["costs"]) == [
            ("kvm1", 2),
            ("lab", 2),
        ]
        assert cli("stats", "--host", "lab", "--json").document["points"] == 2

    def test_the_copy_pushes_nothing_of_the_original_out(
        self, cli: CommandLine, both: list[puller.Point]
    ) -> None:
        kept = cli("prune", "--keep-last", "1", "--json").document["kept"]
        assert sorted(kept) == sorted(point.point for point in both[2:])

    def test_a_prune_of_one_host_and_one_of_all(self, cli: CommandLine, both: list[puller.Point]) -> None:
        document = cli("prune", "--keep-last", "1", "--host", "lab", "--json").document
        assert document["removed"] == [both[1].point]
        document = cli("prune", "--keep-last", "1", "--across-hosts", "--json").document
        assert document["kept"] == [both[3].point]


def test_a_domain_is_found_without_reading_the_records_of_others(
    cli: CommandLine, repository: puller.Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(5):
        for day in range(4):
            make_point(repository, {"vda": b"x"}, f"vm{number}", NOON + 24 * day * HOUR)
    read: list[str] = []
    real = FolderStore.get

    def get(self: FolderStore, key: str, **choices: Any) -> bytes:
        read.append(key)
        return real(self, key, **choices)

    monkeypatch.setattr(FolderStore, "get", get)

    def records(*words: str) -> int:
        read.clear()
        assert cli(*words).code == 0
        return sum(key.startswith("points/") for key in read)

    assert records("points", "vm3") == 5 + 4, "the newest of each, then those of the domain"
    assert records("show", "vm3@latest") == 5 + 4
    uuid = puller.list_points(repository, "vm3")[0].uuid
    assert records("points", uuid) == 4
    assert records("show", f"{uuid}@latest") == 4


def test_a_domain_by_the_name_that_it_had(cli: CommandLine, repository: puller.Repository) -> None:
    old = make_point(repository, {"vda": b"x"}, "old", NOON)
    new = structs.replace(old, domain="new", point="20261124T120000Z-00000000", time=NOON + 24 * HOUR)
    repository.points.commit(new)
    assert [item["point"] for item in cli("points", "old", "--json").document["points"]] == [old.point]
    assert [item["point"] for item in cli("points", "new", "--json").document["points"]] == [new.point]
    assert cli("show", "old@latest", "--json").document["point"] == old.point


def test_an_object_that_nobody_wrote_is_no_newest_point(
    cli: CommandLine, points: list[puller.Point], folder: Path
) -> None:
    (folder / "points" / points[0].uuid / "20990101T000000Z-00000000").write_bytes(b"of nobody")
    newest = max(item.point for item in points if item.uuid == points[0].uuid)
    assert cli("show", "web1@latest", "--json").document["point"] == newest
