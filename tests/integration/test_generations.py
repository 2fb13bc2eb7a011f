"""The main job on real libvirt, QEMU and stores: every point equals what an independent reader saw."""

from __future__ import annotations

from pathlib import Path

import pytest

import puller
from puller.units import CHUNK, KIB, MIB
from tests.integration.conftest import Backup, Truth, checkpoints, leftovers, restored
from tests.lab.fixtures import MachineFactory
from tests.lab.machine import DiskSpec, Machine
from tests.lab.qemu import BareMachine

ODD = 3 * MIB + 1000 * 512
"""A size that is no multiple of 64 KiB."""


def scattered(machine: Machine | BareMachine, target: str, size: int) -> None:
    """Overwrite data in every way that a guest can."""
    machine.write(target, 7, 100 * KIB, 3 * KIB)
    machine.write_zeroes(target, 256 * KIB, 128 * KIB)
    machine.discard(target, 512 * KIB, 128 * KIB)
    machine.write(target, 0, 768 * KIB, 64 * KIB)
    machine.unmap_zeroes(target, 1024 * KIB, 192 * KIB)
    machine.write_zeroes(target, 1300 * KIB, 4 * KIB)
    machine.write(target, 9, size - 512, 512)


@pytest.mark.parametrize("password", [None, "night"], ids=["plain", "encrypted"])
def test_three_generations_of_two_disks(
    url: str,
    password: str | None,
    machine_factory: MachineFactory,
    backup: Backup,
    truth: Truth,
    tmp_path: Path,
) -> None:
    machine = machine_factory(DiskSpec("vda", 200 * MIB), DiskSpec("vdb", ODD))
    machine.write("vda", 1, 0, 8 * MIB)
    machine.write("vda", 2, 150 * MIB, 70 * KIB)
    machine.write("vdb", 3, 0, ODD)
    repository = puller.create_repository(url, password=password)

    def take() -> puller.Point:
        point = backup(repository, machine)
        assert point.mode == backup.mode
        assert checkpoints(machine) == {point.checkpoint}
        assert not leftovers(tmp_path)
        return point

    points = [take()]
    for target, size in (("vda", 200 * MIB), ("vdb", ODD)):
        scattered(machine, target, size)
    points.append(take())
    assert {disk.disk: disk.dirty_bytes for disk in points[1].disks} == truth.dirty
    machine.write("vda", 5, 199 * MIB, MIB)
    machine.discard("vdb", 0, 2 * MIB)
    points.append(take())
    assert {disk.disk: disk.dirty_bytes for disk in points[2].disks} == truth.dirty

    assert [point.kind for point in points] == ["full", "incremental", "incremental"]
    assert [point.parent for point in points] == [None, points[0].point, points[1].point]
    for point in points:
        for disk in point.disks:
            assert disk.read_bytes <= disk.dirty_bytes
    for number, point in enumerate(points, 1):
        folder = restored(repository, point, tmp_path)
        assert truth.equals(folder, "vda", number)
        assert truth.equals(folder, "vdb", number)
    assert puller.check(repository, read_data=100).errors == ()


def test_a_point_stands_without_its_ancestors(
    url: str, machine_factory: MachineFactory, backup: Backup, truth: Truth, tmp_path: Path
) -> None:
    machine = machine_factory(DiskSpec("vda", 20 * MIB))
    repository = puller.create_repository(url, password=None)
    points = []
    for generation in range(3):
        machine.write("vda", generation + 1, generation * 3 * MIB, 5 * MIB)
        points.append(backup(repository, machine))
    repository.store.delete([f"points/{machine.uuid}/{point.point}" for point in points[:2]])
    again = puller.open_repository(url)
    assert [point.point for point in puller.list_points(again)] == [points[2].point]
    assert truth.equals(restored(again, points[2], tmp_path), "vda", 3)


def test_nothing_dirty_makes_a_valid_point_that_costs_next_to_nothing(
    url: str, machine_factory: MachineFactory, backup: Backup, truth: Truth, tmp_path: Path
) -> None:
    machine = machine_factory(DiskSpec("vda", 20 * MIB))
    machine.write("vda", 1, 0, 5 * MIB)
    repository = puller.create_repository(url, password=None)
    backup(repository, machine)
    point = backup(repository, machine)
    (disk,) = point.disks
    assert (disk.kind, disk.dirty_bytes, disk.read_bytes, disk.stored_bytes) == ("incremental", 0, 0, 0)
    assert truth.equals(restored(repository, point, tmp_path), "vda", 2)


def test_a_hundred_dirty_chunks_cost_a_hundred_chunks(
    url: str, machine_factory: MachineFactory, backup: Backup
) -> None:
    machine = machine_factory(DiskSpec("vda", 4096 * MIB))
    machine.write("vda", 1, 0, MIB)
    repository = puller.create_repository(url, password="pw")
    backup(repository, machine)
    before = puller.stats(repository).stored_bytes
    for number in range(100):
        machine.write("vda", number + 2, number * 40 * MIB + 5 * CHUNK, CHUNK)
    point = backup(repository, machine)
    (disk,) = point.disks
    assert disk.dirty_bytes == disk.read_bytes == disk.new_bytes == 100 * CHUNK
    assert puller.stats(repository).stored_bytes - before < 200 * KIB  # patterns pack to almost nothing
    assert disk.stored_bytes < 200 * KIB


def test_alternating_modes(
    tmp_path: Path, machine_factory: MachineFactory, libvirt_uri: str, truth: Truth
) -> None:
    """A point does not tell by which mode the next one is taken."""
    machine = machine_factory(DiskSpec("vda", 20 * MIB), DiskSpec("vdb", ODD))
    machine.write("vda", 1, 0, 8 * MIB)
    machine.write("vdb", 3, 0, ODD)
    repository = puller.create_repository(str(tmp_path / "repository"), password=None)
    points = []
    for generation in range(10):
        for target, size in (("vda", 20 * MIB), ("vdb", ODD)):
            scattered(machine, target, size)
        machine.write("vda", generation + 1, generation * 700 * KIB, 300 * KIB)
        machine.unmap_zeroes("vda", generation * 1100 * KIB, 200 * KIB)
        points.append(Backup(libvirt_uri, ("push", "pull")[generation % 2], truth)(repository, machine))
    assert [point.kind for point in points] == ["full"] + ["incremental"] * 9
    assert [point.mode for point in points] == ["push", "pull"] * 5
    for number, point in enumerate(points, 1):
        folder = restored(repository, point, tmp_path)
        assert truth.equals(folder, "vda", number)
        assert truth.equals(folder, "vdb", number)
