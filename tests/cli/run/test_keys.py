"""The keys of the configuration reach what they are for."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import puller
from puller import api
from puller.configuration.file import load
from puller.jobs.job import policy_of, scope_of
from puller.units import MIB
from puller.upkeep.retention.policy import Policy
from tests.cli.conftest import CommandLine
from tests.cli.run.setting import Setting
from tests.lab.fixtures import MachineFactory
from tests.lab.machine import DiskSpec, Machine


def test_what_the_job_says_reaches_the_backup(
    cli: CommandLine, setting: Setting, machine: Machine, tmp_path: Path
) -> None:
    setting.job(
        f'domains = ["{machine.name}"]\nexclude-disks = ["vda"]\ntags = {{ site = "north" }}',
        defaults=f'interval = "1d"\nscratch-dir = "{tmp_path}"',
    )
    (record,) = cli("run", "nightly", "--json").document["points"]
    assert [disk["disk"] for disk in record["disks"]] == ["vdb"]
    assert record["tags"] == {"site": "north", "job": "nightly", "interval": "1d"}
    setting.job(f'domains = ["{machine.name}"]\ndisks = ["vda"]\nscratch-dir = "/nonexistent"')
    assert "/nonexistent" in cli("run", "nightly", "--json").error["message"]


def test_a_job_that_is_not_there(cli: CommandLine, setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    setting.job('domains = ["x"]')
    error = cli("run", "nigthly", "--json").error
    assert (error["code"], error["advice"]) == (2, "Check the spelling: did you mean 'nightly'?")
    monkeypatch.setenv("PULLER_CONFIG", "/nonexistent")
    assert cli("run", "nightly", "--json").error["code"] == 2


def test_an_option_wins_over_the_environment_and_that_over_the_file(
    cli: CommandLine, setting: Setting, machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting.job(f'domains = ["{machine.name}"]\nrepository = "/in-the-file"\nconnect = "test:///in-the-file"')
    assert "/in-the-file" in cli("run", "nightly", "--json").error["message"]
    monkeypatch.setenv("PULLER_REPOSITORY", "/in-the-environment")
    assert "/in-the-environment" in cli("run", "nightly", "--json").error["message"]
    assert "test:///in-the-file" in cli("run", "nightly", "-r", "main", "--json").error["message"]
    monkeypatch.setenv("LIBVIRT_DEFAULT_URI", "test:///in-the-environment")
    assert "test:///in-the-environment" in cli("run", "nightly", "-r", "main", "--json").error["message"]
    answer = cli("run", "nightly", "-r", "main", "-c", "test:///option", "--json")
    assert "test:///option" in answer.error["message"]


def test_every_key_of_a_job_reaches_what_it_is_for(
    cli: CommandLine,
    setting: Setting,
    machine_factory: MachineFactory,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machine = machine_factory(*(DiskSpec(target, MIB) for target in ("vda", "vdb", "vdc")))
    given: dict[str, object] = {}
    real = api.backup

    def backup(repository: puller.Repository, domain: str, **choices: Any) -> puller.Point:
        given.update(choices)
        return real(repository, domain, **choices)

    monkeypatch.setattr(api, "backup", backup)
    setting.job(
        f'domains = ["{machine.name}"]\nparallel = 3\ntags = {{ site = "north" }}\n'
        'disks = ["vda", "vdb"]\nexclude-disks = ["vdc"]\n'
        'mode = "push"\nquiesce = "off"\ncompression = 3\npace = "1G"\nlimit-upload = "500M"\n'
        'compare-every = "30d"\nattach-limit = "2M"\nmemory = "512M"\n'
        f'scratch-dir = "{tmp_path}"\nstaging-dir = "{tmp_path}"\n'
    )
    (record,) = cli("run", "nightly", "--json").document["points"]
    assert record["mode"] == "push"
    wanted = {
        "disks": ("vda", "vdb"),
        "exclude_if_present": ("vdc",),
        "mode": "push",
        "quiesce": "off",
        "compression": 3,
        "compare_every": timedelta(days=30),
        "attach_limit": 2 << 20,
        "pace": 1 << 30,
        "limit_upload": 500 << 20,
        "memory": 512 << 20,
        "scratch_dir": str(tmp_path),
        "staging_dir": str(tmp_path),
        "tags": {"site": "north", "job": "nightly"},
    }
    assert {name: given[name] for name in wanted} == wanted


def test_every_rule_of_a_job_reaches_its_policy(setting: Setting) -> None:
    setting.job(
        'domains = ["x"]\nkeep = { last=1, hourly=2, daily=3, weekly=4, monthly=5, yearly=6, within="2d" }'
    )
    job = load(str(setting.path)).job("nightly")
    policy = policy_of(job)
    assert policy == Policy(1, 2, 3, 4, 5, 6, timedelta(days=2), scope_of(job))
