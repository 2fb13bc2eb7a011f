"""Pushes that go wrong in their own ways, and what becomes of the images."""

from __future__ import annotations

import filecmp
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import puller
from puller.errors import DomainNotRunning, HypervisorError, StagingFull, UsageError
from puller.events import Event, Kept, Notice, Step
from puller.hypervisor.job.pushjob import PushJob
from puller.nbd.connection import Connection, PendingStatus
from puller.units import GIB, KIB, MIB
from tests.integration.conftest import Backup, Truth, checkpoints, leftovers, restored
from tests.lab.fixtures import MachineFactory
from tests.lab.machine import DiskSpec, Machine


class Scene:
    """A machine with a point of vda and changes since, and with vdb, which takes long to copy."""

    def __init__(self, machine: Machine, uri: str, folder: Path) -> None:
        self.machine = machine
        self.folder = folder
        self.truth = Truth(folder)
        self._take = Backup(uri, "push", self.truth)
        self.repository = puller.create_repository(str(folder / "repository"), password=None)
        machine.write("vda", 1, 0, 6 * MIB)
        self.first = self.backup(disks=["vda"])
        machine.write("vda", 2, 1 * MIB, MIB)
        machine.discard("vda", 3 * MIB, MIB)

    def backup(self, **options: Any) -> puller.Point:
        return self._take(self.repository, self.machine, **options)

    def assert_nothing_is_left(self) -> None:
        assert leftovers(self.folder) == []
        with pytest.raises(Exception, match="backup"):
            self.machine.handle.backupGetXMLDesc()
        assert len(puller.list_points(self.repository)) == 1

    def assert_next_is_exact(self) -> None:
        self.machine.write("vda", 4, 5 * MIB, 2 * MIB)
        point = self.backup(disks=["vda"])
        assert (point.kind, point.parent) == ("incremental", self.first.point)
        assert checkpoints(self.machine) == {point.checkpoint}
        assert self.truth.equals(restored(self.repository, point, self.folder), "vda", 2)


@pytest.fixture
def scene(machine_factory: MachineFactory, libvirt_uri: str, tmp_path: Path) -> Scene:
    machine = machine_factory(DiskSpec("vda", 20 * MIB), DiskSpec("vdb", GIB, "qcow2-falloc"))
    machine.brake("vdb")
    return Scene(machine, libvirt_uri, tmp_path)


def while_pushing(machine: Machine, act: Callable[[], object]) -> Callable[[Event], None]:
    """An observer that does something while QEMU has most of the disks still to copy."""

    def observe(event: Event) -> None:
        if isinstance(event, Step) and event.name == "push":
            machine.slow_push()
            act()

    return observe


def test_a_push_that_is_cancelled(scene: Scene) -> None:
    with pytest.raises(HypervisorError, match=f"domain {scene.machine.name} failed: Operation canceled"):
        scene.backup(observer=while_pushing(scene.machine, scene.machine.handle.abortJob))
    scene.assert_nothing_is_left()
    assert checkpoints(scene.machine) == {scene.first.checkpoint}
    scene.assert_next_is_exact()


def test_a_run_that_is_stopped_while_qemu_pushes(scene: Scene) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scene.backup(observer=while_pushing(scene.machine, stop))
    scene.assert_nothing_is_left()
    assert checkpoints(scene.machine) == {scene.first.checkpoint}
    scene.assert_next_is_exact()


def test_a_guest_that_powers_off(scene: Scene) -> None:
    with pytest.raises(DomainNotRunning, match="was shut off before QEMU had written all images"):
        scene.backup(observer=while_pushing(scene.machine, scene.machine.stop))
    scene.assert_nothing_is_left()
    scene.machine.start()
    scene.assert_next_is_exact()


