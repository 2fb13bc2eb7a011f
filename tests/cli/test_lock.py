"""``puller init`` with locks, ``puller lock`` and ``puller repair versions``."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from puller.cli.output.results.records import description
from tests.cli.conftest import CommandLine
from tests.lab.vault import Vault
from tests.overview.test_alarm import a_point


@pytest.fixture
def cli(
    empty_vault: Vault, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> CommandLine:
    monkeypatch.setenv("PULLER_CONFIG", "/dev/null")
    monkeypatch.setenv("PULLER_PASSWORD", "x")
    monkeypatch.setenv("PULLER_REPOSITORY", empty_vault.url)
    return CommandLine(capsys)


def test_a_policy_from_init_on(cli: CommandLine, empty_vault: Vault) -> None:
    made = cli("init", "--lock-mode", "governance", "--lock-days", "30")
    assert made.code == 0 and "locked for 30 days, governance" in made.out
    assert cli("lock", "--json").document == {"mode": "governance", "seconds": 30 * 86400.0}
    changed = cli("lock", "--lock-mode", "governance", "--lock-days", "40")
    assert changed.out == "new restore points are locked for 40 days, governance\n"
    assert cli("lock", "--off").out == "new restore points are not locked\n"
    assert cli("lock", "--json").document == {"mode": None, "seconds": None}


def test_a_hidden_repository_comes_back(cli: CommandLine, empty_vault: Vault) -> None:
    cli("init", "--lock-mode", "governance", "--lock-days", "1")
    empty_vault.delete_all()
    assert cli("points").code == 10
    back = cli("repair", "versions", "--json")
    assert back.code == 0
    assert back.document["brought_back"] == {"repository.json": 1, "keys/": 1, "locking/": 1}
    assert back.document["unreadable"] == [] and back.document["objects"] == 3
    assert cli("points").code == 0
    assert cli("repair", "versions", "--since", "yesterday").code == 2


def test_what_does_not_go_together_is_refused(
    cli: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli("init", "--lock-mode", "governance").code == 2
    assert cli("init", "--lock-days", "3").code == 2
    assert cli("lock", "--off", "--lock-mode", "governance", "--lock-days", "3").code == 2
    monkeypatch.setenv("PULLER_REPOSITORY", str(tmp_path / "repository"))
    refused = cli("init", "--lock-mode", "governance", "--lock-days", "3")
    assert refused.code == 14 and "only S3 buckets have Object Lock" in refused.err
    assert not (tmp_path / "repository").exists()


def test_show_says_until_when_a_point_is_locked() -> None:
    moment = datetime(2027, 1, 5, 14, 54, tzinfo=UTC)
    point = msgspec.structs.replace(a_point(1), locked_until=moment)
    assert "locked       until 2027-01-05 14:54 UTC" in description(point, moment).splitlines()
    assert "locked" not in description(a_point(1), moment)
