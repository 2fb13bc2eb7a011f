"""``keep`` and ``release``, what lists say of kept points, and which points a prune is for."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import puller
from puller.repository.collecting.lease import Lease
from puller.units import CHUNK
from tests.cli.conftest import CommandLine
from tests.lab.archive import make_point, tagged_points

pytestmark = pytest.mark.usefixtures("repository_in_the_environment")

NOON = datetime(2023, 11, 20, 12, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.fixture
def points(repository: puller.Repository) -> list[str]:
    """Ids of three daily points of web1 and two of db1, the first of each with a tag."""
    return tagged_points(repository)


def _listed(cli: CommandLine) -> list[str]:
    return [point["point"] for point in cli("points", "--json").document["points"]]


@pytest.mark.parametrize(
    ("words", "until"),
    [
        ([], None),
        (["--until", "2999-01-31"], "2999-01-31T23:59:59Z"),
        (["--until", "2999-01-31T18:00"], "2999-01-31T18:00:00Z"),
        (["--until", "2999-01-31T18:00:00+02:00"], "2999-01-31T16:00:00Z"),
    ],
)
def test_keep_and_release(cli: CommandLine, points: list[str], words: list[str], until: str | None) -> None:
    kept = cli("keep", points[0], "--note", "before the upgrade", *words, "--json").document
    assert kept == {"point": points[0], "kept": True, "until": until, "note": "before the upgrade"}
    listed = cli("points", "web1", "--json").document["points"]
    expected = {"until": until, "note": "before the upgrade", "damage": None}
    assert [point["keep"] for point in listed] == [expected, None, None]
    assert cli("show", points[0], "--json").document["keep"] == expected
    assert "before the upgrade" in cli("points").out
    assert "before the upgrade" in cli("show", points[0]).out
    released = cli("release", points[0], "--json").document
    assert released == {"point": points[0], "kept": False, "until": None, "note": ""}
    assert cli("show", points[0], "--json").document["keep"] is None
    assert "KEPT" not in cli("points").out


@pytest.mark.parametrize("until", ["2020-01-01", "yesterday", "9999-06-01", "2999-13-01", ""])
def test_a_bad_date_is_refused(cli: CommandLine, points: list[str], folder: Path, until: str) -> None:
    assert cli("keep", points[0], "--until", until, "--json").error["code"] == 2
    assert not (folder / "kept").exists()


def test_the_end_of_a_keep_reads_alike_everywhere_whatever_the_zone(
    cli: CommandLine, points: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Europe/Berlin")
        time.tzset()
        answers = [cli("keep", points[0], "--until", "2999-12-24"), cli("points"), cli("show", points[0])]
    time.tzset()
    assert all("until 2999-12-24 23:59 UTC" in answer.out for answer in answers)
    assert "until 2999-12-24 23:59 UTC" in cli("delete", points[0]).err


def test_prune_and_delete_say_what_is_kept(cli: CommandLine, points: list[str]) -> None:
    assert cli("keep", points[0]).out == f"keeping {points[0]} until it is released\n"
    error = cli("delete", points[0], points[1], "--json").error
    assert (error["code"], error["name"]) == (2, "PointKept")
    assert "puller release" in error["advice"]
    planned = cli("prune", "--keep-last", "1", "--dry-run", "--json").document
    assert planned["held"] == [points[0]]
    answer = cli("prune", "--keep-last", "1")
    assert answer.out.startswith("points: 3 kept (1 only by 'puller keep'), 2 removed\n")
    assert _listed(cli) == [points[0], points[2], points[4]]
    assert cli("release", points[0]).out == f"released {points[0]}\n"
    assert cli("release", points[0]).out == f"{points[0]} was not kept\n"
    assert cli("delete", points[0]).code == 0


def test_a_dry_run_shows_the_keep_of_each_kept_point(cli: CommandLine, points: list[str]) -> None:
    cli("keep", points[0], "--note", "before the upgrade")
    cli("keep", points[4], "--note", "for the audit")
    planned = cli("prune", "--keep-last", "1", "--dry-run", "--json").document
    reasons = {item["point"]: item["reasons"] for item in planned["decisions"]}
    assert reasons[points[0]] == ["kept: before the upgrade"]
    assert reasons[points[4]][-1] == "kept: for the audit"
    assert len(reasons[points[4]]) > 1
    assert planned["held"] == [points[0]]
    assert "kept: for the audit" in cli("prune", "--keep-last", "1", "--dry-run").out


def test_a_keep_that_cannot_be_read_differs_from_one_without_end(
    cli: CommandLine, points: list[str], folder: Path
) -> None:
    cli("keep", points[0])
    [keep] = [path for path in (folder / "kept").rglob("*") if path.is_file()]
    keep.write_bytes(b"torn")
    listed = cli("points", "--json").document["points"][0]["keep"]
    assert (listed["until"], listed["note"]) == (None, "")
    assert listed["damage"]
    assert cli("show", points[0], "--json").document["keep"] == listed


def test_beside_a_prune_the_user_is_told_that_it_may_be_too_late(
    cli: CommandLine, points: list[str], repository: puller.Repository
) -> None:
    with Lease.take(repository.store, repository.keys.boxes(), "prune"):
        answer = cli("keep", points[0])
    assert answer.code == 0
    assert "a prune is running and may still delete" in answer.err
    assert cli("keep", points[0]).err == ""


@pytest.mark.parametrize(
    ("words", "kept"),
    [
        (["web1"], [2, 3, 4]),
        (["web1", "db1"], [2, 4]),
        (["--tag", "release=golden"], [0, 1, 2, 3, 4]),
        (["--tag", "release=nightly"], [0, 2, 3, 4]),
        (["--tag", "release"], [2, 4]),
        (["--tag", "other"], [0, 1, 2, 3, 4]),
        (["--keep-tag", "release=golden"], [0, 2, 3, 4]),
        (["--keep-tag", "release"], [0, 1, 2, 3, 4]),
        (["web1", "--keep-tag", "release=golden"], [0, 2, 3, 4]),
    ],
)
def test_which_points_a_prune_is_for(
    cli: CommandLine, points: list[str], words: list[str], kept: list[int]
) -> None:
    document = cli("prune", *words, "--keep-last", "1", "--json").document
    assert _listed(cli) == [points[place] for place in kept]
    assert sorted(document["kept"]) == sorted(points[place] for place in kept)


def test_a_domain_is_meant_by_its_uuid_and_an_unknown_one_is_refused(
    cli: CommandLine, points: list[str]
) -> None:
    uuid = cli("show", points[0], "--json").document["uuid"]
    assert cli("prune", "web9", "--keep-last", "1", "--json").error["code"] == 16
    assert cli("prune", "web9", "--keep-last", "1", "--dry-run", "--json").error["code"] == 16
    assert cli("prune", "--tag", "=x", "--keep-last", "1", "--json").error["code"] == 2
    assert len(_listed(cli)) == 5
    cli("prune", uuid, "--keep-last", "1")
    assert _listed(cli) == points[2:]


def test_a_renamed_domain_is_pruned_as_one(cli: CommandLine, repository: puller.Repository) -> None:
    old = make_point(repository, {"vda": bytes(CHUNK)}, "web1", NOON)
    record = make_point(repository, {"vda": bytes(CHUNK)}, "other", NOON + DAY)
    new = puller.Point(
        **{name: getattr(record, name) for name in record.__struct_fields__}
        | {"domain": "web2", "uuid": old.uuid}
    )
    repository.points.delete([(record.uuid, record.point)])
    repository.points.commit(new)
    assert cli("prune", "web1", "--keep-last", "1", "--dry-run", "--json").document["removed"] == [old.point]
    assert cli("prune", "web2", "--keep-last", "1", "--json").document["removed"] == [old.point]


def test_keep_tags_alone_are_no_rule(cli: CommandLine, points: list[str]) -> None:
    answer = cli("prune", "--keep-tag", "release=golden")
    assert "no restore point is removed" in answer.err
    assert _listed(cli) == points
