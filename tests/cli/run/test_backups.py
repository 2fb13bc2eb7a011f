"""The backups of a job, on real QEMU."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import puller
from puller.hypervisor.locking.lock import JobLock
from puller.units import MIB
from tests.cli.conftest import CommandLine
from tests.cli.run.setting import Setting
from tests.lab.fixtures import MachineFactory
from tests.lab.machine import DiskSpec, Machine
from tests.lab.web import Web


def test_all_matching_domains_several_at_a_time(
    cli: CommandLine, setting: Setting, machine_factory: MachineFactory, repository: puller.Repository
) -> None:
    machines = [machine_factory(DiskSpec("vda", MIB)) for _ in range(4)]
    left_out = machines[3].name
    setting.job(f'domains = ["{machines[0].uuid}", "vm*"]\nexclude = ["{left_out}"]\nparallel = 2')
    document = cli("run", "nightly", "--json").document
    names = {machine.name for machine in machines[:3]}
    # The first is named by its UUID too, yet taken once.
    assert sorted(record["domain"] for record in document["points"]) == sorted(names)
    assert document["job"] == "nightly"
    assert (document["failed"], document["failures"]) == ([], [])
    assert (document["prune"], document["check"]) == (None, None)
    assert {point.tags["job"] for point in puller.list_points(repository)} == {"nightly"}


def test_a_point_that_looks_wrong_is_told(
    cli: CommandLine, setting: Setting, machine: Machine, repository: puller.Repository, tmp_path: Path
) -> None:
    metrics = tmp_path / "puller.prom"
    setting.job(f'domains = ["{machine.name}"]\nmetrics-file = "{metrics}"')
    well = cli("run", "nightly", "--json")
    assert well.document["alarms"] == []
    assert f'puller_backup_alarms{{domain="{machine.name}",job="nightly"}} 0.0' in metrics.read_text()
    setting.job(f'domains = ["{machine.name}"]\nmetrics-file = "{metrics}"\nexclude-disks = ["vdb"]')
    wrong = cli("run", "nightly", "--json")
    assert wrong.code == 0, "a sign is no failure"
    (alarm,) = wrong.document["alarms"]
    assert alarm == {
        "domain": machine.name,
        "point": wrong.document["points"][0]["point"],
        "sign": "size",
        "text": "disk vdb is not in the point any more",
    }
    assert "the point looks wrong: disk vdb is not in the point any more" in wrong.err
    assert f'puller_backup_alarms{{domain="{machine.name}",job="nightly"}} 1.0' in metrics.read_text()


def test_who_is_told_that_a_run_failed_or_is_well_again(
    cli: CommandLine,
    setting: Setting,
    machine: Machine,
    web: Web,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("PULLER_STATE_DIR", str(tmp_path / "state"))
    told = f'notify = {{ webhook = "{web.url}/hook", ping = "{web.url}/ping" }}'
    for domains in (machine.name, "gone", machine.name):
        setting.job(f'domains = ["{domains}"]\n{told}')
        cli("run", "nightly", "--json")
    hooks = [json.loads(text) for path, text in web.posted if path == "/hook"]
    assert [(hook["job"], hook["state"]) for hook in hooks] == [("nightly", "failed"), ("nightly", "ok")]
    assert "gone" in hooks[0]["failure"]
    assert hooks[0]["advice"]
    pings = [path for path, _ in web.posted if path.startswith("/ping")]
    assert pings == ["/ping/start", "/ping/0", "/ping/start", "/ping/16", "/ping/start", "/ping/0"]
    web.answer = 500
    setting.job(f'domains = ["gone"]\n{told}')
    failed = cli("run", "nightly", "--json")
    assert failed.code == 16, "that nobody could be told changes no exit code"
    assert "cannot call the webhook at 127.0.0.1: it answers 500" in failed.err


def test_domains_without_disks_and_without_the_excluded_disk_are_no_failures(
    cli: CommandLine,
    setting: Setting,
    machine: Machine,
    machine_factory: MachineFactory,
    tmp_path: Path,
) -> None:
    bare, small = machine_factory(), machine_factory(DiskSpec("vda", MIB))
    names = {machine.name: ["vda"], small.name: ["vda"], bare.name: []}
    metrics = tmp_path / "puller.prom"
    setting.job(
        f'domains = {list(names)}\nexclude-disks = ["vdb"]\nthen = ["prune", "check"]\ncheck = 100\n'
        "[jobs.nightly.keep]\nlast = 1"
    )
    for _ in range(2):
        answer = cli("run", "nightly", "--json", "--metrics-file", str(metrics))
        assert answer.code == 0, answer.err
    document = answer.document
    taken = {point["domain"]: [disk["disk"] for disk in point["disks"]] for point in document["points"]}
    assert taken == names
    assert len(document["prune"]["removed"]) == 3
    assert document["check"]["errors"] == []
    assert f'puller_backup_success{{domain="{bare.name}",job="nightly"}} 1.0' in metrics.read_text()
    assert f"{bare.name}: no disk to back up" in answer.err
    assert cli("doctor", "--job", "nightly").code == 0


def test_one_that_fails_does_not_stop_the_rest(cli: CommandLine, setting: Setting, machine: Machine) -> None:
    setting.job(f'domains = ["gone", "{machine.name}"]\nparallel = 2\nthen = ["check"]')
    answer = cli("run", "nightly", "--json")
    assert (answer.code, answer.error["name"]) == (3, "PartialFailure")
    assert [failed["domain"] for failed in answer.document["failed"]] == ["gone"]
    assert answer.document["check"]["points"] == 1
    assert "puller: gone: " in answer.err


@pytest.mark.usefixtures("job_without_end")
@pytest.mark.parametrize("parallel", [1, 2])
def test_a_job_of_libvirts_that_cannot_be_ended(
    cli: CommandLine,
    setting: Setting,
    machine: Machine,
    repository: puller.Repository,
    tmp_path: Path,
    parallel: int,
) -> None:
    metrics = tmp_path / "puller.prom"
    setting.job(f'domains = ["{machine.name}"]\nparallel = {parallel}')
    answer = cli("run", "nightly", "--json", "--metrics-file", str(metrics))
    (stored,) = puller.list_points(repository)
    assert (answer.code, answer.error["name"]) == (17, "JobLeftOpen")
    assert f"virsh domjobabort {machine.name}" in answer.error["advice"]
    assert [point["point"] for point in answer.document["points"]] == [stored.point]
    assert (answer.document["failed"], answer.document["failures"]) == ([], [])
    assert [left["domain"] for left in answer.document["left"]] == [machine.name]
    kept = metrics.read_text()
    assert f'puller_backup_job_left_open{{domain="{machine.name}",job="nightly"}} 1.0' in kept
    assert f'puller_backup_success{{domain="{machine.name}",job="nightly"}} 1.0' in kept
    assert 'puller_job_exit_code{job="nightly"} 17.0' in kept


def test_no_domain_matches(cli: CommandLine, setting: Setting) -> None:
    setting.job('domains = ["nosuch-*"]')
    error = cli("run", "nightly", "--json").error
    assert error["code"] == 16
    assert "nightly" in error["message"]


def test_a_second_run_is_refused(cli: CommandLine, setting: Setting, machine: Machine, locks: Path) -> None:
    setting.job(f'domains = ["{machine.name}"]')
    with JobLock("nightly", "backup", locks):
        error = cli("run", "nightly", "--json").error
        assert (error["code"], error["retryable"]) == (11, True)
        assert "job nightly is being run by process" in error["message"]
        # A check of the job may run beside its backups.
        assert cli("run", "nightly", "--only", "check").code == 0
    assert cli("run", "nightly").code == 0
