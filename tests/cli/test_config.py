"""``config``, and what the configuration gives to all commands where option and environment are silent."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import puller
from puller.cli.input import access
from puller.cli.output.settings import Settings
from puller.configuration import file as configuration
from puller.errors import UsageError
from puller.store.base import Store
from puller.store.options import DEFAULTS, StoreOptions
from puller.units import MIB
from tests.cli.conftest import CommandLine
from tests.lab.archive import make_point


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "puller.toml"
    monkeypatch.setenv("PULLER_CONFIG", str(path))
    return path


def test_check_of_a_sound_file(cli: CommandLine, path: Path) -> None:
    path.write_text('[jobs.a]\ndomains = ["x"]\n')
    assert cli("config", "check", "--json").document == {"file": str(path), "jobs": ["a"], "mistakes": []}
    assert cli("config", "check", str(path)).out == f"{path} has no mistakes; jobs: a\n"


def test_check_tells_every_mistake(cli: CommandLine, path: Path) -> None:
    path.write_text('[jobs.a]\ndomains = []\n\n[jobs.b]\ndomain = ["x"]\n')
    answer = cli("config", "check", "--json")
    assert answer.error["code"] == 2
    assert [(mistake["line"], mistake["key"]) for mistake in answer.document["mistakes"]] == [
        (None, "jobs.a.domains"),
        (None, "jobs.b.domain"),
        (None, "jobs.b.domains"),
    ]
    assert cli("config", "check").out.count(f"{path}:") == 3
    # Any other command tells the first and that there are more.
    error = cli("points", "--json").error
    assert error["message"].startswith(f"{path}: invalid value for jobs.a.domains: [] (and 2 more")


def test_the_example_is_sound(cli: CommandLine, path: Path) -> None:
    path.write_text(cli("config", "example").out)
    assert cli("config", "check", "--json").document["jobs"] == ["nightly"]
    assert cli("config", "example", "--json").document["example"].rstrip() == path.read_text().rstrip()


def test_a_file_that_is_not_there(
    cli: CommandLine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    repository: puller.Repository,
    folder: Path,
) -> None:
    error = cli("points", "-r", str(folder), "--config", "/nonexistent", "--json").error
    assert (error["code"], "/nonexistent" in error["message"]) == (2, True)
    # The one that nobody names need not be there.
    monkeypatch.setattr(configuration, "DEFAULT_PATH", tmp_path / "nothing")
    assert cli("points", "-r", str(folder)).code == 0
    assert cli("config", "check", "--json").error["code"] == 2
    assert "there is no configuration" in cli("run", "nightly", "--json").error["message"]
    (tmp_path / "nothing").write_text(f'[repositories.main]\nurl = "{folder}"\n')
    assert cli("points").code == 0


def test_the_repository_by_its_name(
    cli: CommandLine, path: Path, repository: puller.Repository, folder: Path
) -> None:
    path.write_text(f'[repositories.main]\nurl = "{folder}"\n[repositories.other]\nurl = "/nonexistent"\n')
    assert cli("points", "-r", "main", "--json").document == {"points": []}
    assert cli("points", "-r", "other", "--json").error["code"] == 10
    error = cli("points", "--json").error
    assert error["message"] == "no repository given, and the configuration has several: main, other"
    assert "[defaults]" in error["advice"]
    error = cli("points", "-r", "mains", "--json").error
    assert (error["code"], error["advice"]) == (2, "Check the spelling: did you mean 'main'?")
    assert "cannot find repository mains" in error["message"]
    assert "[repositories]" in cli("status", "-r", "main", "--also", "x", "--json").error["advice"]
    path.write_text(f'[defaults]\nrepository = "{folder}"\n')
    assert cli("points").code == 0
    path.write_text(f'[repositories.the-only-one]\nurl = "{folder}"\n')
    assert cli("points").code == 0


def test_a_user_who_may_not_read_the_configuration(
    cli: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root reads everything, so the refusal is played."""
    withheld = tmp_path / "withheld.toml"

    def refuse(path: Path) -> bytes:
        assert path == withheld
        raise PermissionError(13, "Permission denied")

    monkeypatch.delenv("PULLER_CONFIG", raising=False)
    monkeypatch.setattr(configuration, "DEFAULT_PATH", withheld)
    with monkeypatch.context() as patched:
        patched.setattr(Path, "read_bytes", refuse)
        error = cli("points", "--json").error
    assert error["message"] == "no repository given, and this user may not read the configuration"
    assert error["advice"].startswith("Run the command as root")


