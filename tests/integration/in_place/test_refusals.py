"""What a rollback refuses before it writes anything."""

from __future__ import annotations

import subprocess
import xml.etree.ElementTree as ET
from contextlib import ExitStack
from pathlib import Path

import pytest

import puller
from puller.errors import (
    DomainRunning,
    KeyNotHeld,
    Locked,
    NbdError,
    NoSuchDisk,
    OutputInUse,
    OutputRefused,
    UnsupportedDisk,
)
from puller.hypervisor.storage.rollback_mark import RollbackMark, find_mark, put_mark
from puller.nbd.image import ImageServer
from puller.recovery.disk_rollback import DiskRollback, DiskWork
from puller.repository.keys.keyring import KeyRing
from puller.units import MIB
from tests.integration.conftest import SIZE, Scene, Truth
from tests.integration.in_place.rolling import first_of, put_on, roll, scribble, two_disks
from tests.lab.fixtures import MachineFactory
from tests.lab.machine import DiskSpec


def test_a_running_or_saved_domain_is_refused(scene: Scene) -> None:
    first = first_of(scene)
    with pytest.raises(DomainRunning, match="is running"):
        roll(scene, first)
    scene.machine.save()
    with pytest.raises(DomainRunning, match="saved state") as refused:
        roll(scene, first)
    scene.machine.handle.managedSaveRemove()
    assert "virsh managedsave-remove" in refused.value.advice
    assert find_mark(scene.machine.image("vda")) is None


def test_an_image_that_is_in_use_or_gone_is_refused_before_anything_is_written(
    machine_factory: MachineFactory, libvirt_uri: str, tmp_path: Path, truth: Truth
) -> None:
    scene = two_disks(machine_factory, libvirt_uri, tmp_path, truth)
    first = first_of(scene)
    for target in ("vda", "vdb"):
        scene.machine.write(target, 9, 0, MIB)
    scene.machine.flush()
    scene.machine.stop()
    one, two = scene.machine.image("vda"), scene.machine.image("vdb")
    before = one.read_bytes()
    with ImageServer.read_only(two, "qcow2"), pytest.raises(OutputInUse, match="qemu-nbd"):
        roll(scene, first)
    away = two.rename(tmp_path / "away")
    with pytest.raises(OutputRefused, match=f"image {two} of disk vdb does not exist"):
        roll(scene, first)
    away.rename(two)
    with pytest.raises(NoSuchDisk, match="has no disk vdz"):
        roll(scene, first, disks=["vdz"])
    assert (one.read_bytes(), find_mark(one), find_mark(two)) == (before, None, None)


def test_a_backup_only_key_is_refused_before_anything_is_written(scene: Scene, tmp_path: Path) -> None:
    sealed = puller.create_repository(str(tmp_path / "sealed"), password="x")
    point = puller.backup(sealed, scene.machine.name, connect=scene.uri)
    scribble(scene)
    scene.machine.stop()
    sealed.keys = KeyRing.from_backup_only(
        sealed.keys.repository_id, sealed.keys.repository_id, sealed.keys.backup_only()
    )
    before = scene.machine.image("vda").read_bytes()
    (found,) = puller.diff(sealed, point.point, connect=scene.uri).disks
    assert found.changed_bytes > 0
    with pytest.raises(KeyNotHeld):
        puller.rollback(sealed, point.point, connect=scene.uri)
    assert scene.machine.image("vda").read_bytes() == before


def test_a_point_is_not_taken_first_where_the_rollback_is_refused(scene: Scene) -> None:
    with pytest.raises(DomainRunning):
        roll(scene, first_of(scene), backup_first=True)
    assert len(puller.list_points(scene.repository)) == 1


def test_a_disk_that_the_point_does_not_have_is_named(
    machine_factory: MachineFactory, libvirt_uri: str, tmp_path: Path, truth: Truth
) -> None:
    scene = Scene(machine_factory(DiskSpec("vda", SIZE), DiskSpec("vdb", SIZE)), libvirt_uri, tmp_path, truth)
    point = scene.backup(disks=["vda"])
    scene.machine.write("vdb", 3, 0, MIB)
    scene.machine.stop()
    before = scene.machine.image("vdb").read_bytes()
    roll(scene, point, dry_run=True)
    told = scene.told
    roll(scene, point)
    assert scene.told == told == ["disk vdb stays as it is: the point does not have it"]
    assert scene.machine.image("vdb").read_bytes() == before
    roll(scene, point, disks=["vda"])
    assert scene.told == []


def test_a_size_that_qemu_refuses_to_give_back_leaves_no_mark(scene: Scene) -> None:
    """QEMU does not resize images of version 2 that have snapshots."""
    first, image = first_of(scene), scene.folder / "old.qcow2"
    scene.machine.stop()
    command = ["qemu-img", "create", "-q", "-f", "qcow2", "-o", "compat=0.10", str(image), str(SIZE + MIB)]
    subprocess.run(command, check=True)
    subprocess.run(["qemu-img", "snapshot", "-c", "before", image], check=True)
    put_on(scene, image)
    with pytest.raises(NbdError, match="Can't resize a v2 image which has snapshots"):
        roll(scene, first)
    assert find_mark(image) is None
    put_mark(image, RollbackMark("an earlier one", "vda"))
    with pytest.raises(NbdError):
        roll(scene, first)
    assert find_mark(image) is not None


def test_a_disk_on_the_network_is_refused_with_the_way_back(scene: Scene) -> None:
    first = first_of(scene)
    scene.machine.stop()

    def edit(root: ET.Element) -> None:
        disk = root.find("./devices/disk")
        assert disk is not None
        disk.set("type", "network")
        source = disk.find("source")
        assert source is not None
        source.attrib.clear()
        source.attrib.update({"protocol": "nbd", "name": "x"})
        ET.SubElement(source, "host", name="127.0.0.1", port="10809")

    scene.redefine(edit)
    with pytest.raises(
        UnsupportedDisk, match=r"cannot roll back disk vda of domain .*: it is network"
    ) as refused:
        roll(scene, first)
    assert f"'puller restore {first.point} --disk vda=TARGET'" in refused.value.advice


def test_an_image_that_is_replaced_meanwhile_is_left_alone(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A restore with --force does not wait for a rollback that has not begun to write."""
    first, image = first_of(scene), scene.machine.image("vda")
    scene.machine.stop()

    begin = DiskRollback.begin

    def replace(disk: DiskRollback, servers: ExitStack) -> DiskWork:
        other = scene.folder / "other.qcow2"
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", other, str(SIZE + MIB)], check=True)
        other.rename(image)
        return begin(disk, servers)

    monkeypatch.setattr(DiskRollback, "begin", replace)
    with pytest.raises(Locked, match="was replaced while puller looked at it"):
        roll(scene, first)
    assert find_mark(image) is None
