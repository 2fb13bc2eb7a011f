"""Bitmaps and checkpoints that were lost, or that belong to another host.

Whatever has happened, the next run needs no help, stores what has changed and restores exactly.
"""

from __future__ import annotations

from datetime import timedelta

import pytest
from msgspec import structs

import puller
from puller.errors import (
    CheckpointUnusable,
)
from puller.hypervisor.job.job import PullJob
from puller.repository.points import Ref, new_id
from puller.units import KIB, MIB
from tests.integration.conftest import Scene, bitmap, checkpoints
from tests.lab.feed import store_disk


def kill_qemu(scene: Scene) -> None:
    """Bitmaps that were in the image stay flagged in-use. Only those of an earlier start are in it."""
    scene.machine.stop()
    scene.machine.start()
    scene.machine.kill()
    scene.machine.start()


def remove_bitmap(scene: Scene) -> None:
    scene.machine.stop()
    (name,) = checkpoints(scene.machine)
    bitmap(scene.machine.image("vda"), "--remove", name)
    scene.machine.start()


def clear_the_bitmaps_feature(scene: Scene) -> None:
    """As a program that knows nothing of bitmaps does when it writes to the image (autoclear bit 0)."""
    scene.machine.stop()
    with scene.machine.image("vda").open("r+b") as image:
        image.seek(88)
        image.write(bytes(8))
    scene.machine.start()


FAULTS = [kill_qemu, remove_bitmap, clear_the_bitmaps_feature]


def test_a_lost_bitmap_costs_a_read_and_no_storage(scene: Scene) -> None:
    for number, spoil in enumerate(FAULTS):
        (known,) = checkpoints(scene.machine)
        spoil(scene)
        scene.machine.write("vda", number + 1, number * MIB, 64 * KIB)
        scene.machine.discard("vda", (number + 8) * MIB, 128 * KIB)
        point = scene.backup()
        (disk,) = point.disks
        assert (point.kind, disk.kind) == ("rehash", "rehash")
        assert disk.reason == f"its dirty bitmap of checkpoint {known} is missing or inconsistent"
        assert (
            f"puller reads all data of disk vda and compares it with point {disk.parent}: {disk.reason}"
            in scene.told
        )
        assert disk.read_bytes > 15 * MIB
        assert disk.stored_bytes < 16 * MIB // 100
        assert checkpoints(scene.machine) == {point.checkpoint}
        scene.assert_exact(point)
        scene.machine.write("vda", number + 1, 12 * MIB, 64 * KIB)
        assert scene.backup().kind == "incremental"


def test_a_bitmap_that_nothing_needs_is_removed(scene: Scene) -> None:
    machine = scene.machine
    (known,) = checkpoints(machine)
    machine.stop()
    machine.forget_checkpoints()
    machine.start()
    puller.delete(scene.repository, [point.point for point in puller.list_points(scene.repository)])
    point = scene.backup()
    assert point.kind == "full"
    assert scene.told == [f"removed dirty bitmap {known} from vda: its checkpoint no longer exists"]
    assert machine.bitmaps("vda") == {point.checkpoint}


def test_a_checkpoint_that_libvirt_refuses_is_done_without(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it says of the bitmaps before is not what counts when the job begins."""
    real = PullJob._begin

    def refuse(job: PullJob) -> None:
        if any(job._bases.values()):
            raise CheckpointUnusable("the bitmap is broken")
        real(job)

    monkeypatch.setattr(PullJob, "_begin", refuse)
    point = scene.backup()
    assert (point.kind, point.disks[0].reason) == ("rehash", "the bitmap is broken")
    assert checkpoints(scene.machine) == {point.checkpoint}
    scene.assert_exact(point)


def test_a_checkpoint_that_only_libvirt_has_lost_is_redefined(scene: Scene) -> None:
    (known,) = checkpoints(scene.machine)
    scene.machine.forget_checkpoints()
    scene.machine.write("vda", 3, 2 * MIB, 64 * KIB)
    point = scene.backup()
    assert (point.kind, point.disks[0].dirty_bytes) == ("incremental", 64 * KIB)
    assert f"restored libvirt's lost record of checkpoint {known}" in scene.told
    assert scene.machine.bitmaps("vda") == {point.checkpoint}
    scene.assert_exact(point)
    (known,) = checkpoints(scene.machine)
    scene.machine.forget_checkpoints()
    scene.machine.lose_bitmap("vda", known)
    point = scene.backup()
    (disk,) = point.disks
    assert disk.reason == f"libvirt has lost checkpoint {known}"
    assert (disk.kind, disk.new_bytes, disk.stored_bytes) == ("rehash", 0, 0)
    assert checkpoints(scene.machine) == {point.checkpoint}
    scene.assert_exact(point)


def test_a_checkpoint_whose_stored_xml_is_damaged_is_done_without(scene: Scene) -> None:
    (point,) = puller.list_points(scene.repository)
    scene.repository.points.delete([(point.uuid, point.point)])
    scene.repository.points.commit(structs.replace(point, checkpoint_xml="<domaincheckpoint>"))
    scene.machine.forget_checkpoints()
    point = scene.backup()
    assert (point.kind, point.disks[0].new_bytes) == ("rehash", 0)
    assert checkpoints(scene.machine) == {point.checkpoint}
    scene.assert_exact(point)


def test_a_point_of_a_copy_on_another_host_is_no_base(scene: Scene) -> None:
    """It has the UUID, the disk's name and a checkpoint, and is newer; but its bitmap is in another image."""
    (own,) = puller.list_points(scene.repository)
    size = own.disks[0].size
    root, _ = store_disk(scene.repository, b"\1" * size)
    name = new_id(own.time + timedelta(seconds=1))
    mark = f"{str(own.checkpoint)[: -len(own.point)]}{name}"
    copy = structs.replace(
        own,
        point=name,
        host="lab",
        time=own.time + timedelta(seconds=1),
        disks=(structs.replace(own.disks[0], root=Ref.to(root)),),
        checkpoint=mark,
        checkpoint_xml=str(own.checkpoint_xml).replace(str(own.checkpoint), mark),
    )
    scene.repository.points.commit(copy)
    scene.machine.write("vda", 3, 2 * MIB, 64 * KIB)
    point = scene.backup()
    (disk,) = point.disks
    assert (disk.kind, disk.parent, disk.dirty_bytes) == ("incremental", own.point, 64 * KIB)
    scene.assert_exact(point)


def test_a_restored_disk_begins_with_a_comparison(scene: Scene) -> None:
    scene.machine.write("vda", 9, 0, MIB)
    later = scene.backup()
    (first,) = (point for point in puller.list_points(scene.repository) if point.point == later.parent)
    scene.machine.stop()
    target = scene.machine.image("vda")
    puller.restore(
        scene.repository, first.point, output=str(target), disks=["vda"], format="qcow2", force=True
    )
    scene.machine.start()
    point = scene.backup()
    assert (point.kind, point.disks[0].new_bytes) == ("rehash", 0)
    scene.assert_exact(point)
