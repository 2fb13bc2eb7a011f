"""A guest that is reset or whose QEMU crashes in the midst of a pull, and checkpoints that go after it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest

import puller
from puller.errors import CheckpointUnusable, DomainNotRunning, HypervisorError
from puller.events import Event, Notice, Step
from puller.hypervisor import checkpoint as checkpoint_module
from puller.hypervisor.connection import Host
from puller.hypervisor.domain import Domain
from puller.hypervisor.frozen import DiskExport
from puller.hypervisor.job import PullJob
from puller.repository.points import time_of
from puller.units import MIB
from tests.integration.conftest import Scene, Truth, checkpoints, leftovers, restored
from tests.lab.fixtures import MachineFactory
from tests.lab.machine import DiskSpec


def test_a_guest_that_is_reset(
    machine_factory: MachineFactory, libvirt_uri: str, tmp_path: Path, truth: Truth
) -> None:
    """That is none of the job's business: QEMU goes on."""
    machine = machine_factory(DiskSpec("vda", 8 * MIB))
    machine.write("vda", 1, 0, 8 * MIB)
    repository = puller.create_repository(str(tmp_path / "repository"), password=None)

    def reset(exports: Sequence[DiskExport]) -> None:
        truth(exports)
        machine.handle.reset()

    point = puller.backup(repository, machine.name, connect=libvirt_uri, on_frozen=reset)
    assert truth.equals(restored(repository, point, tmp_path), "vda", 1)


def test_a_qemu_that_crashes(
    machine_factory: MachineFactory, libvirt_uri: str, tmp_path: Path, truth: Truth
) -> None:
    """puller may see it before libvirt does. The bitmaps in the image are flagged as in use then."""
    machine = machine_factory(DiskSpec("vda", 8 * MIB))
    machine.write("vda", 1, 0, 8 * MIB)
    repository = puller.create_repository(str(tmp_path / "repository"), password=None)
    puller.backup(repository, machine.name, connect=libvirt_uri)

    def crash(exports: Sequence[DiskExport]) -> None:
        machine.crash()

    with pytest.raises(DomainNotRunning, match=f"^domain {machine.name} was shut off during the backup$"):
        puller.backup(repository, machine.name, connect=libvirt_uri, on_frozen=crash)
    assert not leftovers(tmp_path)
    machine.start()
    point = puller.backup(repository, machine.name, connect=libvirt_uri, on_frozen=truth)
    assert point.kind == "rehash"
    assert truth.equals(restored(repository, point, tmp_path), "vda", 1)
    assert checkpoints(machine) == {point.checkpoint}


def test_a_checkpoint_that_goes_while_it_is_retired(
    machine_factory: MachineFactory, libvirt_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The point stands by then: nothing is read a second time."""
    machine = machine_factory(DiskSpec("vda", 4 * MIB))
    repository = puller.create_repository(str(tmp_path / "repository"), password=None)
    puller.backup(repository, machine.name, connect=libvirt_uri)
    told: list[Event] = []

    def lose(domain: Domain, name: str) -> None:
        raise CheckpointUnusable(f"checkpoint {name} went away")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_module, "delete", lose)
        second = puller.backup(repository, machine.name, connect=libvirt_uri, observer=told.append)
    assert [event.name for event in told if isinstance(event, Step)].count("begin") == 1
    assert any(
        isinstance(event, Notice) and "left for the next run to delete" in event.text for event in told
    )
    assert puller.list_points(repository)[-1] == second
    third = puller.backup(repository, machine.name, connect=libvirt_uri)
    assert (third.parent, checkpoints(machine)) == (second.point, {third.checkpoint})


def test_a_signal_as_the_job_begins(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes when the job is open, and before anything has taken charge of its end."""
    known = checkpoints(scene.machine)
    enter = PullJob.__enter__

    def interrupted(job: PullJob) -> PullJob:
        enter(job)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(PullJob, "__enter__", interrupted)
        with pytest.raises(KeyboardInterrupt):
            scene.backup()
    with pytest.raises(Exception, match="backup"):
        scene.machine.handle.backupGetXMLDesc()
    assert leftovers(scene.folder) == []
    assert checkpoints(scene.machine) == known


def test_a_connection_that_is_lost_after_the_commit(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """The job is ended over a new one, and the point counts."""

    def lost(job: PullJob) -> None:
        raise HypervisorError("client socket is closed")

    with monkeypatch.context() as patch:
        patch.setattr(PullJob, "end", lost)
        patch.setattr(Host, "is_alive", lambda host: False)
        point = scene.backup()
    assert puller.list_points(scene.repository)[-1].point == point.point
    assert any("the point is stored" in text and "client socket is closed" in text for text in scene.told)
    with pytest.raises(Exception, match="backup"):
        scene.machine.handle.backupGetXMLDesc()
    assert leftovers(scene.folder) == []
    assert scene.backup().parent == point.point


def test_the_time_of_a_point_is_after_the_freeze(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a guest writes while its agent takes its time to freeze it is in the point: its time says so."""
    written: list[datetime] = []
    enter = PullJob.__enter__

    def late(job: PullJob) -> PullJob:
        scene.machine.write("vda", 7, 0, MIB)
        written.append(datetime.now(UTC))
        return enter(job)

    with monkeypatch.context() as patch:
        patch.setattr(PullJob, "__enter__", late)
        point = scene.backup()
    assert written[0] <= point.time <= datetime.now(UTC)
    assert time_of(point.point) <= point.time
    earlier = scene.repository.points.select(f"{scene.machine.name}@{written[0].isoformat()}")
    assert earlier.point == point.parent
    scene.assert_exact(point)


def test_a_rehash_needs_no_point_that_is_deleted_meanwhile(
    machine_factory: MachineFactory, libvirt_uri: str, tmp_path: Path, truth: Truth
) -> None:
    """A raw disk names its parent in the point, and takes nothing over from it."""
    machine = machine_factory(DiskSpec("vda", MIB, "raw"))
    machine.write("vda", 1, 0, MIB)
    repository = puller.create_repository(str(tmp_path / "repository"), password=None)
    first = puller.backup(repository, machine.name, connect=libvirt_uri)

    def delete(exports: Sequence[DiskExport]) -> None:
        truth(exports)
        puller.delete(repository, [first.point])

    second = puller.backup(repository, machine.name, connect=libvirt_uri, on_frozen=delete)
    assert (second.kind, second.parent) == ("rehash", first.point)
    assert [point.point for point in puller.list_points(repository)] == [second.point]
    assert truth.equals(restored(repository, second, tmp_path), "vda", 1)
