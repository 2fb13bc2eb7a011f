"""A store that ignores or refuses "only if absent": found by init, recorded, told ever after."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from puller.errors import UnsupportedByStore
from puller.store.base import Body
from puller.store.directory.folder import FolderStore
from puller.units import MIB
from tests.cli.conftest import CommandLine
from tests.lab.fixtures import MachineFactory
from tests.lab.machine import DiskSpec


def ignore_it(store: FolderStore, key: str, body: Body) -> None:
    store.put(key, body)


def refuse_it(store: FolderStore, key: str, body: Body) -> None:
    """As Backblaze B2 does."""
    raise UnsupportedByStore("A header you provided implies functionality that is not implemented")


@pytest.mark.parametrize("put_new", [ignore_it, refuse_it])
def test_it_is_found_recorded_and_told(
    put_new: Callable[[FolderStore, str, Body], None],
    cli: CommandLine,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(FolderStore, "put_new", put_new)
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


def test_everything_works_where_it_is_refused(
    cli: CommandLine,
    folder: Path,
    tmp_path: Path,
    machine_factory: MachineFactory,
    libvirt_uri: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(FolderStore, "put_new", refuse_it)
    monkeypatch.setenv("PULLER_REPOSITORY", str(folder))
    monkeypatch.setenv("PULLER_KEY_FILE", str(tmp_path / "first"))
    monkeypatch.setenv("LIBVIRT_DEFAULT_URI", libvirt_uri)
    for number, name in enumerate(("first", "second")):
        (tmp_path / name).write_bytes(bytes([number]) * 32)
    machine = machine_factory(DiskSpec("vda", MIB))
    machine.write("vda", 7, 0, MIB // 2)
    for line in (
        "init",
        f"key add --new-key-file {tmp_path / 'second'}",
        f"backup {machine.name}",
        f"restore {machine.name}@latest -o {tmp_path / 'out'} --format raw",
        "prune --keep-last 1 --grace 0",
        "repair index",
        "check --read-data",
    ):
        assert cli(*line.split()).code == 0, line
    assert (tmp_path / "out" / "vda.raw").read_bytes() == b"\x07" * (MIB // 2) + bytes(MIB // 2)
