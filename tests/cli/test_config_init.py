"""``config init``: the first configuration of a host, with its secrets and its timer."""

from __future__ import annotations

import errno
import os
import tomllib
from pathlib import Path

import pytest

from puller.configuration import file as configuration
from puller.configuration import initial
from puller.errors import UsageError
from tests.cli.conftest import CommandLine, Terminal

TIMER = "puller-backup@nightly.timer"


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host whose services read a configuration in the test's folder; its systemctl records its
    arguments."""
    monkeypatch.setattr(configuration, "DEFAULT_PATH", tmp_path / "etc" / "puller.toml")
    monkeypatch.setattr("puller.configuration.initial.CREDENTIALS", tmp_path / "credstore")
    for name in os.environ:
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    _systemctl(tmp_path, f'echo "$@" >{tmp_path}/words')
    monkeypatch.setenv("PATH", f"{tmp_path / 'programs'}:/usr/bin:/bin")
    return tmp_path


def _systemctl(host: Path, line: str) -> None:
    programs = host / "programs"
    programs.mkdir(exist_ok=True)
    (programs / "systemctl").write_text(f"#!/bin/sh\n{line}\n")
    (programs / "systemctl").chmod(0o755)


def _read(host: Path) -> dict[str, object]:
    return tomllib.loads((host / "etc" / "puller.toml").read_text())


def test_without_a_terminal(cli: CommandLine, host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cr3t")
    words = ("-r", "s3://backups/kvm/", "--endpoint-url", "https://s3.example.org", "--access-key-id", "AKIA")
    document = cli("config", "init", *words, "--domain", "web 1", "--domain", "db*", "--json").document
    names = ("credstore/puller-password", "credstore/puller-aws-credentials", "etc/puller.toml")
    assert document == {
        "file": str(host / "etc/puller.toml"),
        "written": [str(host / name) for name in names],
        "timer": TIMER,
        "repository": "s3://backups/kvm",
        "domains": ["web 1", "db*"],
    }
    assert [oct((host / name).stat().st_mode & 0o777) for name in names] == ["0o600"] * 3
    assert len((host / names[0]).read_text().strip()) >= 32
    assert (host / names[1]).read_text().splitlines() == [
        "[default]",
        "aws_access_key_id = AKIA",
        "aws_secret_access_key = s3cr3t",
        "endpoint_url = https://s3.example.org",
    ]
    assert _read(host)["repositories"] == {
        "main": {
            "url": "s3://backups/kvm",
            "password-file": str(host / names[0]),
            "credentials-file": str(host / names[1]),
        }
    }
    assert (host / "words").read_text().split()[-1] == TIMER
    assert cli("config", "check", "--json").document["jobs"] == ["nightly"]


def test_the_commands_that_follow_need_nothing_else(cli: CommandLine, host: Path, folder: Path) -> None:
    assert cli("config", "init", "-r", str(folder)).code == 0
    assert cli("init", "--json").document["encrypted"] is True
    assert cli("points", "--json").document == {"points": []}
    with (host / "etc/puller.toml").open("a") as file:
        file.write('[repositories.elsewhere]\nurl = "/elsewhere"\n')
    assert cli("points", "--json").document == {"points": []}, "a second repository changes nothing"
    assert _read(host)["jobs"] == {
        "nightly": {
            "domains": ["*"],
            "then": ["prune", "check"],
            "check": 5.0,
            "keep": {"daily": 7, "weekly": 4, "monthly": 6},
        }
    }


def test_five_questions_on_a_terminal(tmp_path: Path) -> None:
    path, credentials = tmp_path / "puller.toml", tmp_path / "credentials"
    words = ("config", "init", "--config", str(path), "--credentials-dir", str(credentials))
    with Terminal(*words) as terminal:
        answer = terminal.type("backups\n", "s3://backups\n", "\n", "AKIA\n", "s3cr3t\n", "web1 db1\n")
    assert answer.code == 0, answer.err
    assert "invalid repository" in answer.err  # the first answer, and asked again
    assert "s3cr3t" not in answer.err
    assert tomllib.loads(path.read_text())["jobs"]["nightly"]["domains"] == ["web1", "db1"]
    text = (credentials / "puller-aws-credentials").read_text()
    assert text == "[default]\naws_access_key_id = AKIA\naws_secret_access_key = s3cr3t\n"


def test_the_next_command_reads_the_same_file(cli: CommandLine, host: Path, folder: Path) -> None:
    assert "Run 'puller init' to" in cli("config", "init", "-r", str(folder)).out
    words = ("--credentials-dir", str(host / "own"), "--config", str(host / "own.toml"))
    said = cli("config", "init", "-r", str(folder), *words).out
    assert f"Run 'puller --config {host / 'own.toml'} init' to" in said


def test_nothing_is_overwritten_or_half_written(cli: CommandLine, host: Path, folder: Path) -> None:
    assert cli("config", "init", "-r", str(folder)).code == 0
    before = {path: path.read_text() for path in host.rglob("*") if path.is_file()}
    error = cli("config", "init", "-r", "/elsewhere", "--json").error
    assert (error["code"], error["message"]) == (
        2,
        f"cannot write {host / 'etc/puller.toml'}: it exists already",
    )
    assert {path: path.read_text() for path in host.rglob("*") if path.is_file()} == before
    # The password of an earlier configuration may be the only one that opens a repository.
    (host / "etc/puller.toml").unlink()
    error = cli("config", "init", "-r", "/elsewhere", "--json").error
    assert error["message"] == f"cannot write {host / 'credstore/puller-password'}: it exists already"
    assert not (host / "etc/puller.toml").exists()
    # What was begun is taken back.
    (host / "etc").rmdir()
    (host / "etc").write_text("not a directory")
    (host / "credstore/puller-password").unlink()
    assert cli("config", "init", "-r", "/elsewhere", "--json").error["code"] == 2
    assert list((host / "credstore").iterdir()) == []


def test_a_file_that_another_process_has_just_created_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be the only copy of a password with which a repository has been created meanwhile."""
    first, second = tmp_path / "one" / "password", tmp_path / "two" / "puller.toml"
    second.parent.mkdir()
    second.write_text("of another process")
    monkeypatch.setattr(initial, "refuse_existing", lambda _: None)
    with pytest.raises(UsageError, match=f"cannot write {second}: File exists"):
        initial.write({first: "secret", second: "text"})
    assert second.read_text() == "of another process"
    assert not first.exists()


