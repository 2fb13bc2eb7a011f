"""``forget``: a domain loses our checkpoints and bitmaps, nobody else's, and the next backup is exact."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

import puller
from puller.backups.forget import Forgotten, RemovedBitmap
from puller.errors import HypervisorError, JobRunning, Locked, NoSuchDomain
from puller.hypervisor.domain.checkpoint import owner_prefix
from puller.hypervisor.domain.disks.image import describe, stored_bitmaps
from puller.hypervisor.locking.lock import DomainLock, lock_directory
from puller.nbd.image import ImageServer
from puller.units import KIB, MIB
from tests.integration.conftest import Scene, Truth, bitmap, checkpoints
from tests.lab.fixtures import MachineFactory
from tests.lab.machine import DiskSpec

FOREIGN = f"{owner_prefix('f' * 32)}20261123T050000Z-00000000"
"""A name as another repository's runs give it."""


def forget(scene: Scene, **options: Any) -> Forgotten:
    return puller.forget(scene.repository, scene.machine.name, connect=scene.uri, **options)


def own(scene: Scene) -> str:
    """The checkpoint of the newest point."""
    name = puller.list_points(scene.repository)[-1].checkpoint
    assert name is not None
    return name


def stored(scene: Scene) -> set[str]:
    """Bitmaps in the image of vda."""
    return set(stored_bitmaps(describe(scene.machine.image("vda"), "qcow2")[0]))


def add_foreign_checkpoint(scene: Scene, name: str) -> None:
    xml = f"<domaincheckpoint><name>{name}</name></domaincheckpoint>"
    scene.machine.handle.checkpointCreateXML(xml, 0)


def assert_rehash(scene: Scene) -> None:
    scene.machine.write("vda", 9, MIB, 64 * KIB)
    point = scene.backup()
    (disk,) = point.disks
    assert (disk.kind, point.parent is not None) == ("rehash", True)
    assert disk.new_bytes <= MIB
    scene.assert_exact(point)
    assert len(puller.list_points(scene.repository)) == 2


@pytest.mark.parametrize("running", [True, False], ids=["running", "shut off"])
def test_what_is_ours_goes_and_what_is_not_stays(scene: Scene, running: bool) -> None:
    machine, name = scene.machine, own(scene)
    add_foreign_checkpoint(scene, "theirs")
    add_foreign_checkpoint(scene, FOREIGN)
    if not running:
        machine.stop()
    done = forget(scene)
    assert done == Forgotten(machine.name, (name,), (RemovedBitmap("vda", name),))
    assert checkpoints(machine) == {"theirs", FOREIGN}
    if running:
        assert machine.bitmaps("vda") == {"theirs", FOREIGN}
        machine.stop()
    assert stored(scene) == {"theirs", FOREIGN}
    assert len(puller.list_points(scene.repository)) == 1
    machine.start()
    assert_rehash(scene)
    assert machine.bitmaps("vda") == {"theirs", FOREIGN, own(scene)}


@pytest.mark.parametrize("running", [True, False], ids=["running", "shut off"])
def test_bitmaps_without_a_checkpoint_go_too(scene: Scene, running: bool) -> None:
    machine, name = scene.machine, own(scene)
    machine.stop()
    machine.forget_checkpoints()
    bitmap(machine.image("vda"), "--add", FOREIGN)
    if running:
        machine.start()
    assert forget(scene) == Forgotten(machine.name, (), (RemovedBitmap("vda", name),))
    # The image of a running domain goes on listing what was removed, until QEMU closes it.
    assert forget(scene) == Forgotten(machine.name, (), ())
    if running:
        machine.stop()
    assert stored(scene) == {FOREIGN}
    machine.start()
    assert_rehash(scene)


def test_a_bitmap_that_only_qemu_and_the_point_know(scene: Scene) -> None:
    scene.machine.forget_checkpoints()
    name = own(scene)
    assert name not in stored(scene)
    assert forget(scene).bitmaps == (RemovedBitmap("vda", name),)
    assert scene.machine.bitmaps("vda") == set()


def test_inconsistent_bitmaps_after_a_crash(scene: Scene) -> None:
    machine, name = scene.machine, own(scene)
    machine.stop()
    machine.start()
    machine.kill()
    assert forget(scene) == Forgotten(machine.name, (name,), (RemovedBitmap("vda", name),))
    assert (stored(scene), checkpoints(machine)) == (set(), set())
    machine.start()
    assert_rehash(scene)


