"""Backups of a QEMU without libvirt: every point equals what an independent reader saw."""

from __future__ import annotations

from pathlib import Path

import puller
from puller.units import CHUNK, KIB, MIB
from tests.integration.conftest import Truth, restored
from tests.integration.test_generations import ODD, scattered
from tests.lab.machine import DiskSpec
from tests.qmp.conftest import BareFactory


def test_three_generations_of_two_disks(
    bare_factory: BareFactory, truth: Truth, repository: puller.Repository, tmp_path: Path
) -> None:
    machine = bare_factory(DiskSpec("vda", 200 * MIB), DiskSpec("vdb", ODD))
    machine.write("vda", 1, 0, 8 * MIB)
    machine.write("vda", 2, 150 * MIB, 70 * KIB)
    machine.write("vdb", 3, 0, ODD)

    def take() -> puller.Point:
        point = puller.backup(repository, machine.name, connect=machine.uri, on_frozen=truth)
        assert machine.bitmaps() == {"vda": {point.checkpoint}, "vdb": {point.checkpoint}}
        assert machine.remains() == []
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
    for number, point in enumerate(points, 1):
        folder = restored(repository, point, tmp_path)
        assert truth.equals(folder, "vda", number)
        assert truth.equals(folder, "vdb", number)
    assert puller.check(repository, read_data=100).errors == ()


def test_a_hundred_dirty_chunks_cost_a_hundred_chunks(
    bare_factory: BareFactory, repository: puller.Repository
) -> None:
    machine = bare_factory(DiskSpec("vda", 4096 * MIB))
    machine.write("vda", 1, 0, MIB)
    puller.backup(repository, machine.name, connect=machine.uri)
    for number in range(100):
        machine.write("vda", number + 2, number * 40 * MIB + 5 * CHUNK, CHUNK)
    (disk,) = puller.backup(repository, machine.uuid, connect=machine.uri).disks
    assert disk.kind == "incremental"
    assert disk.dirty_bytes == disk.read_bytes == disk.new_bytes == 100 * CHUNK
