"""Images that go back in time, or whose content is changed without a write: the next point is exact."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

import puller
from puller.units import KIB, MIB
from tests.integration.conftest import SIZE, Scene, Truth, bitmap, checkpoints, io
from tests.lab.machine import Machine


def put_back(copy: Path, machine: Machine) -> None:
    shutil.copyfile(copy, machine.image("vda"))


def cold_copy(scene: Scene) -> Path:
    """What a copy of the file or a snapshot of its volume keeps, bitmaps included."""
    copy = scene.folder / f"copy-{scene.taken}.qcow2"
    scene.machine.stop()
    shutil.copyfile(scene.machine.image("vda"), copy)
    return copy


@pytest.mark.parametrize("mode", ["offline", "pull", "push"])
def test_an_image_from_before_a_point_of_the_domain_shut_off(scene: Scene, truth: Truth, mode: str) -> None:
    """Its bitmap is that which the point names, and knows nothing of what the point saw."""
    machine = scene.machine
    (first,) = puller.list_points(scene.repository)
    copy = cold_copy(scene)
    machine.start()
    machine.write("vda", 9, 2 * MIB, 64 * KIB)
    machine.stop()
    off = scene.backup()
    assert (off.kind, off.checkpoint, off.disks[0].new_bytes) == ("incremental", first.checkpoint, 64 * KIB)
    put_back(copy, machine)
    if mode != "offline":
        machine.start()
    if mode == "push":
        scene.truth = truth.of(machine)
    point = scene.backup(mode="pull" if mode == "offline" else mode)
    assert (point.kind, point.parent) == ("incremental", first.point)
    scene.assert_exact(point)


def test_an_image_from_between_two_points(scene: Scene) -> None:
    """It has the bitmap of the first and not that of the second, or none at all."""
    machine = scene.machine
    (first,) = puller.list_points(scene.repository)
    machine.write("vda", 7, MIB, 64 * KIB)
    early = cold_copy(scene)
    machine.start()
    machine.write("vda", 9, 2 * MIB, 64 * KIB)
    second = scene.backup()
    machine.write("vda", 8, 3 * MIB, 64 * KIB)
    late = cold_copy(scene)
    machine.start()
    third = scene.backup()
    machine.stop()
    for copy, owner in ((late, second), (early, first)):
        put_back(copy, machine)
        machine.start()
        point = scene.backup()
        assert (point.kind, point.parent, point.disks[0].dirty_bytes) == (
            "incremental",
            owner.point,
            64 * KIB,
        )
        assert machine.bitmaps("vda") == {point.checkpoint} != {third.checkpoint}
        scene.assert_exact(point)
        machine.stop()


def test_an_image_that_was_copied_while_the_guest_ran(scene: Scene) -> None:
    """As a snapshot of the volume does: its bitmaps are flagged in-use, or were not in the image yet."""
    machine = scene.machine
    for known in (True, False):
        if known:
            machine.stop()
            machine.start()
        else:
            scene.backup()
        machine.write("vda", 7, MIB, 64 * KIB)
        machine.flush()
        copy = scene.folder / "hot.qcow2"
        shutil.copyfile(machine.image("vda"), copy)
        machine.write("vda", 8, 2 * MIB, 64 * KIB)
        machine.stop()
        put_back(copy, machine)
        machine.start()
        point = scene.backup()
        assert point.kind == "rehash"
        scene.assert_exact(point)


def test_an_internal_snapshot_is_not_reverted_to_past_a_bitmap(scene: Scene) -> None:
    """QEMU refuses: it would not record what changes."""
    scene.machine.stop()
    image = str(scene.machine.image("vda"))
    subprocess.run(["qemu-img", "snapshot", "-c", "before", image], check=True)
    revert = ["qemu-img", "snapshot", "-a", "before", image]
    refused = subprocess.run(revert, check=False, capture_output=True, text=True)
    assert refused.returncode
    assert "dirty bitmaps" in refused.stderr
    bitmap(Path(image), "--remove", checkpoints(scene.machine).pop())
    io(Path(image), "qcow2", "write -P 9 2M 64k")
    subprocess.run(revert, check=True)
    point = scene.backup()
    assert point.kind == "rehash"
    scene.assert_exact(point)


def test_a_point_shut_off_outlives_the_one_before(scene: Scene) -> None:
    """Then nothing can be built upon its bitmap any more, and the next points say so."""
    machine = scene.machine
    (first,) = puller.list_points(scene.repository)
    machine.write("vda", 4, 3 * MIB, 64 * KIB)
    machine.stop()
    scene.backup()
    puller.delete(scene.repository, [first.point])
    gone = f"point {first.point}, since which its dirty bitmap records, is gone, damaged or of another image"
    for running in (False, True):
        if running:
            machine.start()
            puller.delete(scene.repository, [puller.list_points(scene.repository)[-1].point])
        point = scene.backup()
        assert (point.kind, point.disks[0].reason, point.disks[0].stored_bytes) == ("rehash", gone, 0)
        scene.assert_exact(point)
    assert f"deleted checkpoint {first.checkpoint}: it has no restore point" in scene.told
    assert checkpoints(machine) == {point.checkpoint}
    assert scene.backup().kind == "incremental"


def test_an_image_that_is_laid_upon_another(scene: Scene) -> None:
    """``qemu-img rebase -u`` changes what the guest sees, and no bitmap."""
    machine, image = scene.machine, scene.machine.image("vda")
    machine.stop()
    for number, name in enumerate(("one", "two"), 1):
        subprocess.run(
            ["qemu-img", "create", "-q", "-f", "qcow2", str(scene.folder / name), str(SIZE)], check=True
        )
        io(scene.folder / name, "qcow2", f"write -P {number} 0 2M")
    upon = ["-F", "qcow2", "-b"]
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *upon, "one", str(image)], check=True)
    machine.start()
    machine.write("vda", 7, 6 * MIB, 64 * KIB)
    first = scene.backup()
    machine.stop()
    off = scene.backup()
    assert (off.kind, off.parent) == ("incremental", first.point), "the same by libvirt and by the image"
    machine.start()
    assert scene.backup().kind == "incremental"
    machine.stop()
    for other, running in (("two", True), ("one", False)):
        rebase = ["qemu-img", "rebase", "-u", *upon, other, str(image)]
        subprocess.run(rebase, check=True)
        if running:
            machine.start()
        point = scene.backup()
        assert point.kind == "rehash"
        assert point.disks[0].reason.startswith(
            f"its backing images are now qcow2 {scene.folder / other} and were"
        )
        scene.assert_exact(point)
        if running:
            assert scene.backup().kind == "incremental"
            machine.stop()


def test_an_overlay_that_is_committed(scene: Scene) -> None:
    """QEMU's commit writes to the image, whose bitmap records that."""
    machine, image = scene.machine, scene.machine.image("vda")
    (first,) = puller.list_points(scene.repository)
    overlay = scene.folder / "overlay.qcow2"
    machine.stop()
    create = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", str(image), str(overlay)]
    subprocess.run(create, check=True)
    scene.redefine(lambda root: root.find("./devices/disk/source").set("file", str(overlay)))  # type: ignore[union-attr]
    io(overlay, "qcow2", "write -P 8 2M 64k")
    assert scene.backup().disks[0].backing == (f"qcow2 {image}",)
    subprocess.run(["qemu-img", "commit", "-q", str(overlay)], check=True)
    scene.redefine(lambda root: root.find("./devices/disk/source").set("file", str(image)))  # type: ignore[union-attr]
    machine.start()
    point = scene.backup()
    assert (point.kind, point.parent, point.disks[0].dirty_bytes) == ("incremental", first.point, 64 * KIB)
    scene.assert_exact(point)
