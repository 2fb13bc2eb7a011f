"""Disks whose bitmap cannot be believed are read and compared with the point."""

from __future__ import annotations

import subprocess
from pathlib import Path

import libvirt
import pytest

import puller
from puller.backups import transfer
from puller.backups.bases.probe import FOREIGN
from puller.errors import DamagedData, OutputRefused
from puller.hypervisor.storage.rollback_mark import find_mark, mark_path
from puller.recovery import broken_bitmaps, change_search
from puller.units import KIB, MIB
from tests.integration.conftest import SIZE, Scene, Truth, bitmap, io, loop_device
from tests.integration.in_place.rolling import (
    assert_next_is_incremental,
    compare,
    first_of,
    is_at,
    put_on,
    roll,
    scribble,
    two_disks,
)
from tests.lab.fixtures import MachineFactory


def test_an_image_upon_another_one(scene: Scene) -> None:
    first = first_of(scene)
    scene.machine.stop()
    base, overlay = scene.machine.image("vda"), scene.folder / "overlay.qcow2"
    command = [
        "qemu-img",
        "create",
        "-q",
        "-f",
        "qcow2",
        "-F",
        "qcow2",
        "-b",
        str(base),
        str(overlay),
        str(SIZE + MIB),
    ]
    subprocess.run(command, check=True)
    io(overlay, "qcow2", "write -P 9 1M 256k", "write -z 4M 1M", f"write -P 7 {SIZE} 64k")
    before = base.read_bytes()
    put_on(scene, overlay)
    roll(scene, first)
    assert compare(scene, overlay, "qcow2", first)
    assert base.read_bytes() == before


@pytest.mark.parametrize("kind", ["file", "block"])
def test_raw_disks_are_compared(scene: Scene, kind: str) -> None:
    first, plain = first_of(scene), scene.folder / "plain.img"
    scene.machine.stop()
    subprocess.run(["qemu-img", "convert", "-O", "raw", scene.machine.image("vda"), plain], check=True)
    io(plain, "raw", "write -P 9 1M 256k", "write -z 4M 1M", "write -P 5 20M 64k")
    if kind == "file":
        put_on(scene, plain, image_format="raw")
        (done,) = roll(scene, first).disks
        assert done.changed_bytes == 256 * KIB + MIB + 64 * KIB
        assert compare(scene, plain, "raw", first)
        return
    with plain.open("r+b") as file:
        file.truncate(SIZE + MIB)
    with loop_device(plain) as device:
        put_on(scene, device, "block", "raw")
        (done,) = roll(scene, first).disks
        assert done.changed_bytes == 256 * KIB + MIB + 64 * KIB
        assert compare(scene, device, "raw", first)
        assert not mark_path(Path(device)).exists()
    with plain.open("r+b") as file:
        file.truncate(SIZE - MIB)
    with loop_device(plain) as device:
        put_on(scene, device, "block", "raw")
        with pytest.raises(OutputRefused, match=r"has 23\.0 MiB, disk vda needs 24\.0 MiB"):
            roll(scene, first)


def test_another_image_under_the_same_name_is_compared(scene: Scene) -> None:
    """It has a bitmap with the right name that does not contain its changes."""
    first = first_of(scene)
    scene.machine.stop()
    image, copy = scene.machine.image("vda"), scene.folder / "copy.qcow2"
    copy.write_bytes(image.read_bytes())
    other = Path(f"{image}.other")
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", other, str(SIZE)], check=True)
    io(other, "qcow2", "write -P 3 0 20M")
    bitmap(other, "--add", str(first.checkpoint))
    other.rename(image)
    roll(scene, first)
    assert any("is read and compared" in text for text in scene.told)
    assert is_at(scene, first)


