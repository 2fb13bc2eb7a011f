"""``freeze``: another program reads the frozen disks, and nothing of the job stays, whatever happens."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

import puller
from puller.backups.freeze import Freeze
from puller.errors import CheckpointUnusable, DomainNotRunning, Locked, NoSuchPoint, ScratchFull, UsageError
from puller.host.access import HostAccess
from puller.hypervisor.connection import Host
from puller.hypervisor.domain.checkpoint import THIRD_PARTIES, checkpoint_name, owner_prefix
from puller.hypervisor.job.job import PullJob, socket_path
from puller.hypervisor.job.listener import UnixListener
from puller.hypervisor.space import scratch, scratchwatch
from puller.repository.points import new_id
from puller.units import KIB, MIB
from tests.integration.conftest import Scene, checkpoints
from tests.lab.fixtures import MachineFactory
from tests.lab.machine import DiskSpec, Machine, reference

COPY = 'nbdcopy "$PULLER_URI_vda" "$TO/vda" && nbdcopy "$PULLER_URI_vdb" "$TO/vdb"'


@pytest.fixture
def machine(machine_factory: MachineFactory) -> Machine:
    machine = machine_factory(DiskSpec("vda", 8 * MIB), DiskSpec("vdb", 3 * MIB + 5 * 512, format="raw"))
    machine.write("vda", 1, MIB, 256 * KIB)
    machine.write("vdb", 2, 0, 64 * KIB)
    return machine


@pytest.fixture(autouse=True)
def the_copies_go_to_the_test_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TO", str(tmp_path))


def freeze(machine: Machine, uri: str, command: str = COPY, **options: Any) -> Freeze:
    return puller.freeze(machine.name, command, connect=uri, **options)


def assert_nothing_stays(machine: Machine) -> None:
    domain_files = list(machine.image("vda").parent.glob("*puller*"))
    assert domain_files == []
    assert checkpoints(machine) == set()
    assert machine.bitmaps("vda") == set()


def meanwhile(tmp_path: Path, work: Callable[[], object], then: str) -> str:
    """A command that lets this process do ``work`` while the disks are frozen, and then does ``then``."""
    frozen, go = tmp_path / "frozen", tmp_path / "go"
    os.mkfifo(frozen)
    os.mkfifo(go)

    def run() -> None:
        frozen.read_text()
        try:
            work()
        finally:
            go.write_text("go")

    Thread(target=run, daemon=True).start()
    return f"echo frozen > {frozen}; cat {go}; {then}"


def exports(tmp_path: Path) -> Any:
    return json.loads((tmp_path / "exports").read_text())


def test_the_command_reads_all_disks_of_one_moment(
    machine: Machine, libvirt_uri: str, tmp_path: Path
) -> None:
    before = datetime.now(UTC)
    with machine.exported(tmp_path / "truth.sock") as uris:
        truth = {target: reference(uri, tmp_path / f"{target}-truth") for target, uri in uris.items()}
    done = freeze(machine, libvirt_uri, f'cp "$PULLER_EXPORTS" "$TO/exports" && {COPY}')
    for target, path in truth.items():
        assert (tmp_path / target).read_bytes() == path.read_bytes()
    told = exports(tmp_path)
    assert [(disk["disk"], disk["bitmap"], disk["size"]) for disk in told["disks"]] == [
        ("vda", None, 8 * MIB),
        ("vdb", None, 3 * MIB + 5 * 512),
    ]
    assert (told["domain"], told["uuid"], told["checkpoint"]) == (machine.name, machine.uuid, None)
    assert before < datetime.fromisoformat(told["time"].replace("Z", "+00:00")) < datetime.now(UTC)
    assert (done.exit_code, done.consistency) == (0, "crash")
    assert_nothing_stays(machine)


def test_what_the_guest_writes_meanwhile_is_not_seen(
    machine: Machine, libvirt_uri: str, tmp_path: Path
) -> None:
    with machine.exported(tmp_path / "truth.sock") as uris:
        truth = reference(uris["vda"], tmp_path / "vda-truth")

    def write() -> None:
        machine.write("vda", 9, 0, 8 * MIB)

    assert freeze(machine, libvirt_uri, meanwhile(tmp_path, write, COPY)).exit_code == 0
    assert (tmp_path / "vda").read_bytes() == truth.read_bytes()


def test_changes_since_a_checkpoint_of_an_earlier_freeze(
    machine: Machine, libvirt_uri: str, tmp_path: Path
) -> None:
    first = freeze(machine, libvirt_uri, checkpoint=True)
    assert first.checkpoint is not None
    assert first.checkpoint.startswith(owner_prefix(THIRD_PARTIES))
    machine.write("vda", 5, 4 * MIB, 64 * KIB)
    map_changes = 'nbdinfo --json --map="$PULLER_BITMAP_vda" "$PULLER_URI_vda" > "$TO/map"'
    told: list[str] = []
    second = freeze(
        machine,
        libvirt_uri,
        f'{map_changes} && {COPY} && test -z "$PULLER_BITMAP_vdb"',
        since=first.checkpoint,
        checkpoint=True,
        observer=lambda event: told.append(getattr(event, "text", "")),
    )
    assert second.exit_code == 0
    changed = [each for each in json.loads((tmp_path / "map").read_text()) if each["type"] & 1]
    assert [(each["offset"], each["length"]) for each in changed] == [(4 * MIB, 64 * KIB)]
    assert any("vdb has no bitmap of the changes" in text for text in told)
    assert checkpoints(machine) == {first.checkpoint, second.checkpoint}


def test_changes_since_a_point(scene: Scene, tmp_path: Path) -> None:
    scene.machine.write("vda", 5, 4 * MIB, 64 * KIB)
    done = freeze(
        scene.machine,
        scene.uri,
        'nbdinfo --json --map="$PULLER_BITMAP_vda" "$PULLER_URI_vda" > "$TO/map"',
        since=f"{scene.machine.name}@latest",
        repository=scene.repository,
    )
    assert done.disks[0].bitmap is not None
    changed = [each for each in json.loads((tmp_path / "map").read_text()) if each["type"] & 1]
    assert [(each["offset"], each["length"]) for each in changed] == [(4 * MIB, 64 * KIB)]
    assert scene.backup().kind == "incremental"


def test_a_foreign_image_has_no_bitmap_of_changes_since_a_point(scene: Scene, tmp_path: Path) -> None:
    machine = scene.machine
    machine.stop()
    (name,), image = checkpoints(machine), str(machine.image("vda"))
    subprocess.run(["qemu-io", "-c", "write -P 77 0 8M", image], check=True, capture_output=True)
    subprocess.run(["qemu-img", "bitmap", "--clear", image, name], check=True)
    machine.start()
    with pytest.raises(CheckpointUnusable):
        freeze(machine, scene.uri, "true", since=f"{machine.name}@latest", repository=scene.repository)
    assert scene.backup().kind == "rehash"


def test_a_command_that_fails_takes_its_checkpoint_along(machine: Machine, libvirt_uri: str) -> None:
    done = freeze(machine, libvirt_uri, "exit 7", checkpoint=True)
    assert (done.exit_code, done.checkpoint) == (7, None)
    assert_nothing_stays(machine)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"since": "no-such-checkpoint"}, UsageError),
        ({"since": "no-such-checkpoint", "checkpoint": True}, UsageError),
        ({"disks": ["vdb"], "since": "own"}, CheckpointUnusable),
    ],
)
def test_what_cannot_be_done_is_refused_before_the_command_runs(
    machine: Machine, libvirt_uri: str, tmp_path: Path, options: dict[str, Any], error: type[Exception]
) -> None:
    if options["since"] == "own":
        options = {**options, "since": freeze(machine, libvirt_uri, "true", checkpoint=True).checkpoint}
    before = checkpoints(machine)
    with pytest.raises(error):
        freeze(machine, libvirt_uri, 'touch "$TO/ran"', **options)
    assert not (tmp_path / "ran").exists()
    assert checkpoints(machine) == before


def test_a_name_that_is_neither_a_checkpoint_nor_a_point(scene: Scene) -> None:
    name = scene.machine.name
    with pytest.raises(NoSuchPoint, match=f"domain {name} has no checkpoint nosuch, and no restore point"):
        puller.freeze(name, "true", connect=scene.uri, since="nosuch", repository=scene.repository)


def test_a_domain_that_is_shut_off_is_served_from_its_images(
    machine: Machine, libvirt_uri: str, tmp_path: Path
) -> None:
    first = freeze(machine, libvirt_uri, "true", checkpoint=True)
    machine.write("vda", 5, 4 * MIB, 64 * KIB)
    with machine.exported(tmp_path / "truth.sock") as uris:
        truth = {target: reference(uri, tmp_path / f"{target}-truth") for target, uri in uris.items()}
    machine.stop()
    map_changes = 'nbdinfo --json --map="$PULLER_BITMAP_vda" "$PULLER_URI_vda" > "$TO/map"'
    done = freeze(machine, libvirt_uri, f"{map_changes} && {COPY}", since=first.checkpoint)
    assert (done.exit_code, done.consistency) == (0, "offline")
    for target, path in truth.items():
        assert (tmp_path / target).read_bytes() == path.read_bytes()
    changed = [each for each in json.loads((tmp_path / "map").read_text()) if each["type"] & 1]
    assert [(each["offset"], each["length"]) for each in changed] == [(4 * MIB, 64 * KIB)]
    with pytest.raises(UsageError, match="shut off"):
        freeze(machine, libvirt_uri, "true", checkpoint=True)
    machine.start()


def test_a_full_scratch_kills_the_command_and_spares_the_guest(
    machine: Machine, libvirt_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = scratch.free_bytes

    def free(folder: Path, purpose: str, host: HostAccess) -> int:
        return 0 if (tmp_path / "ran").exists() else real(folder, purpose, host)

    monkeypatch.setattr(scratchwatch, "free_bytes", free)
    with pytest.raises(ScratchFull):
        freeze(machine, libvirt_uri, 'touch "$TO/ran"; sleep 3600', checkpoint=True)
    assert_nothing_stays(machine)


def test_a_power_off_of_the_guest_is_a_failure(machine: Machine, libvirt_uri: str, tmp_path: Path) -> None:
    with pytest.raises(DomainNotRunning):
        freeze(machine, libvirt_uri, meanwhile(tmp_path, machine.stop, "true"))


def test_a_backup_and_a_freeze_exclude_each_other(scene: Scene, tmp_path: Path) -> None:
    errors: list[Exception] = []

    def back_up() -> None:
        try:
            scene.backup()
        except Locked as error:
            errors.append(error)

    assert freeze(scene.machine, scene.uri, meanwhile(tmp_path, back_up, "true")).exit_code == 0
    assert len(errors) == 1


@pytest.mark.parametrize("successor", ["freeze", "backup"])
def test_the_next_run_ends_what_a_killed_freeze_left(scene: Scene, successor: str) -> None:
    machine, before = scene.machine, checkpoints(scene.machine)
    with Host.connect(scene.uri) as host:
        domain = host.domain(machine.name)
        name = checkpoint_name(THIRD_PARTIES, new_id(datetime.now(UTC)))
        folder = machine.image("vda").parent
        PullJob(domain, {"vda": None}, name, folder, UnixListener(socket_path(domain, name))).__enter__()
    assert name in checkpoints(machine)
    if successor == "freeze":
        assert freeze(machine, scene.uri, "true").exit_code == 0
        assert checkpoints(machine) == before
    else:
        assert scene.backup().kind == "incremental"
    assert name not in checkpoints(machine)
    assert list(folder.glob("*.scratch")) == []


def test_a_backup_without_a_checkpoint_builds_on_those_that_exist(scene: Scene) -> None:
    machine, before = scene.machine, checkpoints(scene.machine)
    machine.write("vda", 5, 4 * MIB, 64 * KIB)
    point = scene.backup(checkpoint=False)
    assert (point.kind, point.checkpoint) == ("incremental", None)
    assert checkpoints(machine) == before
    scene.assert_exact(point)
    machine.write("vda", 6, 8 * MIB, 64 * KIB)
    again = scene.backup()
    assert (again.kind, again.disks[0].dirty_bytes) == ("incremental", 2 * 64 * KIB)
    scene.assert_exact(again)


@pytest.mark.parametrize("mode", ["pull", "push"])
def test_a_domain_that_is_only_backed_up_without_checkpoints_has_none(
    machine: Machine, libvirt_uri: str, tmp_path: Path, mode: str
) -> None:
    repository = puller.create_repository(str(tmp_path / "repository"), password=None)
    for kind in ("full", "rehash"):
        point = puller.backup(repository, machine.name, connect=libvirt_uri, checkpoint=False, mode=mode)  # type: ignore[arg-type]
        assert {disk.kind for disk in point.disks} == {kind}
    assert checkpoints(machine) == set()
    assert machine.bitmaps("vda") == set()