def test_how_much_of_the_index_this_host_keeps(
    cli: CommandLine,
    path: Path,
    repository: puller.Repository,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    budgets: list[int] = []

    def open_noted(settings: Settings) -> puller.Repository:
        opened = access.open_repository(settings)
        budgets.append(opened.index_budget)
        return opened

    monkeypatch.setattr("puller.cli.commands.points.open_repository", open_noted)
    for line in ("", 'index-budget = "1.5G"\n'):
        path.write_text(f'[repositories.main]\nurl = "{folder}"\n{line}')
        assert cli("points").code == 0
        assert cli("points", "-r", f"file://{folder}").code == 0
    assert budgets == [256 * MIB, 256 * MIB, 1536 * MIB, 1536 * MIB]
    with pytest.raises(UsageError, match="cannot keep an index"):
        puller.open_repository(str(folder), index_budget=1000)


def test_the_options_of_the_store_reach_every_opening(
    cli: CommandLine, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[tuple[str, StoreOptions]] = []

    def open_noted(url: str, options: StoreOptions = DEFAULTS) -> Store:
        opened.append((url, options))
        raise UsageError("enough")

    for module in ("puller.api.repositories", "puller.store.location"):
        monkeypatch.setattr(f"{module}.open_store", open_noted)
    path.write_text(
        '[repositories.main]\nurl = "s3://backups/kvm"\nstorage-class = "STANDARD_IA"\nconnections = 4\n'
    )
    monkeypatch.setenv("PULLER_CONNECTIONS", "9")
    for words in (
        ("init", "--no-encryption"),
        ("points",),
        ("doctor",),
        ("points", "-r", "s3://backups/kvm"),
    ):
        assert cli(*words, "--json").error["message"] == "enough"
    assert opened == [("s3://backups/kvm", StoreOptions(storage_class="STANDARD_IA", connections=9))] * 4
    opened.clear()
    assert cli("points", "-r", "s3://backups/other", "--json").error["message"] == "enough"
    assert opened == [("s3://backups/other", StoreOptions(connections=9))]
    monkeypatch.setenv("PULLER_STORAGE_CLASS", "GLACIER")
    assert cli("points", "--json").error["code"] == 2


@pytest.mark.parametrize("kind", ["password-file", "key-file"])
def test_the_secret_of_a_repository(
    cli: CommandLine, path: Path, tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"0123456789abcdef0123456789abcdef")
    path.write_text(f'[repositories.main]\nurl = "{folder}"\n{kind} = "{secret}"\n')
    assert cli("init", "--json").document["encrypted"] is True
    assert cli("points").code == 0
    # It belongs to the repository, however that is named.
    assert cli("points", "-r", str(folder)).code == 0
    # Nor however its URL is written.
    assert cli("points", "-r", f"{folder}/").code == 0
    assert cli("points", "-r", f"file://{folder}").code == 0
    # The credential of a service is for all repositories that have none of their own.
    (tmp_path / "puller-password").write_text("another")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert cli("points").code == 0
    monkeypatch.setenv("PULLER_PASSWORD", "another")
    error = cli("points", "--json").error
    assert (error["code"], "from PULLER_PASSWORD" in error["message"]) == (12, True)
    monkeypatch.delenv("PULLER_PASSWORD")
    secret.unlink()
    assert str(secret) in cli("points", "--json").error["message"]


def test_option_before_environment_before_file(
    cli: CommandLine, path: Path, repository: puller.Repository, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.write_text('[defaults]\nrepository = "/the-file"\nconnect = "test:///file"\nverbosity = "quiet"\n')
    assert "/the-file" in cli("points", "--json").error["message"]
    monkeypatch.setenv("PULLER_REPOSITORY", "/the-environment")
    assert "/the-environment" in cli("points", "--json").error["message"]
    assert cli("points", "-r", str(folder)).code == 0
    assert "test:///file" in cli("backup", "x", "-r", str(folder), "--json").error["message"]
    monkeypatch.setenv("LIBVIRT_DEFAULT_URI", "test:///environment")
    assert "test:///environment" in cli("backup", "x", "-r", str(folder), "--json").error["message"]
    words = ("backup", "x", "-r", str(folder), "-c", "test:///option", "--json")
    assert "test:///option" in cli(*words).error["message"]


def test_how_much_is_told(
    cli: CommandLine, path: Path, repository: puller.Repository, folder: Path, tmp_path: Path
) -> None:
    point = make_point(repository, {"vda": b"x"}).point

    def told(verbosity: str, *options: str) -> str:
        path.write_text(f'[defaults]\nrepository = "{folder}"\nverbosity = "{verbosity}"\n')
        output = tmp_path / str(len(list(tmp_path.iterdir())))  # a new one each time
        return cli("restore", point, "--disk", "vda", "-o", str(output), *options, "--json").err

    assert told("quiet") == ""
    assert told("normal").count("\n") == 1
    assert told("verbose").count("\n") > 1
    assert told("verbose", "-q") == ""


def test_progress_as_json(
    cli: CommandLine,
    path: Path,
    repository: puller.Repository,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    point = make_point(repository, {"vda": bytes(100_000) + b"x"}).point
    path.write_text("")
    words = ("restore", point, "-r", str(folder), "-o", str(tmp_path / "out"), "--force")
    answer = cli(*words, "--progress", "json")
    documents = [json.loads(line) for line in answer.err.splitlines()]
    assert all(document["time"].endswith("Z") for document in documents)
    (plan,) = [document for document in documents if document["event"] == "plan"]
    assert (plan["domain"], plan["disk"], plan["size"]) == (point, "vda", 100_001)
    progress = [document for document in documents if document["event"] == "progress"]
    assert progress[-1]["done"] == plan["total"]
    assert [document["event"] for document in documents[-2:]] == ["done", "notice"]
    # The environment and the file can ask for it too, and errors come in the same form.
    monkeypatch.setenv("PULLER_PROGRESS", "json")
    (error,) = map(json.loads, cli("points", "-r", "/nonexistent").err.splitlines())
    assert (error["event"], error["name"], error["code"]) == ("error", "NoRepository", 10)
    monkeypatch.setenv("PULLER_PROGRESS", "lines")
    path.write_text('[defaults]\nprogress = "json"\n')
    assert cli("points", "-r", "/nonexistent").err.startswith("puller: ")
    monkeypatch.setenv("PULLER_PROGRESS", "bars")
    assert "PULLER_PROGRESS" in cli("points", "--json").error["message"]
