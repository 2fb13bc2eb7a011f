"""``doctor``: what it prints and how it exits. What it finds is tested in tests/diagnosis."""

from __future__ import annotations

from pathlib import Path

import pytest

import puller
from puller.units import MIB
from tests.cli.conftest import CommandLine
from tests.lab.fixtures import MachineFactory
from tests.lab.machine import DiskSpec

pytestmark = pytest.mark.usefixtures("repository_in_the_environment")


def test_a_sound_host_and_then_one_with_faults(
    cli: CommandLine,
    repository: puller.Repository,
    machine_factory: MachineFactory,
    libvirt_uri: str,
    tmp_path: Path,
) -> None:
    machine = machine_factory(DiskSpec("vda", 4 * MIB))
    puller.backup(repository, machine.name, connect=libvirt_uri)
    arguments = ["doctor", machine.name, machine.name, "-c", libvirt_uri]
    sound = cli(*arguments, "--json").document["checks"]
    assert {check["status"] for check in sound} == {"ok"}
    assert all(check.keys() == {"name", "subject", "status", "finding", "advice"} for check in sound)
    assert len({(check["name"], check["subject"]) for check in sound}) == len(sound)
    quiet, whole = cli(*arguments), cli(*arguments, "-v")
    assert quiet.out == f"{len(sound)} checks: {len(sound)} ok, 0 warn, 0 fail\n"
    assert len(whole.out.splitlines()) == len(sound) + 1
    machine.forget_checkpoints()
    warned = cli(*arguments)
    assert warned.code == 0
    assert f"warn  disk-base {machine.name}/vda: " in warned.out
    failed = cli(*arguments, "nonsense", "--scratch-dir", str(tmp_path / "missing"), "--json")
    assert (failed.error["code"], failed.error["name"]) == (1, "ChecksFailed")
    faults = [check for check in failed.document["checks"] if check["status"] == "fail"]
    assert {check["subject"] for check in faults} == {machine.name, "nonsense"}
    assert failed.error["advice"] == faults[0]["advice"]


def test_a_job_is_examined_as_it_would_run(
    cli: CommandLine,
    repository: puller.Repository,
    folder: Path,
    machine_factory: MachineFactory,
    libvirt_uri: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machine = machine_factory(DiskSpec("vda", MIB), DiskSpec("vdb", MIB, "raw"))
    monkeypatch.delenv("PULLER_REPOSITORY")
    monkeypatch.setenv("PULLER_CONFIG", str(tmp_path / "puller.toml"))

    def found(lines: str, *domains: str, defaults: str = "") -> dict[str, str]:
        """What is not well with the machine, by the question."""
        places = f'repository = "{folder}"\nconnect = "{libvirt_uri}"'
        (tmp_path / "puller.toml").write_text(f"[defaults]\n{defaults}\n[jobs.nightly]\n{places}\n{lines}")
        checks = cli("doctor", "--job", "nightly", *domains, "--json").document["checks"]
        assert {check["status"] for check in checks if check["name"] == "repository"} == {"ok"}
        faults = [check for check in checks if check["status"] != "ok" and check["name"] != "last-point"]
        return {
            f"{check['name']} {check['subject'].removeprefix(machine.name)}": check["status"]
            for check in faults
        }

    mine = f'domains = ["{machine.name[:-1]}*", "{machine.uuid}"]\n'
    assert found(mine) == {"disk-format /vdb": "warn"}
    assert found(f'{mine}exclude-disks = ["vdb"]') == {}
    assert found(f'{mine}disks = ["vda", "vdz"]') == {"disks ": "fail"}
    assert found(f'{mine}disks = ["vda"]\nexclude-disks = ["vdz"]') == {
        f"exclude-disks {libvirt_uri}": "warn"
    }
    only = f'{mine}disks = ["vda"]\n'
    assert "scratch-space " in found(only, defaults='scratch-dir = "/nonexistent"')
    assert found(f'{only}staging-dir = "/nonexistent"') == {}
    assert "scratch-space " in found(f'{only}staging-dir = "/nonexistent"\nmode = "push"')
    assert found(f'{only}exclude = ["{machine.name}"]').keys() == {f"domains {libvirt_uri}"}
    assert found('domains = ["gone"]\n') == {"domain gone": "fail"}
    assert found('domains = ["gone"]\nexclude-disks = ["vdb"]', machine.name) == {}


def test_no_repository_and_no_libvirt_are_findings(cli: CommandLine) -> None:
    answer = cli("doctor", "-c", "qemu+unix:///system?socket=/nonexistent", "--json")
    assert answer.error["code"] == 1
    failed = {check["name"] for check in answer.document["checks"] if check["status"] == "fail"}
    assert failed >= {"repository", "connection"}


def test_a_repository_has_to_be_named(cli: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PULLER_REPOSITORY")
    assert cli("doctor", "--json").error["code"] == 2


def test_the_store_is_exercised(cli: CommandLine, repository: puller.Repository, folder: Path) -> None:
    before = sorted(folder.rglob("*"))
    whole = cli("doctor", "--exercise-store", "1M", "--json")
    assert whole.code == 0
    assert whole.err.startswith(f"exercising {folder} under locks/exercise-")
    assert {check["status"] for check in whole.document["checks"]} == {"ok"}
    figures = whole.document["exercise"]
    assert figures.keys() == {"requests", "bytes_written", "bytes_read", "seconds", "latency", "throughput"}
    assert [item["operation"] for item in figures["latency"]] == ["put", "read", "lookup", "list"]
    assert [rate["connections"] for rate in figures["throughput"]] == [1, 2, 4, 8, 16]
    text = cli("doctor", "--exercise-store", "1M", "-q")
    assert text.err == ""
    heads = ["4 KiB      MIN  MEDIAN", "CONNECTIONS", "24 checks: 24 ok, 0 warn, 0 fail"]
    assert [head for head in heads if head.split()[0] in text.out] == heads
    assert sorted(folder.rglob("*")) == before


def test_an_exercise_that_fails_exits_as_doctor_does(cli: CommandLine, folder: Path) -> None:
    answer = cli("doctor", "--exercise-store", "--json")
    assert (answer.error["code"], answer.error["name"]) == (1, "ChecksFailed")
    assert answer.document["checks"][-1] == {
        "name": "exercise",
        "subject": str(folder),
        "status": "fail",
        "finding": "not tried, because there is no repository",
        "advice": "Create the repository with 'puller init' first, or correct the URL.",
    }


@pytest.mark.parametrize("words", [("1G", "web1"), ("1G", "--scratch-dir", "/x"), ("web1",), ("10K",)])
def test_an_exercise_takes_a_size_and_no_domain(cli: CommandLine, words: tuple[str, ...]) -> None:
    assert cli("doctor", "--exercise-store", *words, "--json").error["code"] == 2
