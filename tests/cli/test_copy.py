"""``copy``: which points it selects, how it opens the target, and its JSON documents."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import puller
from tests.cli.conftest import CommandLine
from tests.lab.archive import tagged_points

pytestmark = pytest.mark.usefixtures("repository_in_the_environment")

NOON = datetime(2023, 11, 20, 12, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.fixture
def points(repository: puller.Repository) -> list[str]:
    """Ids of three daily points of web1 and two of db1, the first of each with a tag."""
    return tagged_points(repository)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """Another repository, with a password of its own in the file ``password``."""
    (tmp_path / "password").write_text("another\n")
    puller.create_repository(str(tmp_path / "elsewhere"), password="another")
    return tmp_path / "elsewhere"


def _there(target: Path) -> list[str]:
    return [
        point.point for point in puller.list_points(puller.open_repository(str(target), password="another"))
    ]


def _to(target: Path) -> list[str]:
    return ["--to", str(target), "--to-password-file", str(target.parent / "password")]


def test_all_points_are_copied_and_found_again(cli: CommandLine, points: list[str], target: Path) -> None:
    document = cli("copy", *_to(target), "--json").document
    assert [item["point"] for item in document["copied"]] == points
    assert all(
        item.keys() == {"point", "chunks_sent", "bytes_sent", "seconds"} for item in document["copied"]
    )
    assert document["copied"][0]["chunks_sent"] == 2
    assert _there(target) == points
    again = cli("copy", points[0], *_to(target), "--json").document
    assert again == {"copied": [], "present": [points[0]], "failed": []}
    assert cli("copy", *_to(target)).out == "0 points copied\n"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--domain", "db*"], [3, 4]),
        (["--tag", "release=golden"], [0, 3]),
        (["--tag", "release=golden", "--domain", "web1"], [0]),
        (["--since", "2023-11-22"], [2, 3, 4]),
        (["--latest-only"], [2, 4]),
        (["--latest-only", "--tag", "release=golden"], [0, 3]),
        (["--host", "elsewhere"], []),
        (["web1@latest"], [2]),
    ],
)
def test_chosen_points(
    cli: CommandLine, points: list[str], target: Path, words: list[str], expected: list[int]
) -> None:
    document = cli("copy", *words, *_to(target), "--json").document
    assert [item["point"] for item in document["copied"]] == [points[number] for number in expected]
    assert _there(target) == [points[number] for number in expected]


@pytest.mark.parametrize("words", [["--domain", "nope"], ["--domain", "web1", "--domain", "nope"]])
def test_a_domain_without_points_is_refused(
    cli: CommandLine, points: list[str], target: Path, words: list[str]
) -> None:
    """As by ``prune``: a mistyped name must not look like a copy that had nothing to do."""
    error = cli("copy", *words, *_to(target), "--json").error
    assert (error["code"], error["message"]) == (16, "no restore point of domain 'nope'")
    assert cli("copy", points[0], *words, *_to(target)).code == 16
    assert _there(target) == []


def test_a_domain_with_nothing_left_to_copy_is_no_error(
    cli: CommandLine, points: list[str], target: Path, repository: puller.Repository
) -> None:
    uuid = puller.list_points(repository)[0].uuid
    for _ in range(2):
        assert cli("copy", "--domain", "web1", *_to(target)).code == 0
    for word in (uuid, uuid.replace("-", ""), "nope*"):
        assert cli("copy", "--domain", word, *_to(target)).out == "0 points copied\n"


def test_the_newest_is_there_so_no_older_one_is_copied(
    cli: CommandLine, points: list[str], target: Path
) -> None:
    for _ in range(2):
        assert cli("copy", "--latest-only", *_to(target)).code == 0
    assert _there(target) == [points[2], points[4]]


def test_the_target_is_opened_by_its_own_secret_of_the_configuration(
    cli: CommandLine, points: list[str], target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = ["[repositories.elsewhere]", f'url = "{target}"', f'password-file = "{tmp_path / "password"}"']
    (tmp_path / "puller.toml").write_text("\n".join(lines))
    monkeypatch.setenv("PULLER_CONFIG", str(tmp_path / "puller.toml"))
    assert cli("copy", points[0], "--to", "elsewhere").code == 0
    assert _there(target) == [points[0]]


def test_a_wrong_password_of_the_target_is_named(
    cli: CommandLine, points: list[str], target: Path, tmp_path: Path
) -> None:
    (tmp_path / "password").write_text("wrong")
    error = cli("copy", points[0], *_to(target), "--json").error
    assert error["code"] == 12
    assert "password" in error["message"]
    assert error["message"].startswith(f"cannot open {target}: ")
    assert error["message"].count(str(tmp_path / "password")) == 1
    assert "--to-password-file" in error["advice"]
    error = cli("copy", "--to", str(target), "--json").error
    assert (error["code"], error["message"].startswith(f"cannot open {target}: ")) == (12, True)
    assert "--to-key-file" in error["advice"]
    like = ("--like", str(target), "--like-password-file", str(tmp_path / "password"))
    error = cli("init", "-r", str(tmp_path / "kin"), *like, "--json").error
    assert (error["code"], "--like-password-file" in error["advice"]) == (12, True)
    (tmp_path / "password").unlink()
    error = cli("copy", *_to(target), "--json").error
    assert error["message"].count(str(tmp_path / "password")) == 1


def test_damage_has_its_exit_code(
    cli: CommandLine, points: list[str], target: Path, repository: puller.Repository, folder: Path
) -> None:
    packs = sorted((folder / "packs").rglob("*"), key=lambda path: path.stat().st_mtime_ns)
    next(path for path in packs if path.is_file()).unlink()
    answer = cli("copy", *_to(target), "--json")
    assert answer.code == 13
    assert [item["point"] for item in answer.document["failed"]] == [points[0]]
    assert _there(target) == points[1:]


def test_show_says_where_a_copy_was_taken(
    cli: CommandLine,
    points: list[str],
    target: Path,
    repository: puller.Repository,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cli("copy", points[0], *_to(target))
    monkeypatch.setenv("PULLER_PASSWORD", "another")
    shown = cli("show", points[0], "-r", str(target), "--json").document
    assert shown["copied_from"] == {"repository": repository.id, "point": points[0]}
    assert repository.id in cli("show", points[0], "-r", str(target)).out


def test_a_copy_to_itself_is_refused(cli: CommandLine, points: list[str], folder: Path) -> None:
    assert cli("copy", points[0], "--to", str(folder), "--json").error["code"] == 2
