"""A rollback puts a domain's own disks back to a point, exactly, and the next backup is incremental."""

from __future__ import annotations

import json
import random
import subprocess
import tempfile
from typing import Any

import pytest

import puller
from puller.errors import DomainRunning, RollbackUnfinished
from puller.hypervisor.storage.rollback_mark import RollbackMark, find_mark, mark_path, put_mark
from puller.units import CHUNK, KIB, MIB
from tests.integration.conftest import SIZE, Scene
from tests.lab.daemon import in_own_namespace, is_root


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


@pytest.mark.parametrize("size", [SIZE + 5 * MIB + 512, SIZE - 6 * MIB])
def test_a_disk_that_was_resized_gets_its_size_back(scene: Scene, size: int) -> None:
    first = first_of(scene)
    scribble(scene)
    scene.machine.stop()
    resize(scene, size)
    roll(scene, first)
    assert is_at(scene, first)
    assert_next_is_incremental(scene)


def test_a_rollback_that_stopped_after_the_resize_is_completed(scene: Scene) -> None:
    """Then the sizes agree again, and only the mark tells where the bitmap has seen everything."""
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
    with pytest.raises(RollbackUnfinished):
        scene.backup()
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
