"""``run``: jobs of the configuration on real QEMU, with what comes before, after and beside the backups."""

from __future__ import annotations

import json
import os
import platform
import select
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

import libvirt
import pytest

import puller
from puller import api
from puller.cancelling import CancelScope, RetryPolicy
from puller.configuration.file import load
from puller.errors import Locked, StoreUnavailable
from puller.hypervisor.locking.lock import JobLock
from puller.jobs.job import policy_of, scope_of
from puller.repository.collecting.lease import Lease
from puller.store.base import Body, ObjectInfo
from puller.store.folder import FolderStore
from puller.units import CHUNK, MIB
from puller.upkeep.retention import Policy
from tests.cli.conftest import CommandLine
from tests.lab.archive import data_packs, make_point
from tests.lab.fixtures import MachineFactory
from tests.lab.machine import DiskSpec, Machine
from tests.lab.web import Web, web_server


class Setting:
    """A configuration with one job, ``nightly``, to which a test adds lines."""

    def __init__(self, path: Path, folder: Path, uri: str) -> None:
        self.path = path
        self._head = f'[repositories.main]\nurl = "{folder}"\n[defaults]\nconnect = "{uri}"\n'

    def job(self, lines: str, defaults: str = "") -> None:
        self.path.write_text(f"{self._head}{defaults}\n[jobs.nightly]\n{lines}\n")


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


@pytest.fixture
def web() -> Iterator[Web]:
    with web_server() as server:
        yield server


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
    assert "127.0.0.1 answers 500" in failed.err


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


def test_prune_and_check_follow(
    cli: CommandLine, setting: Setting, machine: Machine, repository: puller.Repository
) -> None:
    other = make_point(repository, {"vda": b"by hand"}, domain=machine.name)
    setting.job(
        f'domains = ["{machine.name}"]\nthen = ["check", "prune"]\ncheck = 100\ngrace = "0"\n'
        "[jobs.nightly.keep]\nlast = 1"
    )
    first = cli("run", "nightly", "--json").document
    assert first["prune"]["removed"] == []
    assert first["check"]["chunks_read"] > 0
    second = cli("run", "nightly", "--json").document
    assert second["prune"]["removed"] == [first["points"][0]["point"]]
    # What the job has not taken is neither pruned nor checked by it.
    assert other.point in {point.point for point in puller.list_points(repository)}
    assert second["check"]["points"] == 1


