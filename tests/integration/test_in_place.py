"""A rollback puts a domain's own disks back to a point, exactly, and the next backup is incremental."""

from __future__ import annotations

import json
import os
import random
import stat
import subprocess
import tempfile
import xml.etree.ElementTree as ET
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import libvirt
import pytest

import puller
from puller.backups import transfer
from puller.backups.bases.probe import FOREIGN
from puller.cancelling import CancelScope
from puller.errors import (
    DamagedData,
    DomainRunning,
    KeyNotHeld,
    Locked,
    NbdError,
    NoSuchDisk,
    OutputFailed,
    OutputInUse,
    OutputRefused,
    RollbackUnfinished,
    UnsupportedDisk,
)
from puller.hypervisor.storage import rollback_mark
from puller.hypervisor.storage.rollback_mark import RollbackMark, find_mark, mark_path, put_mark
from puller.nbd.image import ImageServer
from puller.recovery import broken_bitmaps, change_search, disk_rollback
from puller.recovery.disk_rollback import DiskRollback, DiskWork
from puller.recovery.diskcopy import ChangedCopier, copy_all
from puller.repository.keys.keyring import KeyRing
from puller.units import CHUNK, KIB, MIB
from tests.integration.conftest import SIZE, Scene, Truth, bitmap, io, loop_device
from tests.lab.archive import data_packs
from tests.lab.daemon import in_own_namespace, is_root
from tests.lab.fixtures import MachineFactory
from tests.lab.machine import DiskSpec