def test_a_file_that_is_half_written_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(path: Path, *_: object) -> None:
        path.write_text("se")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(initial, "write_file", fill)
    with pytest.raises(UsageError, match="No space left on device"):
        initial.write({tmp_path / "password": "secret"})
    assert list(tmp_path.iterdir()) == []


def test_secrets_that_exist_are_named_and_not_copied(
    cli: CommandLine, host: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("password", "key", "aws"):
        (host / name).write_text("0123456789abcdef0123456789abcdef")
    monkeypatch.setenv("PULLER_PASSWORD_FILE", str(host / "password"))
    words = ("config", "init", "-r", "s3://backups", "--credentials-file", str(host / "aws"), "--json")
    assert cli(*words).document["written"] == [str(host / "etc/puller.toml")]
    main = {"url": "s3://backups", "credentials-file": str(host / "aws")}
    assert _read(host)["repositories"] == {"main": main | {"password-file": str(host / "password")}}
    (host / "etc/puller.toml").unlink()
    assert cli(*words, "--key-file", str(host / "key")).code == 0
    assert _read(host)["repositories"] == {"main": main | {"key-file": str(host / "key")}}
    (host / "etc/puller.toml").unlink()
    monkeypatch.setenv("PULLER_PASSWORD_FILE", str(host / "absent"))
    assert cli(*words).error["code"] == 2
    assert not (host / "etc/puller.toml").exists()
    monkeypatch.setenv("PULLER_PASSWORD", "correct horse")
    assert cli(*words).code == 0
    assert (host / "credstore/puller-password").read_text() == "correct horse\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "--repository is missing"),
        (("-r", "s3://backups"), "--access-key-id is missing"),
        (("-r", "s3://backups", "--access-key-id", "A"), "--secret-access-key-file is missing"),
        (("-r", "s3://backups", "--endpoint-url", "s3.example.org"), "--endpoint-url: invalid URL"),
        (
            ("-r", "s3://backups", "--access-key-id", "A", "--secret-access-key-file", "/absent"),
            "cannot read /absent: No such file or directory",
        ),
        (
            ("-r", "s3://backups", "--credentials-file", "/absent"),
            "cannot read the credentials file /absent: No such file or directory",
        ),
        (("-r", "backups"), "invalid repository"),
        (("-r", "/x", "--domain", "a\nb"), "invalid value for jobs.nightly.domains"),
        (("-r", "/x", "--domain", "\udcff"), "an answer is not UTF-8"),
        (("-r", "/x\udcff"), "an answer is not UTF-8"),
    ],
)
def test_what_cannot_be_used_is_refused_before_anything_is_written(
    cli: CommandLine, host: Path, words: tuple[str, ...], message: str
) -> None:
    error = cli("config", "init", *words, "--json").error
    assert error["code"] == 2
    assert message in error["message"]
    assert {path.name for path in host.iterdir()} == {"programs"}


@pytest.mark.parametrize("option", ["--endpoint-url", "--region", "--access-key-id"])
def test_no_option_is_ignored_beside_a_credentials_file(cli: CommandLine, host: Path, option: str) -> None:
    words = ("-r", "s3://backups", "--credentials-file", str(host / "aws"), option, "https://s3.example.org")
    error = cli("config", "init", *words, "--json").error
    assert (error["code"], error["message"]) == (2, f"cannot use both {option} and a credentials file")
    assert {path.name for path in host.iterdir()} == {"programs"}


def test_a_temporary_access_key_is_refused(
    cli: CommandLine, host: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The nightly service would fail with it, although the shell that has the token can use it."""
    for name, value in (("ACCESS_KEY_ID", "ASIA"), ("SECRET_ACCESS_KEY", "x"), ("SESSION_TOKEN", "t")):
        monkeypatch.setenv(f"AWS_{name}", value)
    error = cli("config", "init", "-r", "s3://backups", "--json").error
    assert error["code"] == 2
    assert "it is temporary" in error["message"]
    assert {path.name for path in host.iterdir()} == {"programs"}
    assert cli("config", "init", "-r", "s3://backups", "--access-key-id", "AKIA", "--json").document


def test_a_timer_that_cannot_be_enabled(cli: CommandLine, host: Path, folder: Path) -> None:
    _systemctl(host, "echo 'Failed: Unit file does not exist.' >&2; exit 1")
    answer = cli("config", "init", "-r", str(folder), "--json")
    assert answer.error["message"] == f"cannot enable {TIMER}: Failed: Unit file does not exist"
    assert answer.document["timer"] is None
    assert len(answer.document["written"]) == 2  # they stay
    (host / "etc/puller.toml").unlink()
    (host / "credstore/puller-password").unlink()
    assert cli("config", "init", "-r", str(folder), "--no-timer", "--json").document["timer"] is None
