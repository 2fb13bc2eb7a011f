"""A job, and a machine that it can back up."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import puller
from puller.units import MIB
from tests.cli.run.setting import Setting
from tests.lab.fixtures import MachineFactory
from tests.lab.machine import DiskSpec, Machine
from tests.lab.web import Web, web_server


@pytest.fixture
def setting(
    tmp_path: Path,
    folder: Path,
    repository: puller.Repository,
    libvirt_uri: str,
    monkeypatch: pytest.MonkeyPatch,
) -> Setting:
    path = tmp_path / "puller.toml"
    monkeypatch.setenv("PULLER_CONFIG", str(path))
    return Setting(path, folder, libvirt_uri)


@pytest.fixture
def machine(machine_factory: MachineFactory) -> Iterator[Machine]:
    made = machine_factory(DiskSpec("vda", 4 * MIB), DiskSpec("vdb", MIB))
    made.write("vda", 7, 0, MIB)
    yield made


@pytest.fixture
def web() -> Iterator[Web]:
    with web_server() as server:
        yield server
