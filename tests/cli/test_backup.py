"""``backup``: one domain, several, and some that fail. The points themselves are the integration tests'."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import puller
from puller.hypervisor.locking.lock import DomainLock, lock_directory
from puller.units import MIB
from tests.cli.conftest import CommandLine
from tests.lab.fixtures import MachineFactory
from tests.lab.machine import DiskSpec, Machine


@pytest.fixture(autouse=True)
def the_places_are_in_the_environment(
    repository: puller.Repository, folder: Path, libvirt_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PULLER_REPOSITORY", str(folder))
    monkeypatch.setenv("LIBVIRT_DEFAULT_URI", libvirt_uri)


@pytest.fixture
def machine(machine_factory: MachineFactory) -> Iterator[Machine]:
    made = machine_factory(DiskSpec("vda", 4 * MIB), DiskSpec("vdb", MIB))
    made.write("vda", 7, 0, MIB)
    yield made


def test_one_domain(cli: CommandLine, machine: Machine, repository: puller.Repository) -> None:
    document = cli("backup", machine.name, "--tag", "why=test", "--tag", "x=a=b", "--json").document
    assert document.keys() == {"points", "failed"}
    assert document["failed"] == []
    (record,) = document["points"]
    assert (record["domain"], record["uuid"]) == (machine.name, machine.uuid)
    assert record["tags"] == {"why": "test", "x": "a=b"}
    assert [disk["disk"] for disk in record["disks"]] == ["vda", "vdb"]
    assert [point.point for point in puller.list_points(repository)] == [record["point"]]


def test_disks_are_chosen_and_fulls_asked_for(cli: CommandLine, machine: Machine) -> None:
    def kinds(*options: str) -> dict[str, str]:
        (record,) = cli("backup", machine.name, *options, "--json").document["points"]
        return {disk["disk"]: disk["kind"] for disk in record["disks"]}

    assert kinds("--disk", "vdb") == {"vdb": "full"}
    assert kinds("--exclude-disk", "vda", "--mode", "pull") == {"vdb": "incremental"}
    assert kinds("--full") == {"vda": "full", "vdb": "full"}
    assert kinds("--disk", "vda", "--disk", "vdb") == {"vda": "incremental", "vdb": "incremental"}


def test_effort_and_limits(cli: CommandLine, machine: Machine) -> None:
    limits = ("--pace", "1G", "--limit-upload", "1G")
    for level in ("19", "auto"):
        assert cli("backup", machine.name, "--full", "--compression", level, *limits, "--json").code == 0
    for wrong in (("--compression", "0"), ("--compression", "best"), ("--pace", "fast")):
        assert cli("backup", machine.name, *wrong, "--json").code == 2


def test_scratch_goes_where_it_is_told(cli: CommandLine, machine: Machine, tmp_path: Path) -> None:
    assert cli("backup", machine.name, "--scratch-dir", str(tmp_path), "--json").code == 0
    assert cli("backup", machine.name, "--scratch-dir", str(tmp_path / "nothing"), "--json").code not in (
        0,
        1,
    )


def test_a_push_leaves_its_images_where_it_is_told(
    cli: CommandLine, machine: Machine, tmp_path: Path
) -> None:
    document = cli("backup", machine.name, "--mode", "push", "--json").document
    assert document.keys() == {"points", "failed"}
    assert document["points"][0]["mode"] == "push"
    machine.flush()  # as a guest does; a push waits for that before it compares
    staging = tmp_path / "staging"
    staging.mkdir()
    choices = ("--mode", "push", "--staging-dir", str(staging), "--keep-staging")
    answer = cli("backup", machine.name, *choices, "--disk", "vda", "--json")
    (kept,) = answer.document["kept"]
    assert (kept["domain"], kept["disk"]) == (machine.name, "vda")
    assert list(staging.iterdir()) == [Path(kept["path"])]
    assert f"{machine.name}: the pushed image of disk vda is kept as {kept['path']}\n" in answer.err


def test_tells_each_disk_and_the_point(cli: CommandLine, machine: Machine) -> None:
    answer = cli("backup", machine.name)
    assert answer.out.startswith(f"{machine.name}: 20")
    assert "(full, vda,vdb)" in answer.out
    assert [line.split(": ")[:2] for line in answer.err.splitlines()] == [
        [machine.name, "vda"],
        [machine.name, "vdb"],
    ]
    verbose = cli("backup", machine.name, "-v").err
    assert f"{machine.name}: commit\n" in verbose
    assert cli("backup", machine.name, "-q").err == ""


def test_what_is_told_as_read_was_read(cli: CommandLine, machine: Machine) -> None:
    """Zeros cost nothing: neither the empty part of a disk, nor what an incremental finds zeroed."""
    (line,) = cli("backup", machine.name, "--disk", "vda").err.splitlines()
    assert line.startswith(f"{machine.name}: vda: 1.0 MiB read, ")
    machine.discard("vda", 0, MIB)
    (line,) = cli("backup", machine.name, "--disk", "vda").err.splitlines()
    assert line.startswith(f"{machine.name}: vda: 0 B read, ")


def test_an_unknown_domain(cli: CommandLine) -> None:
    answer = cli("backup", "nosuch", "--json")
    assert (answer.error["code"], answer.error["name"]) == (16, "NoSuchDomain")
    assert answer.document["points"] == []
    assert answer.document["failed"] == [{"domain": "nosuch", "error": answer.error}]
    assert answer.err.count("nosuch") == 1


def test_an_unknown_disk(cli: CommandLine, machine: Machine) -> None:
    answer = cli("backup", machine.name, "--disk", "vdz", "--json")
    assert (answer.error["code"], answer.error["name"]) == (16, "NoSuchDisk")


def test_a_disk_is_excluded_that_one_of_several_domains_has(
    cli: CommandLine, machine: Machine, machine_factory: MachineFactory
) -> None:
    other = machine_factory(DiskSpec("vda", MIB))
    only = cli("backup", other.name, "--exclude-disk", "vdb", "--json")
    assert (only.error["code"], only.error["name"]) == (16, "NoSuchDisk")
    both = cli("backup", machine.name, other.name, "--exclude-disk", "vdb", "--json")
    assert both.code == 0, both.err
    assert [[disk["disk"] for disk in point["disks"]] for point in both.document["points"]] == [["vda"]] * 2


def test_one_that_fails_does_not_stop_the_rest(
    cli: CommandLine, machine: Machine, repository: puller.Repository
) -> None:
    answer = cli("backup", "nosuch", machine.name, machine.name, "--json")
    assert (answer.error["code"], answer.error["name"]) == (3, "PartialFailure")
    assert [record["domain"] for record in answer.document["points"]] == [machine.name]
    (failed,) = answer.document["failed"]
    assert (failed["domain"], failed["error"]["code"]) == ("nosuch", 16)
    assert len(puller.list_points(repository)) == 1
    assert "puller: nosuch: " in answer.err


def test_all_of_several_fail(cli: CommandLine) -> None:
    answer = cli("backup", "nosuch", "neither", "--json")
    assert answer.error["code"] == 16
    assert [failed["domain"] for failed in answer.document["failed"]] == ["nosuch", "neither"]


def test_a_bug_met_in_one_domain_does_not_stop_the_rest(
    cli: CommandLine, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    from puller import api

    real = api.backup

    def buggy(repository: puller.Repository, domain: str, **choices: object) -> puller.Point:
        if domain == "buggy":
            raise ZeroDivisionError("a bug")
        return real(repository, domain, **choices)  # type: ignore[arg-type]

    monkeypatch.setattr(api, "backup", buggy)
    answer = cli("backup", "buggy", machine.name, "--json")
    assert answer.code == 3
    assert answer.document["failed"][0]["error"]["name"] == "InternalError"
    assert len(answer.document["points"]) == 1


def test_a_domain_that_another_run_holds(cli: CommandLine, machine: Machine) -> None:
    with DomainLock(machine.uuid, machine.name, lock_directory()):
        error = cli("backup", machine.name, "--json").error
    assert (error["code"], error["name"], error["retryable"]) == (11, "Locked", True)
    assert machine.name in error["message"]


@pytest.mark.parametrize("uri", ["qemu+unix:///system?socket=/nonexistent", "nonsense:///system"])
def test_libvirt_cannot_be_reached(cli: CommandLine, uri: str) -> None:
    answer = cli("backup", "web1", "-c", uri, "--json")
    assert answer.error["code"] == 15
    assert uri in answer.error["message"]


@pytest.mark.usefixtures("job_without_end")
def test_a_job_that_cannot_be_ended(
    cli: CommandLine, machine: Machine, repository: puller.Repository
) -> None:
    """The point stands and is told, and so is the one thing that is left to do."""
    answer = cli("backup", machine.name, "--json")
    (stored,) = puller.list_points(repository)
    assert (answer.code, answer.error["name"]) == (17, "JobLeftOpen")
    assert answer.error["message"] == (
        f"point {stored.point} of domain {machine.name} is stored, but its backup job cannot be ended: "
        "cannot acquire state change lock"
    )
    assert answer.error["advice"].startswith(f"Run 'virsh domjobabort {machine.name}' before")
    assert [point["point"] for point in answer.document["points"]] == [stored.point]
    assert answer.document["failed"] == []
    (left,) = answer.document["left"]
    assert (left["domain"], left["error"]) == (machine.name, answer.error)
