"""Images that are not the disk's own, with bitmaps that fit by name: each point after it is exact."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import puller
from puller.backups.sources import content_probe
from puller.errors import UsageError
from puller.units import KIB, MIB
from tests.integration.conftest import Scene, Truth, restored
from tests.lab.fixtures import MachineFactory
from tests.lab.foreign import TARGETS, Case, play
from tests.lab.machine import DiskSpec, Machine

MODES = ["pull", "push", "offline"]
CASES = int(os.environ.get("PULLER_FOREIGN_CASES", "10"))
FOREIGN = "its content does not match its dirty bitmap"


class Taker:
    """Backs up in any mode, and knows what the disks held."""

    def __init__(self, machine: Machine, uri: str, folder: Path, truth: Truth) -> None:
        self.machine, self.uri, self.folder, self.truth = machine, uri, folder, truth
        self.repository = puller.create_repository(str(folder / "repository"))
        self.taken = 0

    def __call__(self, mode: str, **options: Any) -> puller.Point:
        self.taken += 1
        if mode == "push":
            self.machine.flush()
        return puller.backup(
            self.repository,
            self.machine.name,
            connect=self.uri,
            mode="push" if mode == "push" else "pull",
            on_frozen=self.truth.of(self.machine) if mode == "push" else self.truth,
            **options,
        )

    def assert_exact(self, point: puller.Point) -> None:
        folder = restored(self.repository, point, self.folder)
        for disk in point.disks:
            assert self.truth.equals(folder, disk.disk, self.taken), (disk.disk, disk.kind)


@pytest.fixture(autouse=True)
def _flushed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(content_probe, "_FLUSH", 0.0)


@pytest.mark.parametrize("seed", range(0, 19 * CASES, 19))
def test_whatever_is_done_to_the_images_the_next_point_is_exact(
    machine_factory: MachineFactory,
    libvirt_uri: str,
    tmp_path: Path,
    truth: Truth,
    record_property: Callable[[str, object], None],
    seed: int,
) -> None:
    case = Case.random(seed)
    machine = machine_factory(*case.specs())
    take = Taker(machine, libvirt_uri, tmp_path, truth)
    point = play(case, machine, tmp_path, take)
    for disk in point.disks:
        record_property("kind", disk.kind)
    take.assert_exact(point)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("stored", [0, 3], ids=["blank", "rewritten"])
def test_a_copy_of_another_disk_over_a_blank_one(
    machine_factory: MachineFactory, libvirt_uri: str, tmp_path: Path, truth: Truth, mode: str, stored: int
) -> None:
    """Its bitmap comes along and is clean, and the base has hardly a chunk that could be compared."""
    machine = machine_factory(DiskSpec("vda", 24 * MIB), DiskSpec("vdb", 16 * MIB if stored else 24 * MIB))
    machine.write("vda", 7, 5 * MIB, 8 * MIB)
    if stored:
        machine.write("vda", 8, MIB, stored * 64 * KIB)
        machine.write("vdb", 9, MIB, stored * 64 * KIB)
    take = Taker(machine, libvirt_uri, tmp_path, truth)
    take("pull" if mode == "offline" else mode)
    machine.write("vda", 5, MIB, 64 * KIB)
    machine.stop()
    shutil.copyfile(machine.image("vda"), machine.image("vdb"))
    if mode != "offline":
        machine.start()
    point = take(mode)
    take.assert_exact(point)
    if mode == "push" and stored:  # of another size it is never pushed as an incremental, and says nothing
        assert "it was resized" in point.disks[1].reason
        return
    assert {disk.kind for disk in point.disks} == {"rehash"}, "its sibling is not believed either"
    assert any(FOREIGN in disk.reason for disk in point.disks)


def test_twenty_ordinary_nights_stay_incremental(
    machine_factory: MachineFactory, libvirt_uri: str, tmp_path: Path, truth: Truth
) -> None:
    """Trims, zeros, preallocated images and restarts are no reason to read a disk as a whole."""
    machine = machine_factory(DiskSpec("vda", 24 * MIB), DiskSpec("vdb", 80 * MIB, "qcow2-falloc"))
    take = Taker(machine, libvirt_uri, tmp_path, truth)
    chance = random.Random(1)
    for target in TARGETS:
        machine.write(target, 3, 2 * MIB, 4 * MIB)
    take("pull")
    for night in range(20):
        for target in TARGETS:
            begin = chance.randrange(0, 20 * MIB, 4 * KIB)
            deeds = (machine.write_zeroes, machine.unmap_zeroes, machine.discard)
            machine.write(target, night, begin, chance.choice((4 * KIB, 64 * KIB, MIB)))
            machine.write(target, 0, chance.randrange(0, 20 * MIB, 4 * KIB), 64 * KIB)
            chance.choice(deeds)(target, chance.randrange(0, 20 * MIB, 4 * KIB), 256 * KIB)
        mode = ("pull", "push", "offline")[night % 3]
        if mode == "offline":
            machine.stop()
        point = take(mode)
        assert {disk.kind for disk in point.disks} == {"incremental"}, (night, mode, point.disks)
        if mode == "offline":
            machine.start()
    take.assert_exact(point)


def test_the_point_knows_its_image_and_when_the_disk_was_read_as_a_whole(scene: Scene) -> None:
    (first,) = puller.list_points(scene.repository)
    second = scene.backup()
    scene.machine.stop()
    scene.machine.start()
    third = scene.backup()
    images = [point.disks[0].image for point in (first, second, third)]
    assert images[0].inode == scene.machine.image("vda").stat().st_ino
    assert images[0].qemu == images[1].qemu != images[2].qemu
    assert (first.disks[0].whole, second.disks[0].whole, third.disks[0].whole) == (
        None,
        first.point,
        first.point,
    )


@pytest.mark.parametrize("mode", MODES)
def test_compare_reads_all_and_stores_what_no_look_finds(
    machine_factory: MachineFactory, libvirt_uri: str, tmp_path: Path, truth: Truth, mode: str
) -> None:
    """A bitmap that somebody cleared after a write of a single chunk."""
    machine = machine_factory(DiskSpec("vda", 24 * MIB))
    machine.write("vda", 3, 0, 24 * MIB)
    take = Taker(machine, libvirt_uri, tmp_path, truth)
    first = take("pull" if mode == "offline" else mode)
    machine.write("vda", 4, 9 * MIB, 64 * KIB)
    machine.stop()
    clear = ["qemu-img", "bitmap", "--clear", str(machine.image("vda")), str(first.checkpoint)]
    subprocess.run(clear, check=True)
    if mode != "offline":
        machine.start()
    point = take(mode, compare=True)
    take.assert_exact(point)
    assert (point.kind, point.parent, point.disks[0].new_bytes) == ("rehash", first.point, 64 * KIB)
    assert point.disks[0].reason == "a full comparison is due"


def test_full_and_compare_exclude_each_other(scene: Scene) -> None:
    with pytest.raises(UsageError, match="cannot combine full and compare"):
        scene.backup(full=True, compare=True)
