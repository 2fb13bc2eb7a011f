"""``puller boot``: what is refused, and the list. ``tests/integration/test_booting.py`` boots machines."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

import puller
from puller.recovery.booting import record
from puller.recovery.booting.held import machine_held
from tests.cli.conftest import CommandLine
from tests.lab.archive import make_point
from tests.lab.booted_record import booted


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PULLER_STATE_DIR", str(tmp_path / "state"))
    return tmp_path / "state" / "booted"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "boot needs a POINT, --list, --resume or --discard"),
        (["web1@latest", "--list"], "cannot combine --list and POINT"),
        (["--resume", "web1-boot", "--discard", "web1-boot"], "cannot combine --resume and --discard"),
        (["--discard", "web1-boot", "--keep"], "cannot combine --discard and --keep"),
        (["--resume", "web1-boot", "--name", "other"], "cannot combine --resume and --name"),
        (["web1@latest", "--limit", "1M"], "--limit needs --keep"),
        (["web1@latest", "--memory", "0"], "--memory"),
    ],
)
def test_options_that_do_not_go_together(cli: CommandLine, arguments: list[str], message: str) -> None:
    error = cli("boot", *arguments, "--json").error
    assert error["code"] == 2
    assert message in error["message"]


@pytest.mark.parametrize("way", ["--resume", "--discard"])
def test_a_machine_that_was_not_booted(cli: CommandLine, way: str) -> None:
    error = cli("boot", way, "web1-boot", "--json").error
    assert (error["code"], error["name"]) == (16, "NotBooted")


def test_the_list_where_libvirt_does_not_answer(cli: CommandLine) -> None:
    assert cli("boot", "--list", "--json").document == {"booted": []}
    assert cli("boot", "--list").out == "no machine was booted from a restore point\n"
    machine = booted(record.make_folder(None, "web1-boot"), state="standalone", connect="qemu:///nowhere")
    record.write(machine)
    (listed,) = cli("boot", "--list", "--json").document["booted"]
    assert listed == {
        "domain": "web1-boot",
        "uuid": machine.uuid,
        "point": machine.point,
        "state": "standalone",
        "overlays": {"vda": machine.disks[0].overlay},
        "active": None,
        "served": False,
        "repository": "/srv/backups",
        "storage": machine.storage,
        "created": "2026-11-28T00:00:00Z",
    }
    head, line = cli("boot", "--list").out.splitlines()
    assert head.split() == ["NAME", "STATE", "POINT", "SERVED", "STORAGE"]
    assert line.split()[:3] == ["web1-boot", "standing", "alone"]


def test_a_machine_of_another_repository_is_not_resumed_with_this_one(
    cli: CommandLine, repository: puller.Repository, folder: Path
) -> None:
    record.write(booted(record.make_folder(None, "web1-boot"), connect="qemu:///nowhere"))
    error = cli("boot", "--resume", "web1-boot", "-r", str(folder), "--json").error
    assert error["code"] == 2
    assert "was booted from the repository /srv/backups" in error["message"]


@pytest.mark.parametrize("way", ["--resume", "--discard"])
def test_a_machine_that_another_puller_puts_together(
    cli: CommandLine, repository: puller.Repository, folder: Path, way: str
) -> None:
    made = booted(record.make_folder(None, "web1-boot"), state="standalone", connect="qemu:///nowhere")
    machine = msgspec.structs.replace(made, repository=repository.store.url, connect="test:///default")
    record.write(machine)
    with machine_held(machine):
        error = cli("boot", way, "web1-boot", "-r", str(folder), "--json").error
    assert (error["code"], error["name"], error["retryable"]) == (11, "Locked", True)
    assert "machine web1-boot is being booted, resumed or discarded by" in error["message"]
    assert record.read("web1-boot") == machine


def test_a_point_without_disks_is_refused_before_anything_is_made(
    cli: CommandLine, repository: puller.Repository, folder: Path, home: Path
) -> None:
    point = make_point(repository, {})
    error = cli("boot", point.point, "-r", str(folder), "--json").error
    assert error["code"] == 2
    assert "has no disks to boot from" in error["message"]
    assert not home.exists()