def test_a_bitmap_that_is_not_believed_learns_what_the_next_backup_needs(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The image already equals the wanted point, but its bitmap is from a later one and calls all of it
    clean."""
    first, image = first_of(scene), scene.machine.image("vda")
    scene.machine.write("vda", 5, MIB, 64 * KIB)
    later = scene.backup()
    scene.machine.stop()
    puller.restore(scene.repository, first.point, places={"vda": str(image)}, format="qcow2", force=True)
    assert later.checkpoint is not None
    subprocess.run(["qemu-img", "bitmap", "--add", str(image), later.checkpoint], check=True)
    monkeypatch.setattr(change_search, "find_mismatch", lambda *_, **__: "it is another one")
    monkeypatch.setattr(transfer, "find_mismatch", lambda *_, **__: None)  # as if its probe had no luck
    (done,) = roll(scene, first).disks
    assert done.changed_bytes == 64 * KIB
    assert is_at(scene, first)
    assert_next_is_incremental(scene)


def test_disks_that_changed_places_are_compared(
    machine_factory: MachineFactory, libvirt_uri: str, tmp_path: Path, truth: Truth
) -> None:
    scene = two_disks(machine_factory, libvirt_uri, tmp_path, truth)
    first = first_of(scene)
    scene.machine.stop()
    one, two, third = (scene.machine.image("vda"), scene.machine.image("vdb"), tmp_path / "third")
    one.rename(third)
    two.rename(one)
    third.rename(two)
    roll(scene, first)
    assert compare(scene, one, "qcow2", first)
    assert compare(scene, two, "qcow2", first, "vdb")


def test_a_damaged_map_of_the_base_makes_it_compare(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    first = first_of(scene)
    scribble(scene)
    scene.machine.stop()

    def lost(*_: object) -> None:
        raise DamagedData("a page is damaged")

    monkeypatch.setattr(change_search, "compare_maps", lost)
    (done,) = roll(scene, first).disks
    assert done.bytes_compared > 0
    assert any("is damaged: a page is damaged" in text for text in scene.told)
    assert is_at(scene, first)


def test_a_disk_is_not_believed_where_another_of_its_checkpoint_is_foreign(
    machine_factory: MachineFactory,
    libvirt_uri: str,
    tmp_path: Path,
    truth: Truth,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Clones changed places: they are equal almost everywhere, and the probe of the first misses the
    difference."""
    scene = two_disks(machine_factory, libvirt_uri, tmp_path, truth)
    scene.machine.copy_in("vdb", scene.folder / "noise", 0, 16 * MIB)
    scene.machine.copy_in("vda", scene.folder / "noise", 0, 16 * MIB)
    scene.machine.write("vdb", 9, 7 * MIB, 64 * KIB)
    point = scene.backup()
    scene.machine.stop()
    one, two, third = (scene.machine.image("vda"), scene.machine.image("vdb"), tmp_path / "third")
    one.rename(third)
    two.rename(one)
    third.rename(two)
    answers = iter([None, FOREIGN])
    monkeypatch.setattr(change_search, "find_mismatch", lambda *_, **__: next(answers))
    roll(scene, point)
    assert compare(scene, one, "qcow2", point)
    assert compare(scene, two, "qcow2", point, "vdb")
    assert any("disk vdb of the same checkpoint does not match" in text for text in scene.told)


def crash_after_growing(scene: Scene) -> None:
    """QEMU loaded a bitmap and did not store it again, so it is broken in the image, which has grown."""
    scene.machine.handle.blockResize("vda", SIZE + 4 * MIB, libvirt.VIR_DOMAIN_BLOCK_RESIZE_BYTES)
    scene.backup()
    scene.machine.stop()
    scene.machine.start()
    scene.machine.write("vda", 3, MIB, 64 * KIB)
    scene.machine.kill()


def test_a_disk_with_a_broken_bitmap_gets_its_size_back(scene: Scene) -> None:
    first = first_of(scene)
    crash_after_growing(scene)
    roll(scene, first)
    assert is_at(scene, first)
    scene.machine.start()
    point = scene.backup()
    assert point.kind == "rehash"
    scene.assert_exact(point)


def test_another_tools_broken_bitmap_is_named_before_anything_is_written(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, image = first_of(scene), scene.machine.image("vda")
    crash_after_growing(scene)
    before = image.read_bytes()
    monkeypatch.setattr(broken_bitmaps, "OWN", "another-")
    with pytest.raises(
        OutputRefused, match=r"its bitmap puller-.*, of another tool, is inconsistent"
    ) as refused:
        roll(scene, first)
    assert f"qemu-img bitmap --remove {image}" in refused.value.advice
    assert (image.read_bytes() == before, find_mark(image)) == (True, None)
