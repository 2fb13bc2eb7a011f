"""A rollback puts a domain's own disks back to a point, exactly."""

from __future__ import annotations

import subprocess

import pytest

import puller
from puller.errors import DamagedData
from puller.hypervisor.storage.rollback_mark import find_mark
from puller.recovery import change_search
from puller.units import CHUNK, KIB, MIB
from tests.integration.conftest import SIZE, Scene, io
from tests.integration.in_place.rolling import (
    assert_next_is_incremental,
    first_of,
    is_at,
    resize,
    roll,
    scribble,
)
from tests.lab.archive import data_packs


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
    """On a large disk, a probe may not find that."""
    monkeypatch.setattr(change_search, "find_mismatch", lambda *_, **__: None)
    scene.machine.stop()
    resize(scene, 4 * MIB)
    (done,) = roll(scene, first_of(scene)).disks
    assert done.bytes_compared == 0
    assert is_at(scene, first_of(scene))


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
