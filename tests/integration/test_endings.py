"""A guest that is reset or whose QEMU crashes in the midst of a pull, and checkpoints that go after it."""

from __future__ import annotations

import threading
import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import puller
from puller.backups import aftermath
from puller.cli.output.results import taken as cli_taken
from puller.errors import CheckpointUnusable, DomainNotRunning, HypervisorError, JobLeftOpen
from puller.events import Event, Notice, Observer, Step
from puller.hypervisor.connection import Host
from puller.hypervisor.domain import checkpoint as checkpoint_module
from puller.hypervisor.domain.domain import Domain
from puller.hypervisor.job import openjob
from puller.hypervisor.job.frozen import DiskExport
from puller.hypervisor.job.job import PullJob
from puller.hypervisor.space import scratchwatch
from puller.jobs.batch import Reporters, take_all
from puller.repository.points import time_of
from puller.units import GIB, MIB
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


@pytest.mark.parametrize("mode", ["pull", "push"])
def test_a_guest_that_shuts_down_by_itself(
    machine_factory: MachineFactory, libvirt_uri: str, tmp_path: Path, mode: str
) -> None:
    """From 11.10 on libvirt keeps QEMU until the job has ended. Before, the job ends with QEMU."""
    large = [DiskSpec("vdb", GIB, "qcow2-falloc")] if mode == "push" else []
    machine = machine_factory(DiskSpec("vda", 8 * MIB), *large)
    for disk in large:
        machine.brake(disk.target)
    repository = puller.create_repository(str(tmp_path / "repository"), password=None)
    content = bytearray(8 * MIB)

    def write(pattern: int, start: int, length: int) -> None:
        machine.write("vda", pattern, start * MIB, length * MIB)
        content[start * MIB : (start + length) * MIB] = bytes([pattern]) * length * MIB
        machine.flush()

    def take(observer: Observer = lambda event: None, **options: Any) -> puller.Point:
        options = {"connect": libvirt_uri, "mode": mode, "observer": observer, **options}
        return puller.backup(repository, machine.name, **options)

    def shut_down(event: Event) -> None:
        if isinstance(event, Step) and event.name == ("read" if mode == "pull" else "push"):
            machine.shut_down_from_inside()

    write(1, 0, 8)
    last = take(disks=["vda"])
    write(2, 1, 1)
    with Host.connect(libvirt_uri) as host:
        is_kept = host.libvirt_version >= (11, 10, 0)
    if is_kept:
        last = take(shut_down)
        assert [disk.kind for disk in last.disks] == ["incremental", *("full" for _ in large)]
        assert (restored(repository, last, tmp_path) / "vda.raw").read_bytes() == content
        assert not machine.handle.isActive()
    else:
        with pytest.raises(DomainNotRunning):
            take(shut_down)
    assert not leftovers(tmp_path)
    machine.start()
    write(3, 2, 1)
    later = take(disks=["vda"])
    assert (later.kind, later.parent) == ("incremental", last.point)
    assert (restored(repository, later, tmp_path) / "vda.raw").read_bytes() == content
    needed = {last.checkpoint} if is_kept and large else set()  # by the other disk
    assert checkpoints(machine) == {later.checkpoint, *needed}


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
        isinstance(event, Notice) and "the next run will delete older checkpoints" in event.text
        for event in told
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


def _delete(repository: puller.Repository, point: puller.Point, _folder: Path) -> None:
    puller.delete(repository, [point.point])


def _damage(_repository: puller.Repository, point: puller.Point, folder: Path) -> None:
    (folder / "points" / point.uuid / point.point).write_bytes(b"damaged")


@pytest.mark.parametrize("befall", [_delete, _damage])
def test_a_rehash_needs_no_point_that_is_deleted_or_damaged_meanwhile(
    machine_factory: MachineFactory,
    libvirt_uri: str,
    tmp_path: Path,
    truth: Truth,
    befall: Callable[[puller.Repository, puller.Point, Path], None],
) -> None:
    """A raw disk names its parent in the point, and takes nothing over from it."""
    machine = machine_factory(DiskSpec("vda", MIB, "raw"))
    machine.write("vda", 1, 0, MIB)
    folder = tmp_path / "repository"
    repository = puller.create_repository(str(folder), password=None)
    first = puller.backup(repository, machine.name, connect=libvirt_uri)

    def meanwhile(exports: Sequence[DiskExport]) -> None:
        truth(exports)
        befall(repository, first, folder)

    second = puller.backup(repository, machine.name, connect=libvirt_uri, on_frozen=meanwhile)
    assert (second.kind, second.parent) == ("rehash", first.point)
    assert truth.equals(restored(repository, second, tmp_path), "vda", 1)


