"""A store that takes "only if absent" and does not honour it: found by init, recorded, told ever after."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from puller.store.base import Body
from puller.store.folder import FolderStore
from tests.cli.conftest import CommandLine


def test_it_is_found_recorded_and_told(
    cli: CommandLine, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def put_all_the_same(store: FolderStore, key: str, body: Body) -> None:
        store.put(key, body)

    monkeypatch.setattr(FolderStore, "put_new", put_all_the_same)
    monkeypatch.setenv("PULLER_REPOSITORY", str(folder))
    assert "conditional writes" in cli("init", "--no-encryption").err
    assert json.loads((folder / "repository.json").read_text())["conditional_writes"] is False
    pruned = cli("prune", "--json")
    assert "conditional writes" in pruned.err
    assert pruned.code == 0

    monkeypatch.undo()
    monkeypatch.setenv("PULLER_REPOSITORY", str(tmp_path / "other"))
    assert "conditional" not in cli("init", "--no-encryption").err
    assert "conditional" not in cli("prune").err