def test_a_staging_that_others_fill(scene: Scene, small_file_system: Path) -> None:
    """After the check and before the begin, where only the reservation can notice."""

    def fill(event: Event) -> None:
        if isinstance(event, Step) and event.name == "begin":
            (small_file_system / "filler").write_bytes(bytes(28 * MIB))

    with pytest.raises(StagingFull) as full:
        scene.backup(disks=["vda"], staging_dir=str(small_file_system), observer=fill)
    assert (full.value.exit_code, "--staging-dir" in full.value.advice) == (15, True)
    assert leftovers(small_file_system) == []
    scene.assert_nothing_is_left()
    assert checkpoints(scene.machine) == {scene.first.checkpoint}
    scene.assert_next_is_exact()


def test_a_staging_that_is_full_for_qemu(
    scene: Scene, small_file_system: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a file system that cannot reserve, found full by QEMU half-way."""
    monkeypatch.setattr("puller.hypervisor.space.staging.check_free", lambda *_: None)
    with monkeypatch.context() as patch:
        patch.setattr("puller.hypervisor.job.pushjob.reserve", lambda *_: None)
        with pytest.raises(StagingFull, match="is full: the push job of domain"):
            scene.backup(staging_dir=str(small_file_system))
    assert leftovers(small_file_system) == []
    scene.assert_nothing_is_left()
    assert checkpoints(scene.machine) == {scene.first.checkpoint}
    scene.assert_next_is_exact()


def test_a_staging_without_room_begins_nothing(scene: Scene, small_file_system: Path) -> None:
    with pytest.raises(StagingFull, match=r"staging directory .* has 32.0 MiB free, but .* are needed"):
        scene.backup(staging_dir=str(small_file_system))
    with pytest.raises(UsageError, match="cannot use the staging directory /nowhere"):
        scene.backup(staging_dir="/nowhere")
    scene.assert_nothing_is_left()
    assert checkpoints(scene.machine) == {scene.first.checkpoint}


def test_a_dead_run_s_push_is_ended_by_the_next(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after kill -9: QEMU goes on writing, and images and checkpoint are left."""

    def die() -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(PushJob, "end", lambda job: None)
        patch.setattr("puller.hypervisor.domain.checkpoint.delete", lambda *_: None)
        patch.setattr("puller.backups.aftermath.Aftermath.__exit__", lambda *_: None)
        with pytest.raises(KeyboardInterrupt):
            scene.backup(observer=while_pushing(scene.machine, die))
    assert scene.machine.handle.backupGetXMLDesc()
    assert len(leftovers(scene.folder)) == 2
    assert len(checkpoints(scene.machine)) == 2
    scene.assert_next_is_exact()
    assert leftovers(scene.folder) == []


def test_the_point_in_time_is_the_begin(scene: Scene) -> None:
    """What the guest overwrites while QEMU copies is copied before."""
    whole = scene.folder / "whole"
    machine = scene.machine

    def overwrite(event: Event) -> None:
        if isinstance(event, Step) and event.name == "push":
            machine.write("vda", 9, 0, 20 * MIB)

    with machine.exported(scene.folder / "s") as uris:
        subprocess.run(["nbdcopy", uris["vda"], str(whole)], check=True)
    point = scene.backup(disks=["vda"], observer=overwrite)
    assert point.kind == "incremental"
    assert filecmp.cmp(restored(scene.repository, point, scene.folder) / "vda.raw", whole, shallow=False)


def test_kept_images_are_whole_files_of_their_own(scene: Scene, tmp_path: Path) -> None:
    kept: dict[str, str] = {}

    def observe(event: Event) -> None:
        if isinstance(event, Kept):
            kept[event.disk] = event.path

    folder = tmp_path / "kept"
    folder.mkdir()
    options = {"disks": ["vda"], "staging_dir": str(folder), "keep_staging": True, "observer": observe}
    full = scene.backup(full=True, **options)
    first = kept["vda"]
    scene.machine.write("vda", 5, 512 * KIB, 64 * KIB)
    point = scene.backup(**options)
    assert {path.name for path in folder.iterdir()} == {
        f"{scene.machine.name}-{each.point}-vda.qcow2" for each in (full, point)
    }
    raw = tmp_path / "raw"
    subprocess.run(["qemu-img", "convert", "-O", "raw", first, str(raw)], check=True)
    assert filecmp.cmp(raw, scene.truth.image("vda", 2), shallow=False)
    # As docs/modes.md says: an incremental image on top of the one before is the disk again.
    subprocess.run(["qemu-img", "rebase", "-u", "-b", first, "-F", "qcow2", kept["vda"]], check=True)
    subprocess.run(["qemu-img", "convert", "-O", "raw", kept["vda"], str(raw)], check=True)
    assert filecmp.cmp(raw, scene.truth.image("vda", 3), shallow=False)


def test_room_for_what_the_guest_has_not_flushed(
    machine_factory: MachineFactory, libvirt_uri: str, small_file_system: Path, tmp_path: Path
) -> None:
    """QEMU has not written the tables of the image, so that its own tools see next to nothing in it."""
    machine = machine_factory(DiskSpec("vda", 64 * MIB))
    machine.write("vda", 1, 0, 48 * MIB)
    repository = puller.create_repository(str(tmp_path / "repository"), password=None)
    with pytest.raises(StagingFull, match=r"has 32.0 MiB free, but 66\.\d MiB are needed"):
        puller.backup(
            repository,
            machine.name,
            connect=libvirt_uri,
            mode="push",
            staging_dir=str(small_file_system),
        )


def test_a_base_that_the_guest_flushes_late_is_believed(
    machine_factory: MachineFactory, libvirt_uri: str, tmp_path: Path
) -> None:
    """Its last chunk is in no table of the image when that is looked at, and pushed but once."""
    machine = machine_factory(DiskSpec("vda", 16 * MIB))
    machine.write("vda", 1, 0, 8 * MIB)
    steps: list[str] = []

    def observe(event: Event) -> None:
        if isinstance(event, Step):
            steps.append(event.name)
            if steps.count("push") == 2:
                machine.flush()

    repository = puller.create_repository(str(tmp_path / "repository"), password=None)
    for _ in range(2):
        point = puller.backup(repository, machine.name, connect=libvirt_uri, mode="push", observer=observe)
    assert point.kind == "incremental"
    assert steps.count("push") == 2


def test_nothing_calls_back_in_the_main_thread(
    machine_factory: MachineFactory, libvirt_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Signals arrive there, and libnbd swallows what they raise while it calls back."""
    machine = machine_factory(DiskSpec("vda", 4 * MIB))
    machine.write("vda", 1, 0, 4 * MIB)
    machine.flush()
    repository = puller.create_repository(str(tmp_path / "repository"), password=None)
    puller.backup(repository, machine.name, connect=libvirt_uri, mode="push")
    asked: list[threading.Thread] = []
    begin = Connection.begin_status

    def noted(connection: Connection, offset: int, length: int) -> PendingStatus:
        asked.append(threading.current_thread())
        return begin(connection, offset, length)

    monkeypatch.setattr(Connection, "begin_status", noted)
    point = puller.backup(repository, machine.name, connect=libvirt_uri, mode="push")
    assert point.kind == "incremental"
    assert asked
    assert threading.main_thread() not in asked


def test_an_image_that_cannot_be_kept_costs_no_point(scene: Scene, tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    folder.mkdir()
    told: list[str] = []

    def lose(event: Event) -> None:
        if isinstance(event, Notice):
            told.append(event.text)
        if isinstance(event, Step) and event.name == "end":
            for image in leftovers(folder):
                image.unlink()

    options = {"disks": ["vda"], "staging_dir": str(folder), "keep_staging": True, "observer": lose}
    point = scene.backup(**options)
    assert point.kind == "incremental"
    assert any(text.startswith("the point is stored; the next run will clean up") for text in told)
    assert checkpoints(scene.machine) == {point.checkpoint}
    assert list(folder.iterdir()) == []
    assert scene.backup(disks=["vda"]).parent == point.point