class TestOwnPoints:
    """Which points the job prunes and checks. None of this needs a machine."""

    def test_those_of_other_hosts_and_domains_stay(
        self, cli: CommandLine, setting: Setting, repository: puller.Repository
    ) -> None:
        def point(day: int, domain: str, host: str | None = None) -> puller.Point:
            moment = datetime(2026, 11, day, tzinfo=UTC)
            return make_point(repository, {"vda": b"x"}, domain, moment, {"job": "nightly"}, host)

        own = [point(day, "web1") for day in (1, 2)]
        elsewhere = [point(day, "web1", "kvm2") for day in (3, 4)]
        others = [point(day, domain) for domain in ("db1", "web9") for day in (5, 6)]
        rules = 'exclude = ["web9"]\nkeep = { last = 1 }'
        setting.job(f'domains = ["web*"]\n{rules}')
        document = cli("run", "nightly", "--only", "prune", "--json").document
        assert document["prune"]["removed"] == [own[0].point]
        assert cli("run", "nightly", "--only", "check", "--json").document["check"]["points"] == 1
        # The machine on which the hosts' points are pruned has jobs of theirs.
        setting.job(f'domains = ["web*"]\n{rules}\nhosts = ["{own[0].host}", "kvm*"]')
        document = cli("run", "nightly", "--only", "prune", "--json").document
        assert document["prune"]["removed"] == [elsewhere[0].point]
        # For machines that move from host to host.
        setting.job(f'domains = ["web*"]\n{rules}\nhosts = ["{own[0].host}", "kvm*"]\nacross-hosts = true')
        document = cli("run", "nightly", "--only", "prune", "--json").document
        assert document["prune"]["removed"] == [own[1].point]
        left = {item.point for item in puller.list_points(repository)}
        assert left == {elsewhere[1].point, *(item.point for item in others)}

    def test_one_that_is_deleted_during_the_check_is_no_error(
        self,
        cli: CommandLine,
        setting: Setting,
        repository: puller.Repository,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        points = [make_point(repository, {"vda": b"x"}, tags={"job": "nightly"}) for _ in range(3)]
        setting.job('domains = ["web1"]')
        real = api.list_points

        def delete_one(*words: Any, **choices: Any) -> list[puller.Point]:
            listed = real(*words, **choices)
            puller.delete(repository, [points[0].point])  # the prune of another host
            return listed

        monkeypatch.setattr(api, "list_points", delete_one)
        assert cli("run", "nightly", "--only", "check").code == 0

    def test_the_check_lists_the_points_once(
        self,
        cli: CommandLine,
        setting: Setting,
        repository: puller.Repository,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        for _ in range(5):
            make_point(repository, {"vda": b"x"}, tags={"job": "nightly"})
        listed: list[str] = []
        real = FolderStore.list

        def listing(self: FolderStore, prefix: str) -> Iterator[ObjectInfo]:
            listed.append(prefix)
            return real(self, prefix)

        monkeypatch.setattr(FolderStore, "list", listing)
        setting.job('domains = ["web1"]')
        assert cli("run", "nightly", "--only", "check").code == 0
        assert listed.count("points/") == 1

    def test_a_damaged_record_is_an_error_of_the_check(
        self, cli: CommandLine, setting: Setting, repository: puller.Repository, folder: Path
    ) -> None:
        _, hurt = (make_point(repository, {"vda": b"x"}, tags={"job": "nightly"}) for _ in range(2))
        (folder / "points" / hurt.uuid / hurt.point).write_bytes(b"no record")
        setting.job('domains = ["web1"]')
        answer = cli("run", "nightly", "--only", "check", "--json")
        assert answer.code == 13
        assert [error["point"] for error in answer.document["check"]["errors"]] == [hurt.point]
        assert answer.document["check"]["points"] == 1
        assert "no errors" not in cli("run", "nightly", "--only", "check").out

    def test_damage_beside_a_failure_without_a_point_is_told_as_damage(
        self, cli: CommandLine, setting: Setting, repository: puller.Repository, folder: Path
    ) -> None:
        point = make_point(repository, {"vda": b"x" * CHUNK}, domain="gone", tags={"job": "nightly"})
        for pack in data_packs(folder):
            pack.unlink()
        setting.job('domains = ["gone"]\nthen = ["check"]\nafter = { command = ["false"] }')
        answer = cli("run", "nightly", "--json")
        assert (answer.error["code"], answer.error["name"]) == (13, "DamagedData")
        assert {error["point"] for error in answer.document["check"]["errors"]} == {point.point}
        setting.job('domains = ["gone"]\nafter = { command = ["false"] }')
        answer = cli("run", "nightly", "--json")
        assert (answer.error["code"], answer.error["name"]) == (16, "NoSuchDomain")
        assert "; after: false failed with exit code 1" in answer.error["message"]

    def test_what_does_nothing_says_so(
        self, cli: CommandLine, setting: Setting, repository: puller.Repository
    ) -> None:
        setting.job('domains = ["web1"]')
        none = f"job nightly has no points of its domains from {platform.node()}: "
        checked = cli("run", "nightly", "--only", "check")
        assert (checked.code, f"{none}nothing was checked" in checked.err) == (0, True)
        pruned = cli("run", "nightly", "--only", "prune")
        assert (pruned.code, "no keep rules, so no point is removed" in pruned.err) == (0, True)
        make_point(repository, {"vda": b"x"}, tags={"job": "nightly"}, host="kvm2")
        setting.job('domains = ["web1"]\nkeep = { last = 1 }')
        assert f"{none}no point was considered" in cli("run", "nightly", "--only", "prune").err


def test_a_prune_waits_for_the_end_of_another_hosts(
    cli: CommandLine,
    setting: Setting,
    repository: puller.Repository,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    point = make_point(repository, {"vda": b"x"}, tags={"job": "nightly"})
    setting.job('domains = ["web1"]\nkeep = { last = 1 }')
    with ExitStack() as elsewhere:
        elsewhere.enter_context(Lease.take(repository.store, repository.keys.boxes(), "prune"))
        waited: list[float] = []

        def end(_: CancelScope, seconds: float) -> None:
            waited.append(seconds)
            elsewhere.close()

        monkeypatch.setattr(CancelScope, "pause", end)
        answer = cli("run", "nightly", "--only", "prune", "--json")
    assert answer.document["prune"]["kept"] == [point.point]
    assert len(waited) == 1
    assert "another prune is running" in answer.err
    # But not for ever.
    with Lease.take(repository.store, repository.keys.boxes(), "prune"):
        monkeypatch.setattr("puller.jobs.job.PRUNE_PATIENCE", -1.0)
        assert cli("run", "nightly", "--only", "prune", "--json").error["code"] == 11


def test_a_prune_that_cannot_read_what_is_pending_fails_once(
    cli: CommandLine,
    setting: Setting,
    repository: puller.Repository,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    point = make_point(repository, {"vda": b"x"}, tags={"job": "nightly"})
    pending = folder / "pending" / point.uuid / point.point
    pending.parent.mkdir(parents=True)
    pending.write_bytes(b"torn")
    setting.job('domains = ["web1"]\nkeep = { last = 1 }')
    tried: list[object] = []
    real = api.prune

    def prune(*words: Any, **choices: Any) -> object:
        tried.append(words)
        assert len(tried) == 1, "it is tried again without an end"
        return real(*words, **choices)

    monkeypatch.setattr(api, "prune", prune)
    (folder / "points" / point.uuid / point.point).unlink()  # else it is known to have been committed
    error = cli("run", "nightly", "--only", "prune", "--json").error
    assert (error["code"], error["name"]) == (11, "CommitUnreadable")
    assert "that the pending point" in error["message"] and "ignored after a day" in error["advice"]


def test_each_attempt_to_prune_waits_for_its_turn(
    cli: CommandLine, setting: Setting, repository: puller.Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if nobody holds the lease any more by the time that one looks."""
    make_point(repository, {"vda": b"x"}, tags={"job": "nightly"})
    setting.job('domains = ["web1"]\nkeep = { last = 1 }')
    did: list[str] = []
    real = api.prune

    def prune(*words: Any, **choices: Any) -> object:
        did.append("try")
        if len(did) < 4:
            raise Locked("another prune is running in this repository")
        return real(*words, **choices)

    monkeypatch.setattr(api, "prune", prune)
    monkeypatch.setattr(CancelScope, "pause", lambda _, seconds: did.append("wait"))
    assert cli("run", "nightly", "--only", "prune").code == 0
    assert did == ["try", "wait", "try", "wait", "try"]


class Away(FolderStore):
    """Gives no answer to the first two requests."""

    refusals = 2

    def within(self, scope: CancelScope) -> Self:
        return self

    def get(self, key: str, *, max_size: int | None = None) -> bytes:
        if self.refusals:
            self.refusals -= 1
            raise StoreUnavailable("connection refused")
        return super().get(key, max_size=max_size)


def test_a_store_that_is_away_as_the_job_begins_is_waited_for(
    cli: CommandLine, setting: Setting, repository: puller.Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command that somebody types is told at once."""
    point = make_point(repository, {"vda": b"x"}, tags={"job": "nightly"})
    setting.job('domains = ["web1"]\nkeep = { last = 1 }')
    monkeypatch.setattr("puller.cancelling.PROMPT", RetryPolicy(0.0))
    monkeypatch.setattr("puller.api.repositories.open_store", lambda url, _: Away(Path(url)))
    assert cli("points", "--json").error["code"] == 14
    answer = cli("run", "nightly", "--only", "prune", "--json")
    assert answer.document["prune"]["kept"] == [point.point]
    assert "repository: the store does not answer; trying again for 150 s: connection refused" in answer.err
    assert "repository: the store answers again" in answer.err


@pytest.mark.parametrize("place", ["pending/", "points/"])
def test_a_signal_while_the_store_hangs_in_the_commit_of_one_of_several(
    cli: CommandLine,
    setting: Setting,
    machine_factory: MachineFactory,
    repository: puller.Repository,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
) -> None:
    """Nobody waits for that request; the point of the other stands and is told, and no job is left open."""
    stuck, other = (machine_factory(DiskSpec("vda", MIB)) for _ in range(2))
    released, stored = threading.Event(), threading.Event()
    put_new = FolderStore.put_new

    def hang(self: FolderStore, key: str, body: Body) -> None:
        if key.startswith(f"{place}{stuck.uuid}/"):
            assert stored.wait(60)
            os.kill(os.getpid(), signal.SIGTERM)
            released.wait()
        put_new(self, key, body)
        if key.startswith(f"points/{other.uuid}/"):
            stored.set()

    setting.job(f'domains = ["{stuck.name}", "{other.name}"]\nparallel = 2')
    monkeypatch.setattr(FolderStore, "put_new", hang)
    began = time.monotonic()
    try:
        answer = cli("run", "nightly", "--json")
        took = time.monotonic() - began
        left = list(tmp_path.rglob("*.scratch"))
        with pytest.raises(libvirt.libvirtError, match="backup"):
            stuck.handle.backupGetXMLDesc()
    finally:
        released.set()
    assert (answer.code, left) == (130, []), answer
    assert took < 30, "not as long as a silent store is waited for"
    assert {point["domain"] for point in answer.document["points"]} == {other.name}
    assert stuck.name in {failed["domain"] for failed in answer.document["failed"]}


def test_only_one_step(cli: CommandLine, setting: Setting, machine: Machine) -> None:
    setting.job(f'domains = ["{machine.name}"]\nthen = ["prune"]\n[jobs.nightly.keep]\nlast = 1')
    assert cli("run", "nightly", "--only", "backup", "--json").document["prune"] is None
    document = cli("run", "nightly", "--only", "prune", "--json").document
    assert (document["points"], len(document["prune"]["kept"])) == ([], 1)


def test_damage_found_by_the_check_gives_13(
    cli: CommandLine, setting: Setting, machine: Machine, folder: Path
) -> None:
    setting.job(f'domains = ["{machine.name}"]\nthen = ["check"]\ncheck = 100.0')
    assert cli("run", "nightly").code == 0
    for pack in (path for path in (folder / "packs").rglob("*") if path.is_file()):
        pack.write_bytes(bytes(100) + pack.read_bytes()[100:])
    answer = cli("run", "nightly", "--only", "check", "--json")
    assert answer.code == 13
    assert answer.document["check"]["errors"]


class TestCommands:
    """Before and after the backups."""

    def test_both_run_and_are_told(
        self, cli: CommandLine, setting: Setting, machine: Machine, tmp_path: Path
    ) -> None:
        log = tmp_path / "log"
        shell = f'["sh", "-c", "echo $PULLER_JOB $PULLER_EXIT_CODE >> {log}; echo chatter"]'
        both = "\n".join(f"{when} = {{ command = {shell} }}" for when in ("before", "after"))
        setting.job(f'domains = ["{machine.name}", "gone"]\n{both}')
        assert len(cli("run", "nightly", "--json").document["points"]) == 1
        assert log.read_text() == "nightly\nnightly 3\n"

    def test_one_before_that_fails_keeps_the_backups_from_running(
        self, cli: CommandLine, setting: Setting, machine: Machine, tmp_path: Path
    ) -> None:
        after = f'after = {{ command = ["touch", "{tmp_path}/after"] }}'
        setting.job(f'domains = ["{machine.name}"]\nbefore = {{ command = ["false"] }}\n{after}')
        answer = cli("run", "nightly", "--json")
        assert (answer.error["code"], answer.error["name"]) == (1, "CommandFailed")
        assert "false failed with exit code 1" in answer.error["message"]
        assert answer.document["points"] == []
        assert [failure["step"] for failure in answer.document["failures"]] == ["before"]
        assert (tmp_path / "after").exists()

    def test_one_that_takes_too_long_is_killed_with_its_children(
        self, cli: CommandLine, setting: Setting, machine: Machine, tmp_path: Path
    ) -> None:
        pipe = tmp_path / "pipe"
        os.mkfifo(pipe)
        script = f"exec 3>{pipe}; sleep 1000 & sleep 1000"
        setting.job(
            f'domains = ["{machine.name}"]\nbefore = {{ command = ["sh", "-c", "{script}"], timeout = 1 }}'
        )
        with os.fdopen(os.open(pipe, os.O_RDONLY | os.O_NONBLOCK), "rb") as reader:
            assert "within 1 seconds" in cli("run", "nightly", "--json").error["message"]
            ended, _, _ = select.select([reader], [], [], 60)
            assert ended  # nobody holds the other end any more

    def test_one_that_is_ended_by_a_signal_without_a_name(self, cli: CommandLine, setting: Setting) -> None:
        for number, name in ((9, "SIGKILL"), (35, "signal 35")):
            setting.job(f'domains = ["x"]\nbefore = {{ command = ["sh", "-c", "kill -{number} $$"] }}')
            assert cli("run", "nightly", "--json").error["message"] == f"sh failed with {name}"

    def test_one_that_is_not_there(self, cli: CommandLine, setting: Setting, machine: Machine) -> None:
        setting.job(f'domains = ["{machine.name}"]\nafter = {{ command = ["/nonexistent"] }}')
        answer = cli("run", "nightly", "--json")
        assert answer.error["message"] == "cannot run /nonexistent: No such file or directory"
        assert len(answer.document["points"]) == 1


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
