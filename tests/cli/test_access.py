"""Making and opening repositories: URL and password, and where they may come from."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

import puller
from tests.cli.conftest import CommandLine, Terminal


@pytest.fixture(scope="module")
def encrypted(tmp_path_factory: pytest.TempPathFactory) -> puller.Repository:
    """One for all tests of this module: to stretch a password is slow on purpose."""
    return puller.create_repository(str(tmp_path_factory.mktemp("encrypted")), password="night")


def test_init_makes_a_repository_that_opens(
    cli: CommandLine, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PULLER_PASSWORD", "night")
    made = cli("init", "-r", str(folder), "--json").document
    assert made == {"repository": str(folder), "id": made["id"], "encrypted": True}
    assert puller.open_repository(str(folder), password="night").id == made["id"]


def test_init_needs_a_password_or_a_clear_word(cli: CommandLine, folder: Path) -> None:
    error = cli("init", "-r", str(folder), "--json").error
    assert error["code"] == 2
    assert "PULLER_PASSWORD" in error["advice"]
    assert "--no-encryption" in error["advice"]
    assert not folder.exists()
    assert cli("init", "-r", str(folder), "--no-encryption").code == 0
    assert puller.open_repository(str(folder)).id


def test_init_says_that_it_does_not_use_a_password(
    cli: CommandLine, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PULLER_PASSWORD", "night")
    answer = cli("init", "-r", str(folder), "--no-encryption", "--json")
    assert answer.document["encrypted"] is False
    assert "--no-encryption ignores the given password" in answer.err
    assert "night" not in answer.err


def test_init_leaves_a_repository_alone_that_is_there(cli: CommandLine, encrypted: puller.Repository) -> None:
    error = cli("init", "-r", encrypted.store.url, "--no-encryption", "--json").error
    assert (error["code"], error["name"]) == (2, "RepositoryExists")
    assert puller.open_repository(encrypted.store.url, password="night").id == encrypted.id


@pytest.mark.parametrize("what", ["a file", "another program's", "no JSON"])
def test_what_is_no_repository(cli: CommandLine, folder: Path, what: str) -> None:
    if what == "a file":
        folder.write_text("hello")
    else:
        folder.mkdir()
        other = '{"format": "other", "version": 1}' if what == "another program's" else "{"
        (folder / "repository.json").write_text(other)
    error = cli("points", "-r", str(folder), "--json").error
    assert error["code"] == (14 if what == "a file" else 10)
    assert str(folder) in error["message"]


def test_a_newer_format(cli: CommandLine, repository: puller.Repository, folder: Path) -> None:
    path = folder / "repository.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "version": 2}))
    error = cli("points", "-r", str(folder), "--json").error
    assert (error["code"], error["name"]) == (10, "UnsupportedFormat")
    assert "version 2" in error["message"]


def _set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, source: str, content: bytes) -> None:
    if source == "variable":
        monkeypatch.setenv("PULLER_PASSWORD", os.fsdecode(content))
    elif source == "file":
        (tmp_path / "password").write_bytes(content)
        monkeypatch.setenv("PULLER_PASSWORD_FILE", str(tmp_path / "password"))
    else:
        (tmp_path / "puller-password").write_bytes(content)
        monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))


@pytest.mark.parametrize(
    ("source", "content"),
    [
        ("variable", b"night"),
        ("file", b"night"),
        ("file", b"night\n"),
        ("credential", b"night"),
        ("credential", b"night\n"),
    ],
)
def test_each_source_of_the_password_opens(
    cli: CommandLine,
    encrypted: puller.Repository,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    source: str,
    content: bytes,
) -> None:
    _set(monkeypatch, tmp_path, source, content)
    assert cli("points", "-r", encrypted.store.url, "--json").document == {"points": []}


@pytest.mark.parametrize("source", ["variable", "file", "credential"])
def test_a_wrong_password(
    cli: CommandLine,
    encrypted: puller.Repository,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    source: str,
) -> None:
    _set(monkeypatch, tmp_path, source, b"night \n")
    answer = cli("points", "-r", encrypted.store.url, "--json")
    assert (answer.error["code"], answer.error["name"]) == (12, "WrongKey")
    named = {"variable": "PULLER_PASSWORD", "file": "PULLER_PASSWORD_FILE", "credential": "puller-password"}
    assert f"{named[source]})" in answer.error["message"]


def test_no_password(cli: CommandLine, encrypted: puller.Repository, tmp_path: Path) -> None:
    assert cli("points", "-r", encrypted.store.url, "--json").error["code"] == 12


def test_a_credentials_folder_of_other_credentials_gives_none(
    cli: CommandLine, encrypted: puller.Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    error = cli("points", "-r", encrypted.store.url, "--json").error
    assert (error["code"], "no password" in error["message"]) == (12, True)


def test_the_sources_in_their_order(
    cli: CommandLine, encrypted: puller.Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = ["points", "-r", encrypted.store.url]
    _set(monkeypatch, tmp_path, "credential", b"night")
    assert cli(*points).code == 0
    _set(monkeypatch, tmp_path, "file", b"wrong")
    assert cli(*points).code == 12
    _set(monkeypatch, tmp_path, "variable", b"night")
    assert cli(*points).code == 0


@pytest.mark.parametrize(
    ("source", "content"),
    [
        ("variable", b""),
        ("variable", b"\xff\xfe"),
        *((source, content) for source in ("file", "credential") for content in (b"", b"\n", b"\xff\xfe")),
    ],
)
def test_a_source_that_gives_no_password(
    cli: CommandLine,
    encrypted: puller.Repository,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    source: str,
    content: bytes,
) -> None:
    _set(monkeypatch, tmp_path, source, content)
    for command in (["init", "-r", str(folder)], ["points", "-r", encrypted.store.url]):
        error = cli(*command, "--json").error
        assert (error["code"], error["name"]) == (2, "UsageError")
        assert "empty" in error["message"] or "UTF-8" in error["message"]
    assert not folder.exists()


@pytest.mark.parametrize("path", ["nothing", "."])
def test_a_password_file_that_cannot_be_read(
    cli: CommandLine, encrypted: puller.Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setenv("PULLER_PASSWORD_FILE", str(tmp_path / path))
    error = cli("points", "-r", encrypted.store.url, "--json").error
    assert error["code"] == 2
    assert str(tmp_path / path) in error["message"]


@pytest.mark.parametrize("source", ["variable", "file", "credential"])
def test_a_plain_repository_refuses_whoever_has_a_password(
    cli: CommandLine,
    repository: puller.Repository,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    source: str,
) -> None:
    assert cli("points", "-r", str(folder)).code == 0
    _set(monkeypatch, tmp_path, source, b"night")
    error = cli("points", "-r", str(folder), "--json").error
    assert (error["code"], error["name"]) == (12, "NotEncrypted")
    assert "not encrypted, but a password was given (taken from " in error["message"]


def _strip_encryption(folder: Path) -> None:
    """What whoever can write to the store can do: no key slots, and a descriptor that asks for none."""
    for slot in (folder / "keys").iterdir():
        slot.unlink()
    path = folder / "repository.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "cipher": "none"}))


def test_a_repository_that_was_made_plain_gets_nothing(
    cli: CommandLine, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PULLER_PASSWORD", "night")
    assert cli("init", "-r", str(folder)).code == 0
    _strip_encryption(folder)
    before = sorted(folder.rglob("*"))
    for command in (["backup", "guest"], ["check"], ["points"]):
        error = cli(command[0], "-r", str(folder), *command[1:], "--json").error
        assert (error["code"], error["name"]) == (12, "NotEncrypted")
        assert error["message"].endswith("but a password was given (taken from PULLER_PASSWORD)")
        assert error["advice"].startswith("Find out who changed it.")
    doctor = cli("doctor", "-r", str(folder), "--connect", "test:///not-there", "--json").document
    (check,) = (check for check in doctor["checks"] if check["name"] == "repository")
    assert (check["status"], "not encrypted" in check["finding"]) == ("fail", True)
    assert sorted(folder.rglob("*")) == before

    # A host without a secret, which would be asked for one, remembers that there was a cipher.
    monkeypatch.delenv("PULLER_PASSWORD")
    error = cli("points", "-r", str(folder), "--json").error
    assert (error["code"], error["name"]) == (12, "NotEncrypted")
    assert error["message"].endswith("is not encrypted, but this host knows an encrypted one there")
    monkeypatch.setenv("PULLER_CACHE_DIR", str(tmp_path / "another host"))
    assert cli("points", "-r", str(folder)).code == 0


def test_another_repository_in_the_place_of_a_known_one(
    cli: CommandLine, repository: puller.Repository, folder: Path
) -> None:
    assert "another repository" not in cli("points", "-r", str(folder)).err
    path = folder / "repository.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "id": "0" * 32}))
    for _ in range(2):  # until somebody has seen to it
        answer = cli("points", "-r", str(folder), "--quiet")
        assert f"it was {repository.id} (none) and is {'0' * 32} (none)" in answer.err
    doctor = cli("doctor", "-r", str(folder), "--connect", "test:///not-there", "--json").document
    assert [check["status"] for check in doctor["checks"] if check["name"] == "identity"] == ["warn"]
    memory = answer.err.partition("delete ")[2].partition(" to make")[0]
    Path(memory).unlink()
    assert "another repository" not in cli("points", "-r", str(folder)).err


def test_init_makes_a_host_forget_what_was_there(
    cli: CommandLine, repository: puller.Repository, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(folder)
    monkeypatch.setenv("PULLER_PASSWORD", "night")
    assert cli("init", "-r", str(folder)).code == 0
    assert "another repository" not in cli("points", "-r", str(folder)).err


def test_on_a_terminal_the_password_is_asked_for(encrypted: puller.Repository) -> None:
    with Terminal("points", "-r", encrypted.store.url, "--json") as terminal:
        answer = terminal.type("night\n")
    assert answer.document == {"points": []}
    assert "Password of the repository: " in answer.err
    assert "night" not in answer.err


def test_a_wrong_answer(encrypted: puller.Repository) -> None:
    with Terminal("points", "-r", encrypted.store.url) as terminal:
        assert terminal.type("day\n").code == 12


def test_init_asks_twice(folder: Path) -> None:
    with Terminal("init", "-r", str(folder), "--json") as terminal:
        answer = terminal.type("night\n", "day\n", "night\n", "night\n")
    assert answer.document["encrypted"] is True
    assert puller.open_repository(str(folder), password="night")


def test_nothing_is_asked_where_it_is_not_needed(
    repository: puller.Repository, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Terminal("points", "-r", str(folder)) as terminal:
        assert terminal.type().code == 0


@pytest.mark.parametrize("key", ["\x03", "\x04"], ids=["interrupt", "end of file"])
def test_to_give_no_answer_is_to_stop(folder: Path, key: str) -> None:
    with Terminal("init", "-r", str(folder), "--json") as terminal:
        answer = terminal.type(key)
    assert answer.document["error"]["name"] == "Interrupted"
    assert answer.code == 130
    assert not folder.exists()