def _refuse(monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """Let libvirt refuse to end a job so many times."""
    cancel, refused = openjob._cancel, list(range(times))

    def refuse(domain: Domain) -> None:
        if refused:
            refused.pop()
            raise HypervisorError("cannot acquire state change lock")
        cancel(domain)

    monkeypatch.setattr(openjob, "_cancel", refuse)
    monkeypatch.setattr(aftermath, "_BETWEEN", 0.01)


def test_a_job_that_cannot_be_ended_at_once_is_ended_later(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        _refuse(patch, 5)
        point = scene.backup()
    assert any(
        "its backup job is still open, and puller keeps trying to end it: cannot" in text
        for text in scene.told
    )
    with pytest.raises(Exception, match="backup"):
        scene.machine.handle.backupGetXMLDesc()
    assert leftovers(scene.folder) == []
    assert scene.backup().parent == point.point


def test_a_signal_while_a_job_that_resists_is_ended(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """The failure of the second try to end the job does not hide it: no other domain is begun."""
    cancel = openjob._cancel
    met: list[BaseException] = [HypervisorError("cannot acquire state change lock"), KeyboardInterrupt()]

    def resist(domain: Domain) -> None:
        if met:
            raise met.pop()
        cancel(domain)

    def take(domain: str, observer: Observer) -> puller.Point:
        return puller.backup(scene.repository, domain, connect=scene.uri, observer=observer)

    monkeypatch.setattr(openjob, "_cancel", resist)
    audience = Reporters(lambda _: None, lambda _: None, lambda *_: None)
    taken = take_all([scene.machine.name] * 2, take, audience)
    assert isinstance(taken.interruption, KeyboardInterrupt)
    assert len(taken.points) == 1
    assert taken.failed == []
    with pytest.raises(Exception, match="backup"):
        scene.machine.handle.backupGetXMLDesc()
    assert leftovers(scene.folder) == []


def test_a_job_that_cannot_be_ended_has_its_own_exit_code(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The point stands. Until then the room for the scratch is watched."""
    rooms = [2**40]
    monkeypatch.setattr(scratchwatch, "free_bytes", lambda folder, what, host: rooms.pop() if rooms else 1)
    monkeypatch.setattr(scratchwatch, "INTERVAL", 0.001)
    told: list[Event] = []
    full = threading.Event()

    def tell(event: Event) -> None:
        told.append(event)
        if isinstance(event, Notice) and "filling up and the backup job cannot be ended" in event.text:
            full.set()
        if isinstance(event, Step) and event.name == "end":
            rooms.clear()

    def take(domain: str, observer: Observer) -> puller.Point:
        return puller.backup(scene.repository, domain, connect=scene.uri, observer=observer)

    with monkeypatch.context() as patch:
        rooms.extend([2**40] * 10**6)
        _refuse(patch, 10**6)
        patch.setattr(aftermath, "_expired", lambda deadline: full.wait(60))
        taken = take_all([scene.machine.name], take, Reporters(tell, lambda _: None, lambda *_: None))
    failure = cli_taken.failure(taken)
    assert isinstance(failure, JobLeftOpen) and failure.exit_code == 17
    (point,) = taken.points
    assert point.point in failure.message and f"virsh domjobabort {scene.machine.name}" in failure.advice
    assert puller.list_points(scene.repository)[-1] == point
    assert taken.failed == []
    assert full.is_set()
    monkeypatch.undo()
    assert scene.backup().parent == point.point
    assert "ended a backup job that an earlier run had left open" in scene.told


def test_what_changes_beside_the_disks_is_as_it_was_at_the_freeze(scene: Scene) -> None:
    """A guest that installs a boot loader meanwhile: the disks are from before it, and so is the NVRAM."""
    scene.machine.stop()
    variables = scene.folder / "variables.fd"
    variables.write_bytes(b"before")
    (scene.folder / "code.fd").write_bytes(bytes(128 * 1024))

    def equip(root: ET.Element) -> None:
        system = root.find("os")
        assert system is not None
        loader = ET.SubElement(system, "loader", readonly="yes", type="pflash")
        loader.text = str(scene.folder / "code.fd")
        ET.SubElement(system, "nvram").text = str(variables)
        ET.SubElement(ET.SubElement(root, "features"), "acpi")

    def entitle(root: ET.Element) -> None:
        ET.SubElement(root, "title").text = "another"

    scene.redefine(equip)
    truth = scene.truth

    def change(exports: Sequence[DiskExport]) -> None:
        truth(exports)
        variables.write_bytes(b"after")
        scene.redefine(entitle)

    scene.truth = change
    point = scene.backup()
    told = "changed during the backup: the point has its state at the start of the backup"
    assert point.notes == (f"domain.xml {told}", f"nvram.fd {told}")
    folder = restored(scene.repository, point, scene.folder)
    assert (folder / "nvram.fd").read_bytes() == b"before"
    assert "another" not in (folder / "domain.xml").read_text()