def scribble(scene: Scene, seed: int = 0) -> None:
    """Data over data and over zeros, zeros and discards over data."""
    machine, chance = scene.machine, random.Random(seed)
    for number in range(12):
        place = chance.randrange(SIZE // CHUNK - 4) * CHUNK + chance.choice([0, 4096])
        kinds = (machine.write_zeroes, machine.unmap_zeroes, machine.discard)
        if number % 4:
            machine.write("vda", 1 + number, place, chance.choice([4096, 64 * KIB, 192 * KIB]))
        else:
            kinds[number // 4]("vda", place, 128 * KIB)
    machine.flush()


def is_at(scene: Scene, point: puller.Point) -> bool:
    """Whether the image has exactly what a restore of the point has."""
    plain = scene.folder / f"plain-{point.point}.raw"
    if not plain.exists():
        puller.restore(scene.repository, point.point, output=str(plain), disks=["vda"])
    command = ["qemu-img", "compare", "-q", "-f", "raw", "-F", "qcow2"]
    return not subprocess.run([*command, plain, scene.machine.image("vda")], check=False).returncode


def assert_next_is_incremental(scene: Scene) -> None:
    scene.machine.start()
    scene.machine.write("vda", 77, 3 * MIB, 64 * KIB)
    point = scene.backup()
    assert [disk.kind for disk in point.disks] == ["incremental"]
    scene.assert_exact(point)


def roll(scene: Scene, point: puller.Point, **options: Any) -> puller.RolledBack:
    scene.told = []
    observer = scene._observe
    return puller.rollback(scene.repository, point.point, connect=scene.uri, observer=observer, **options)


def first_of(scene: Scene) -> puller.Point:
    return puller.list_points(scene.repository)[0]


def resize(scene: Scene, size: int) -> None:
    command = ["qemu-img", "resize", "-q", "--shrink", str(scene.machine.image("vda")), str(size)]
    subprocess.run(command, check=True)


@pytest.mark.parametrize("generations", [0, 1, 3])
def test_only_what_differs_is_written_and_the_next_backup_is_incremental(
    scene: Scene, generations: int
) -> None:
    first = first_of(scene)
    for generation in range(generations):
        scribble(scene, generation)
        assert scene.backup().kind == "incremental"
    scribble(scene, 99)
    scene.machine.stop()
    (live,) = puller.diff(scene.repository, first.point, connect=scene.uri).disks
    planned = roll(scene, first, dry_run=True)
    assert not is_at(scene, first)
    (done,) = roll(scene, first).disks
    assert done.changed_bytes == planned.disks[0].changed_bytes == live.changed_bytes
    assert (done.bytes_compared, done.changed_bytes < SIZE // 2) == (0, True)
    assert is_at(scene, first)
    assert_next_is_incremental(scene)


def test_forth_again_to_a_later_point(scene: Scene) -> None:
    scribble(scene)
    later = scene.backup()
    scene.machine.stop()
    roll(scene, first_of(scene))
    roll(scene, later)
    assert is_at(scene, later)
    assert_next_is_incremental(scene)


@pytest.mark.parametrize("lost", ["asked for", "no bitmap"])
def test_without_a_bitmap_the_disk_is_read_and_compared(scene: Scene, lost: str) -> None:
    first = first_of(scene)
    scribble(scene)
    if lost == "no bitmap":
        puller.forget(scene.repository, scene.machine.name, connect=scene.uri)
    scene.machine.stop()
    (done,) = roll(scene, first, compare=lost == "asked for").disks
    assert done.bytes_compared >= 15 * MIB
    assert 0 < done.changed_bytes < 4 * MIB
    assert any("is read and compared" in text for text in scene.told) == (lost == "no bitmap")
    assert is_at(scene, first)
    if lost == "asked for":
        assert_next_is_incremental(scene)


@pytest.mark.parametrize("sizes", [[SIZE + 5 * MIB + 512], [4 * MIB], [4 * MIB, SIZE]])
def test_a_disk_that_was_resized_gets_its_size_back(scene: Scene, sizes: list[int]) -> None:
    """What was cut off is zero where the disk has grown again, and the bitmap does not say so."""
    first = first_of(scene)
    scribble(scene)
    scene.machine.stop()
    for size in sizes:
        resize(scene, size)
    roll(scene, first)
    assert is_at(scene, first)
    assert_next_is_incremental(scene)


def test_a_disk_that_was_cut_gets_back_what_was_behind_its_end(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a large disk no look may find that."""
    monkeypatch.setattr(change_search, "find_mismatch", lambda *_, **__: None)
    scene.machine.stop()
    resize(scene, 4 * MIB)
    (done,) = roll(scene, first_of(scene)).disks
    assert done.bytes_compared == 0
    assert is_at(scene, first_of(scene))


def test_a_rollback_that_stopped_after_the_resize_is_completed(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then the sizes agree again, and only the mark tells where the bitmap has seen everything."""
    monkeypatch.setattr(change_search, "find_mismatch", lambda *_, **__: None)
    first, image = first_of(scene), scene.machine.image("vda")
    scene.machine.stop()
    resize(scene, 4 * MIB)
    put_mark(image, RollbackMark(first.point, "vda", 4 * MIB))
    resize(scene, SIZE)
    roll(scene, first)
    assert is_at(scene, first)


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


def test_a_backup_refuses_what_is_half_rolled_back(scene: Scene) -> None:
    first, image = first_of(scene), scene.machine.image("vda")
    put_mark(image, RollbackMark(first.point, "vda", SIZE))
    with pytest.raises(RollbackUnfinished, match="partly old and partly new") as refused:
        scene.backup()
    assert f"puller restore {first.point} --in-place" in refused.value.advice
    mark_path(image).write_bytes(b"{")  # cut short by a power failure
    with pytest.raises(RollbackUnfinished, match="to an unknown point was not completed") as refused:
        scene.backup()
    assert "'puller restore POINT --in-place'" in refused.value.advice
    scene.machine.stop()
    roll(scene, first)
    assert is_at(scene, first)
    assert not mark_path(image).exists()
    scene.taken -= 2
    assert_next_is_incremental(scene)


def test_a_point_of_the_present_state_can_be_taken_first(scene: Scene) -> None:
    first = first_of(scene)
    scribble(scene)
    scene.machine.stop()
    roll(scene, first, backup_first=True)
    assert is_at(scene, first)
    present = puller.list_points(scene.repository)[-1]
    roll(scene, present)
    assert not is_at(scene, first)
    assert is_at(scene, present)


@pytest.mark.skipif(not is_root(), reason="a private libvirtd needs root")
def test_a_killed_rollback_is_completed_by_the_same_command() -> None:
    with tempfile.TemporaryDirectory(prefix="puller-rollback-") as folder:
        command = in_own_namespace("tests.integration.rollback_scenes", [folder, "5", "1"])
        played = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    outcomes = json.loads(played.stdout)
    assert (played.returncode, len(outcomes)) == (0, 5), outcomes
    assert all(outcome["killed"] or not outcome["mark"] for outcome in outcomes)
    assert any(outcome["mark"] for outcome in outcomes), "none was killed in its midst"


def test_two_points_are_compared_out_of_their_maps(scene: Scene) -> None:
    first = first_of(scene)
    scene.machine.write("vda", 5, MIB + 4096, 64 * KIB)
    scene.machine.write_zeroes("vda", 8 * MIB, 128 * KIB)
    second = scene.backup()
    found = puller.diff(scene.repository, first.point, second.point)
    (disk,) = found.disks
    assert disk.ranges == ((MIB, 128 * KIB), (8 * MIB, 128 * KIB))
    assert (disk.changed_bytes, found.first, found.second) == (256 * KIB, first.point, second.point)
    (back,) = puller.diff(scene.repository, second.point, first.point).disks
    assert back.ranges == disk.ranges


# --- what is unlike the ordinary machine ----------------------------------------------------------


def compare(
    scene: Scene, image: Path | str, image_format: str, point: puller.Point, target: str = "vda"
) -> bool:
    """Whether the image has what a restore of the disk of the point has."""
    plain = scene.folder / f"{point.point}-{target}.raw"
    if not plain.exists():
        puller.restore(scene.repository, point.point, output=str(plain), disks=[target])
    command = ["qemu-img", "compare", "-q", "-f", "raw", "-F", image_format, str(plain), str(image)]
    return not subprocess.run(command, check=False).returncode


def put_on(scene: Scene, source: Path | str, kind: str = "file", image_format: str = "qcow2") -> None:
    """Put the disk of the machine, which is off, on another image."""

    def edit(root: ET.Element) -> None:
        disk = root.find("./devices/disk")
        assert disk is not None
        disk.set("type", kind)
        for name, attributes in (
            ("source", {"file" if kind == "file" else "dev": str(source)}),
            ("driver", {"name": "qemu", "type": image_format}),
        ):
            element = disk.find(f"./{name}")
            assert element is not None
            element.attrib.clear()
            element.attrib.update(attributes)

    scene.redefine(edit)


def two_disks(machine_factory: MachineFactory, uri: str, folder: Path, truth: Truth) -> Scene:
    scene = Scene(machine_factory(DiskSpec("vda", SIZE), DiskSpec("vdb", SIZE)), uri, folder, truth)
    for target in ("vda", "vdb"):
        scene.fill(target)
    scene.backup()
    return scene


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
    """It has a bitmap of the right name that knows nothing of it."""
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
    """The image is the wanted point already, under a bitmap of a later one that calls all of it clean."""
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


@pytest.mark.parametrize("size", [SIZE + 512, SIZE - 100 * KIB, 40 * KIB])
def test_a_size_that_is_no_whole_number_of_chunks(scene: Scene, size: int) -> None:
    """The wanted point has another size than the disk, and neither ends with a chunk."""
    scene.machine.stop()
    resize(scene, size)
    scene.machine.start()
    scene.machine.write("vda", 4, size - 8 * KIB, 8 * KIB)
    odd = scene.backup()
    assert odd.disks[0].size == size
    scene.machine.stop()
    first = first_of(scene)
    resize(scene, SIZE + 7 * KIB)
    io(scene.machine.image("vda"), "qcow2", f"write -P 6 {SIZE - 64 * KIB} 71k")
    for point in (first, odd, first):
        roll(scene, point)
        assert is_at(scene, point), point.disks[0].size


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


# --- refusals, and what is left after a failure ----------------------------------------------------


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


def test_a_failure_at_the_second_disk_leaves_both_marked(
    machine_factory: MachineFactory,
    libvirt_uri: str,
    tmp_path: Path,
    truth: Truth,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first disk is of the point then and the second is not: a backup would make a point of two times."""
    scene = two_disks(machine_factory, libvirt_uri, tmp_path, truth)
    first = first_of(scene)
    for target in ("vda", "vdb"):
        scene.machine.write(target, 9, 0, MIB)
    scene.machine.flush()
    scene.machine.stop()
    images = {target: scene.machine.image(target) for target in ("vda", "vdb")}

    class Failing(ChangedCopier):
        def begin(self, scope: CancelScope) -> None:
            if self._disk == "vdb":
                raise NbdError("the storage failed")
            super().begin(scope)

    with monkeypatch.context() as patch:
        patch.setattr(disk_rollback, "ChangedCopier", Failing)
        with pytest.raises(puller.PullerError, match="the storage failed"):
            roll(scene, first)
    assert [compare(scene, images[target], "qcow2", first, target) for target in images] == [True, False]
    assert all(find_mark(image) for image in images.values())
    with pytest.raises(RollbackUnfinished):
        scene.backup()
    roll(scene, first)
    assert [compare(scene, images[target], "qcow2", first, target) for target in images] == [True, True]
    assert not any(find_mark(image) for image in images.values())


def test_damaged_data_stays_as_it_is_or_becomes_zeros(scene: Scene) -> None:
    first = first_of(scene)
    scene.machine.write("vda", 9, 0, 4 * MIB)
    scene.machine.flush()
    scene.machine.stop()
    pack = max(data_packs(scene.folder / "repository"), key=lambda path: path.stat().st_size)
    sound = pack.read_bytes()
    hurt = bytearray(sound)
    hurt[3 * CHUNK] ^= 1
    pack.write_bytes(hurt)
    scene.repository = puller.open_repository(str(scene.folder / "repository"))
    image = scene.machine.image("vda")
    with pytest.raises(DamagedData, match="disk vda of point"):
        roll(scene, first)
    assert find_mark(image) is not None
    saved = roll(scene, first, salvage=True)
    ((target, lost),) = saved.damage
    assert (target, lost.length, find_mark(image)) == ("vda", CHUNK, None)
    plain = scene.folder / "salvaged.raw"
    subprocess.run(["qemu-img", "convert", "-O", "raw", image, plain], check=True)
    assert plain.read_bytes()[lost.offset : lost.offset + CHUNK] == bytes(CHUNK)
    pack.write_bytes(sound)
    scene.repository = puller.open_repository(str(scene.folder / "repository"))
    roll(scene, first)
    assert is_at(scene, first)


def test_the_same_command_completes_what_a_backup_would_refuse(scene: Scene) -> None:
    first, image = first_of(scene), scene.machine.image("vda")
    scribble(scene)
    scene.machine.stop()
    put_mark(image, RollbackMark(first.point, "vda", SIZE))
    roll(scene, first, backup_first=True)
    assert any(text.startswith("no point of the present state is taken: ") for text in scene.told)
    assert is_at(scene, first)
    assert len(puller.list_points(scene.repository)) == 1


def test_a_point_is_not_taken_first_where_the_rollback_is_refused(scene: Scene) -> None:
    with pytest.raises(DomainRunning):
        roll(scene, first_of(scene), backup_first=True)
    assert len(puller.list_points(scene.repository)) == 1


def test_a_rollback_to_another_point_completes_the_first_one(scene: Scene) -> None:
    first = first_of(scene)
    scribble(scene, 1)
    second = scene.backup()
    scribble(scene, 2)
    scene.machine.stop()
    put_mark(scene.machine.image("vda"), RollbackMark(first.point, "vda", 2 * MIB))
    roll(scene, second)
    assert is_at(scene, second)
    assert_next_is_incremental(scene)


def test_the_mark_is_found_by_any_name_and_goes_with_a_restore_over_the_image(scene: Scene) -> None:
    first, image = first_of(scene), scene.machine.image("vda")
    link = scene.folder / "link.qcow2"
    link.symlink_to(image)
    put_mark(link, RollbackMark(first.point, "vda", SIZE))
    assert find_mark(image) == find_mark(link) == RollbackMark(first.point, "vda", SIZE)
    scene.machine.stop()
    puller.restore(
        scene.repository, first.point, output=str(image), disks=["vda"], format="qcow2", force=True
    )
    assert find_mark(image) is None
    scene.machine.start()
    scene.backup()


def test_a_disk_is_not_believed_where_another_of_its_checkpoint_is_foreign(
    machine_factory: MachineFactory,
    libvirt_uri: str,
    tmp_path: Path,
    truth: Truth,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Clones changed places: they are equal almost everywhere, and the probe of the first has no luck."""
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


def test_a_guest_that_was_started_on_a_device_meanwhile_leaves_the_mark(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No lock keeps it away from a device where libvirt gives QEMU a node of its own, as in a namespace."""
    first, plain, node = first_of(scene), scene.folder / "plain.img", scene.folder / "node"
    scene.machine.stop()
    subprocess.run(["qemu-img", "convert", "-O", "raw", scene.machine.image("vda"), plain], check=True)
    io(plain, "raw", "write -P 9 1M 256k")

    def make_node(device: str) -> None:
        node.unlink(missing_ok=True)
        os.mknod(node, 0o600 | stat.S_IFBLK, Path(device).stat().st_rdev)

    with loop_device(plain) as device:
        make_node(device)
        put_on(scene, node, "block", "raw")

        def started(*given: Any) -> None:
            make_node(device)
            scene.machine.start()
            copy_all(*given)

        with monkeypatch.context() as patch:
            patch.setattr(disk_rollback, "copy_all", started)
            with pytest.raises(DomainRunning, match="was started while its disks were rolled back"):
                roll(scene, first)
        scene.machine.stop()
        assert find_mark(node) is not None
        roll(scene, first)
        assert compare(scene, node, "raw", first)
        assert find_mark(node) is None


def test_an_image_whose_storage_is_full_is_completed_when_there_is_room(scene: Scene) -> None:
    first, small = first_of(scene), scene.folder / "small"
    scene.machine.stop()
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12M", "none", small], check=False).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        image = small / "disk.qcow2"
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", image, str(SIZE)], check=True)
        put_on(scene, image)
        with pytest.raises(OutputFailed, match="No space left") as full:
            roll(scene, first)
        assert "run the same command again" in full.value.advice
        assert find_mark(image) is not None
        subprocess.run(["mount", "-o", "remount,size=30M", small], check=True)
        roll(scene, first)
        assert compare(scene, image, "qcow2", first)
        assert [path.name for path in small.iterdir()] == ["disk.qcow2"]
    finally:
        subprocess.run(["umount", "--lazy", small], check=True)


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


def test_the_mark_of_a_device_is_found_by_any_name(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Volumes have two names at least: ``/dev/vg/x`` and ``/dev/mapper/vg-x``."""
    monkeypatch.setattr(rollback_mark, "DEVICE_MARKS", tmp_path / "state" / "marks")
    plain, name = tmp_path / "plain.img", tmp_path / "vg-x"
    plain.write_bytes(bytes(SIZE))
    mark = RollbackMark("p", "vda", 5)
    with loop_device(plain) as device:
        name.symlink_to(device)
        assert (find_mark(name), find_mark(Path(device))) == (None, None)
        put_mark(name, mark)
        assert (find_mark(name), find_mark(Path(device))) == (mark, mark)
        point = first_of(scene).point
        puller.restore(scene.repository, point, places={"vda": device}, force=True, connect=scene.uri)
        assert find_mark(name) is None
        assert list((tmp_path / "state" / "marks").iterdir()) == []


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
