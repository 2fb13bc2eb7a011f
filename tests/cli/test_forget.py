"""``forget``: its document and its text. What it removes is the integration tests'."""

from __future__ import annotations

from pathlib import Path

import pytest

import puller
from puller.hypervisor.locking.lock import DomainLock, lock_directory
from puller.units import MIB
from tests.cli.conftest import CommandLine
from tests.lab.fixtures import MachineFactory
from tests.lab.machine import DiskSpec


@pytest.fixture(autouse=True)
def the_places_are_in_the_environment(
    repository: puller.Repository, folder: Path, libvirt_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PULLER_REPOSITORY", str(folder))
    monkeypatch.setenv("LIBVIRT_DEFAULT_URI", libvirt_uri)


def test_what_was_removed_is_in_the_document_and_in_the_text(
    cli: CommandLine, machine_factory: MachineFactory
) -> None:
    name = (machine := machine_factory(DiskSpec("vda", MIB), DiskSpec("vdb", MIB))).name
    checkpoint = cli("backup", name, "--json").document["points"][0]["checkpoint"]
    assert cli("forget", name, "--json").document == {
        "domain": name,
        "checkpoints": [checkpoint],
        "bitmaps": [{"disk": "vda", "bitmap": checkpoint}, {"disk": "vdb", "bitmap": checkpoint}],
    }
    empty = cli("forget", machine.uuid, "--json").document
    assert empty == {"domain": name, "checkpoints": [], "bitmaps": []}
    assert cli("forget", name).out == f"{name}: no checkpoint or bitmap of this repository\n"
    (again,) = cli("backup", name, "--json").document["points"]
    assert again["kind"] == "rehash"
    assert cli("forget", name).out.splitlines() == [
        f"{name}: removed checkpoint {again['checkpoint']}",
        f"{name}: removed bitmap {again['checkpoint']} from disk vda",
        f"{name}: removed bitmap {again['checkpoint']} from disk vdb",
    ]


def test_errors(cli: CommandLine, machine_factory: MachineFactory) -> None:
    machine = machine_factory(DiskSpec("vda", MIB))
    with DomainLock(machine.uuid, machine.name, lock_directory()):
        assert cli("forget", machine.name, "--json").error["code"] == 11
    assert cli("forget", "nobody", "--json").error["code"] == 16
    assert cli("forget", machine.name, "-r", "/nonexistent", "--json").error["code"] == 10
    assert cli("forget", "--json").error["code"] == 2