def test_a_domain_with_a_saved_state_is_refused(scene: Scene) -> None:
    machine, name = scene.machine, own(scene)
    machine.save()
    with pytest.raises(HypervisorError, match="its saved state may refer to them") as refused:
        forget(scene)
    assert "virsh managedsave-remove" in refused.value.advice
    assert_untouched(scene, name)
    machine.handle.managedSaveRemove()
    assert forget(scene) == Forgotten(machine.name, (name,), (RemovedBitmap("vda", name),))


def test_a_domain_without_anything_of_ours(machine_factory: MachineFactory, scene: Scene) -> None:
    other = machine_factory(DiskSpec("vda", MIB), DiskSpec("vdb", MIB, "raw"))
    for _ in range(2):
        done = puller.forget(scene.repository, other.name, connect=scene.uri)
        assert done == Forgotten(other.name, (), ())
        if other.handle.isActive():
            other.stop()
    with pytest.raises(NoSuchDomain):
        puller.forget(scene.repository, "nobody", connect=scene.uri)


def assert_untouched(scene: Scene, name: str) -> None:
    assert (name in stored(scene), checkpoints(scene.machine)) == (True, {name})


def test_an_image_that_is_in_use_is_refused_before_anything_is_removed(
    machine_factory: MachineFactory, libvirt_uri: str, tmp_path: Path, truth: Truth
) -> None:
    machine = machine_factory(DiskSpec("vda", MIB), DiskSpec("vdb", MIB))
    scene = Scene(machine, libvirt_uri, tmp_path, truth)
    scene.backup()
    name = own(scene)
    machine.stop()
    with (
        ImageServer.read_only(machine.image("vdb"), "qcow2"),
        pytest.raises(Locked, match=f"image {machine.image('vdb')} of domain .* is in use by another"),
    ):
        forget(scene)
    assert_untouched(scene, name)
    assert {item.disk for item in forget(scene).bitmaps} == {"vda", "vdb"}


def test_an_image_that_cannot_be_read_is_refused_before_anything_is_removed(
    machine_factory: MachineFactory, libvirt_uri: str, tmp_path: Path, truth: Truth
) -> None:
    machine = machine_factory(DiskSpec("vda", MIB), DiskSpec("vdb", MIB))
    scene = Scene(machine, libvirt_uri, tmp_path, truth)
    scene.backup()
    name = own(scene)
    machine.stop()
    away = machine.image("vdb").rename(tmp_path / "away")
    with pytest.raises(HypervisorError, match=f"cannot read {machine.image('vdb')}: .*No such file"):
        forget(scene)
    assert_untouched(scene, name)
    away.rename(machine.image("vdb"))


def test_a_bitmap_in_a_backing_file_stays_and_is_named(scene: Scene) -> None:
    machine, name = scene.machine, own(scene)
    machine.stop()
    image, base = machine.image("vda"), scene.folder / "base"
    image.rename(base)
    words = ["qemu-img", "create", "-q", "-f", "qcow2", "-b", str(base), "-F", "qcow2", str(image)]
    subprocess.run(words, check=True)
    assert forget(scene, observer=scene._observe) == Forgotten(machine.name, (name,), ())
    assert scene.told[-1] == f"bitmap {name} stays in a backing file of disk vda"


@pytest.mark.parametrize("running", [True, False], ids=["running", "shut off"])
def test_a_backup_that_is_under_way_is_refused(scene: Scene, running: bool) -> None:
    machine, name = scene.machine, own(scene)
    if not running:
        machine.stop()
    with (
        DomainLock(machine.uuid, machine.name, lock_directory()),
        pytest.raises(Locked, match="is being backed up by process") as caught,
    ):
        forget(scene)
    assert caught.value.exit_code == 11
    assert checkpoints(machine) == {name}


def test_a_job_of_another_program_is_refused(scene: Scene) -> None:
    machine, name = scene.machine, own(scene)
    with machine.exported(scene.folder / "s"), pytest.raises(JobRunning):
        forget(scene)
    assert (checkpoints(machine), machine.bitmaps("vda")) == ({name}, {name})
    assert forget(scene).checkpoints == (name,)
