"""Every command's JSON over one stored repository, member by member: what scripts of users rely on.

``PULLER_GOLDEN=write`` in the environment makes the repository and the answers anew; read the difference.
Messages and advice are for people and may change, so they are left out. So is ``doctor``: it describes hosts.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import puller
from puller.units import CHUNK, MIB
from tests.cli.conftest import CommandLine
from tests.lab.archive import make_point

HERE = Path(__file__).parent / "golden"
REPOSITORY = HERE / "repository"
ANSWERS = HERE / "answers.json"
PASSWORD = "correct horse"
WRITING = os.environ.get("PULLER_GOLDEN") == "write"

MORNING = datetime(2026, 3, 1, 5, 0, tzinfo=UTC)

COMMANDS = (
    "points",
    "points web1",
    "points nobody",
    "show web1@latest",
    "show web1@2026-03-01T06:00:00Z",
    "show db1@latest",
    "show ffff",
    "show",
    "stats",
    "check",
    "check --read-data",
    "prune --dry-run --keep-last 1",
    "prune --dry-run",
    "restore web1@latest --output OUT",
    "restore web1@latest --output OUT",
    "restore db1@latest --disk vda --output OUT/one.raw",
    "restore db1@latest --disk vdz --output OUT/other.raw",
    "key list",
    "repair index",
    "delete web1@2026-03-01T06:00:00Z",
    "delete web1@2026-03-01T06:00:00Z",
    "prune --keep-last 1 --grace 7d",
    "points --repository NOWHERE",
    "points --repository s3://",
    "init",
    "init --no-encryption --repository NEW",
    "backup web1 --connect qemu+unix:///system?socket=/nonexistent",
    "config check --config CONFIGURATION",
    "run nightly --config CONFIGURATION --connect qemu+unix:///system?socket=/nonexistent",
    "run weekly --config CONFIGURATION",
    "keep web1@latest --until 2999-12-31 --note audit",
    "points web1",
    "show web1@latest",
    "delete web1@latest",
    "keep web1@latest --until 2020-01-01",
    "release web1@latest",
    "release ffff",
)

CONFIGURATION = """
[repositories.main]
url = "{url}"
[jobs.nightly]
repository = "main"
domains = ["web*"]
keep = {{ daily = 7 }}
then = ["prune", "check"]
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the stored repository, which the environment names."""
    shutil.copytree(REPOSITORY, tmp_path / "repository")
    monkeypatch.setenv("PULLER_REPOSITORY", str(tmp_path / "repository"))
    monkeypatch.setenv("PULLER_PASSWORD", PASSWORD)
    monkeypatch.setenv("PULLER_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "puller.toml").write_text(CONFIGURATION.format(url=tmp_path / "repository"))
    return tmp_path


@pytest.fixture(autouse=True, scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Make the repository anew, if that is asked for."""
    if not WRITING:
        return
    folder = tmp_path_factory.mktemp("golden") / "repository"
    folder.mkdir()
    repository = puller.create_repository(str(folder), password=PASSWORD)
    first = b"a" * CHUNK + bytes(MIB) + b"b" * CHUNK
    make_point(repository, {"vda": first, "vdb": b"c" * 512}, "web1", MORNING, {"job": "nightly"}, "kvm1")
    make_point(repository, {"vda": first[:CHUNK]}, "db1", MORNING.replace(day=2), host="kvm1")
    make_point(repository, {"vda": first + b"d" * 999}, "web1", MORNING.replace(day=3), host="kvm1")
    shutil.rmtree(REPOSITORY, ignore_errors=True)
    shutil.copytree(folder, REPOSITORY)


def answers(cli: CommandLine, place: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for number, words in enumerate(COMMANDS):
        answer = cli(*(_placed(word, place) for word in words.split()), "--json")
        found[f"{number:02}: {words}"] = {
            "code": answer.code,
            "document": _bare(json.loads(answer.out), place),
        }
    return found


def _placed(word: str, place: Path) -> str:
    names = {"OUT": "out", "NOWHERE": "nowhere", "NEW": "new", "CONFIGURATION": "puller.toml"}
    return re.sub(r"^(OUT|NOWHERE|NEW|CONFIGURATION)\b", lambda match: str(place / names[match[1]]), word)


def _bare(value: Any, place: Path) -> Any:
    """The value without what differs from run to run, and without sentences."""
    if isinstance(value, dict):
        return {name: _member(name, member, place) for name, member in value.items()}
    if isinstance(value, list):
        return [_bare(item, place) for item in value]
    return value.replace(str(place), "PLACE") if isinstance(value, str) else value


def _member(name: str, value: Any, place: Path) -> Any:
    if name in ("message", "advice", "seconds", "reason", "why", "oldest_verified") and value:
        return type(value).__name__
    if name == "id" and isinstance(value, str):
        return "id"
    return _bare(value, place)


def test_documents_and_exit_codes(cli: CommandLine, place: Path) -> None:
    found = answers(cli, place)
    if WRITING:
        ANSWERS.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    for command, expected in json.loads(ANSWERS.read_text()).items():
        assert found[command] == expected, command
