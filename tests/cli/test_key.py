"""Key files as a way in, and ``key list``, ``add`` and ``remove``."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

import puller
from puller.errors import KeyNotHeld, UsageError, WrongKey
from tests.cli.conftest import CommandLine, Terminal
from tests.lab.archive import make_point

KEY = {"key", "kind", "role", "label", "created", "opened", "damage"}


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made once, because to stretch a password is slow on purpose."""
    folder = tmp_path_factory.mktemp("encrypted")
    puller.create_repository(str(folder), password="night")
    return folder


@pytest.fixture
def encrypted(template: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A repository of the test's own that the password in the environment opens."""
    shutil.copytree(template, folder)
    monkeypatch.setenv("PULLER_REPOSITORY", str(folder))
    monkeypatch.setenv("PULLER_PASSWORD", "night")
    return str(folder)


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    path.write_bytes(os.urandom(32))
    return path


def _keys(cli: CommandLine, *options: str) -> list[dict[str, Any]]:
    keys: list[dict[str, Any]] = cli("key", "list", *options, "--json").document["keys"]
    return keys


@pytest.mark.parametrize("how", ["option", "variable"])
def test_init_and_open_with_a_key_file(
    cli: CommandLine, folder: Path, key_file: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setenv("PULLER_REPOSITORY", str(folder))
    options = ["--key-file", str(key_file)]
    if how == "variable":
        monkeypatch.setenv("PULLER_KEY_FILE", options.pop())
        options.clear()
    assert cli("init", *options, "--json").document["encrypted"] is True
    assert cli("points", *options, "--json").document == {"points": []}
    assert [(key["kind"], key["opened"]) for key in _keys(cli, *options)] == [("key-file", True)]
    monkeypatch.delenv("PULLER_KEY_FILE", raising=False)
    assert cli("points").code == 12


def test_a_key_file_comes_before_a_password(cli: CommandLine, encrypted: str, key_file: Path) -> None:
    assert cli("points").code == 0
    error = cli("points", "--key-file", str(key_file), "--json").error
    assert (error["code"], error["name"]) == (12, "WrongKey")
    assert "--key-file" in error["advice"]


@pytest.mark.parametrize("what", ["missing", "a folder", "empty", "endless"])
@pytest.mark.parametrize("command", [["init"], ["points"], ["key", "add", "--new-key-file"]])
def test_a_key_file_that_is_none(
    cli: CommandLine, encrypted: str, tmp_path: Path, command: list[str], what: str
) -> None:
    (tmp_path / "empty").touch()
    places = {"missing": "no", "a folder": ".", "empty": "empty", "endless": "/dev/zero"}
    path = str(tmp_path / places[what])
    options = [] if command[0] == "key" else ["--key-file"]
    error = cli(*command, *options, path, "--json").error
    assert (error["code"], error["name"]) == (2, "UsageError")
    assert path in error["message"]


def test_a_short_key_file_makes_no_repository(cli: CommandLine, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "short").write_bytes(b"x" * 31)
    error = cli("init", "-r", str(folder), "--key-file", str(tmp_path / "short"), "--json").error
    assert (error["code"], "31 bytes" in error["message"]) == (2, True)
    assert cli("points", "-r", str(folder)).code == 10


def test_a_change_of_password(
    cli: CommandLine, encrypted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "new").write_bytes(b"day\n")
    (old,) = _keys(cli)
    assert old.keys() == KEY
    assert (old["kind"], old["role"], old["opened"], old["damage"]) == ("password", "full", True, None)
    added = cli("key", "add", "--new-password-file", str(tmp_path / "new"), "--label", "2026", "--json")
    assert added.document == {"key": added.document["key"], "role": "full", "label": "2026"}
    monkeypatch.setenv("PULLER_PASSWORD", "day")
    assert {(key["key"], key["opened"]) for key in _keys(cli)} == {
        (old["key"], False),
        (added.document["key"], True),
    }
    assert cli("key", "remove", old["key"], "--json").document == {"removed": old["key"]}
    assert cli("points").code == 0
    monkeypatch.setenv("PULLER_PASSWORD", "night")
    assert cli("points").code == 12


def test_as_a_table(cli: CommandLine, encrypted: str, key_file: Path) -> None:
    cli("key", "add", "--new-key-file", str(key_file), "--role", "backup-only", "--label", "kvm1\x1b[2J")
    head, *rows = cli("key", "list").out.splitlines()
    assert head.split() == ["ID", "KIND", "ROLE", "CREATED", "OPENED", "LABEL"]
    assert sorted(row.split()[1:3] for row in rows) == [["key-file", "backup-only"], ["password", "full"]]
    assert [row.split()[5] for row in rows if " full " in row] == ["yes"]
    assert "\x1b" not in "".join(rows)
    assert any(r"kvm1\x1b[2J" in row for row in rows)


def test_a_backup_only_key(cli: CommandLine, encrypted: str, key_file: Path, tmp_path: Path) -> None:
    point = make_point(puller.open_repository(encrypted, password="night"), {"vda": b"secret"})
    added = cli("key", "add", "--new-key-file", str(key_file), "--role", "backup-only", "--json").document
    way = ["--key-file", str(key_file)]
    assert cli("points", *way).code == 0
    assert [key["opened"] for key in _keys(cli, *way) if key["key"] == added["key"]] == [True]
    refused = [
        ["restore", point.point, "-o", str(tmp_path / "out")],
        ["key", "add", "--new-key-file", str(key_file)],
        ["key", "remove", added["key"]],
    ]
    for command in refused:
        error = cli(*command, *way, "--json").error
        assert (error["code"], error["name"]) == (12, "KeyNotHeld")
    assert len(_keys(cli)) == 2


def test_the_last_full_key_stays(cli: CommandLine, encrypted: str, key_file: Path) -> None:
    cli("key", "add", "--new-key-file", str(key_file), "--role", "backup-only")
    (last,) = (key["key"] for key in _keys(cli) if key["role"] == "full")
    assert cli("key", "remove", last, "--json").error["code"] == 2
    assert cli("key", "remove", "0" * 16, "--json").error["code"] == 2
    assert cli("points").code == 0


def test_a_damaged_key_is_listed_and_can_be_removed(
    cli: CommandLine, encrypted: str, key_file: Path, folder: Path
) -> None:
    bad = cli("key", "add", "--new-key-file", str(key_file), "--json").document["key"]
    (folder / "keys" / bad).write_text("{")
    answer = cli("key", "list", "--json")
    assert answer.error["code"] == 13
    assert bad in answer.error["advice"]
    sound, damaged = answer.document["keys"]
    assert (sound["opened"], sound["damage"]) == (True, None)
    assert (damaged["key"], damaged["kind"], damaged["created"]) == (bad, None, None)
    assert bad in damaged["damage"]
    assert "damaged" in cli("key", "list").out
    assert cli("key", "remove", bad).code == 0
    assert cli("key", "list").code == 0


@pytest.mark.parametrize("command", [["list"], ["add"], ["remove", "0" * 16]])
def test_a_plain_repository_has_no_keys(
    cli: CommandLine, repository: puller.Repository, folder: Path, command: list[str]
) -> None:
    error = cli("key", *command, "-r", str(folder), "--json").error
    assert (error["code"], error["name"]) == (2, "UsageError")
    assert "not encrypted" in error["message"]


def test_a_new_key_needs_a_secret(cli: CommandLine, encrypted: str) -> None:
    error = cli("key", "add", "--json").error
    assert error["code"] == 2
    assert "--new-password-file" in error["advice"]
    assert len(_keys(cli)) == 1


@pytest.mark.parametrize("label", ["x" * 201, os.fsdecode(b"\xff")], ids=["long", "not UTF-8"])
def test_a_label_that_cannot_be(cli: CommandLine, encrypted: str, key_file: Path, label: str) -> None:
    answer = cli("key", "add", "--new-key-file", str(key_file), "--label", label, "--json")
    assert (answer.error["code"], "label" in answer.error["message"]) == (2, True)
    assert len(_keys(cli)) == 1


def test_on_a_terminal_the_new_password_is_asked_for_twice(
    encrypted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PULLER_PASSWORD")
    with Terminal("key", "add", "--json") as terminal:
        answer = terminal.type("night\n", "day\n", "day\n")
    assert answer.document["role"] == "full"
    assert "New password: " in answer.err
    assert "night" not in answer.err
    assert "day" not in answer.err
    assert puller.open_repository(encrypted, password="day")


def test_as_functions(encrypted: str) -> None:
    repository = puller.open_repository(encrypted, password="night")
    new = os.urandom(64)
    key = puller.add_key(repository, password="night", new_key_file=new, role="backup-only", label="kvm1")
    assert {item.key: item.opened for item in puller.list_keys(repository, key_file=new)}[key]
    assert not any(item.opened for item in puller.list_keys(repository))
    with pytest.raises(UsageError, match="without a secret"):
        puller.add_key(repository, password="night")
    with pytest.raises(UsageError, match="role 'admin'"):
        puller.add_key(repository, password="night", new_password="x", role="admin")  # type: ignore[arg-type]
    with pytest.raises(WrongKey):
        puller.add_key(repository, password="day", new_password="x")
    with pytest.raises(KeyNotHeld):
        puller.add_key(repository, key_file=new, new_password="x")
    puller.remove_key(repository, key)
    assert [item.role for item in puller.list_keys(repository)] == ["full"]
