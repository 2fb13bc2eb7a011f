"""Backups of a QEMU without libvirt: every point equals what an independent reader saw."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Sequence
from pathlib import Path

import puller
from puller.backups.bases.facts import REPLACED
from puller.hypervisor.job.frozen import DiskExport
from puller.units import CHUNK, KIB, MIB
from tests.integration.conftest import Truth, io, restored
from tests.integration.test_generations import ODD
from tests.lab.machine import DiskSpec, make_image
from tests.qmp.conftest import BareFactory


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


def test_two_machines_at_once_whose_sockets_are_in_one_folder(
    bare_factory: BareFactory, truth: Truth, repository: puller.Repository, tmp_path: Path
) -> None:
    one, other = bare_factory(DiskSpec("vda", MIB)), bare_factory(DiskSpec("vdb", MIB))
    for machine, target in ((one, "vda"), (other, "vdb")):
        machine.write(target, 5, 0, MIB)
        puller.backup(repository, machine.name, connect=machine.uri)

    def back_up_the_other(exports: Sequence[DiskExport]) -> None:
        point = puller.backup(repository, other.name, connect=other.uri)
        assert point.kind == "incremental"
        truth(exports)

    point = puller.backup(repository, one.name, connect=one.uri, on_frozen=back_up_the_other)
    assert point.kind == "incremental"
    assert truth.equals(restored(repository, point, tmp_path), "vda", 1)
    assert one.remains() == other.remains() == []


def test_a_disk_with_a_thread_of_its_own_on_a_chain_of_images(
    bare_factory: BareFactory, truth: Truth, repository: puller.Repository, tmp_path: Path
) -> None:
    base, top = tmp_path / "base.qcow2", tmp_path / "top.qcow2"
    make_image(base, DiskSpec("x", 20 * MIB))
    io(base, "qcow2", f"write -P 4 0 {8 * MIB}")
    command = ["qemu-img", "create", "-q", "-f", "qcow2", "-b", str(base), "-F", "qcow2", str(top)]
    subprocess.run(command, check=True)
    machine = bare_factory(
        DiskSpec("vda", MIB),
        options=(
            *("-object", "iothread,id=thread"),
            *("-blockdev", f"driver=qcow2,node-name=top,file.driver=file,file.filename={top}"),
            *("-device", "virtio-blk-pci,id=fast,drive=top,iothread=thread"),
        ),
    )
    machine.write("fast", 5, MIB, MIB)
    points = [puller.backup(repository, machine.name, connect=machine.uri, on_frozen=truth)]
    machine.write("fast", 6, 3 * MIB, MIB)
    machine.write_zeroes("fast", 0, 64 * KIB)
    points.append(puller.backup(repository, machine.name, connect=machine.uri, on_frozen=truth))
    assert [point.kind for point in points] == ["full", "incremental"]
    record = points[1].disk("fast")
    assert record is not None
    assert record.dirty_bytes == MIB + 64 * KIB
    assert record.backing == (f"qcow2 {base}",)
    for number, point in enumerate(points, 1):
        assert truth.equals(restored(repository, point, tmp_path), "fast", number)
    assert machine.remains() == []


def test_a_data_file_that_was_replaced_while_qemu_was_off(
    bare_factory: BareFactory, truth: Truth, repository: puller.Repository, tmp_path: Path
) -> None:
    """The bitmaps are in the image beside it, and know nothing of that."""
    image, data = tmp_path / "out.qcow2", tmp_path / "out.raw"
    size = 2048 * MIB
    command = ["qemu-img", "create", "-q", "-f", "qcow2", "-o", f"data_file={data},data_file_raw=on"]
    subprocess.run([*command, str(image), str(size)], check=True)
    machine = bare_factory(
        DiskSpec("vda", MIB),
        options=(
            *("-blockdev", f"driver=qcow2,node-name=out,file.driver=file,file.filename={image}"),
            *("-device", "virtio-blk-pci,id=vdb,drive=out"),
        ),
    )
    machine.write("vdb", 5, 0, 1024 * MIB)
    first = puller.backup(repository, machine.name, connect=machine.uri)
    machine.stop()
    other = tmp_path / "other.raw"
    subprocess.run(["cp", "--sparse=always", str(data), str(other)], check=True)
    io(other, "raw", f"write -P 9 {300 * MIB + 7 * CHUNK} {CHUNK}")
    other.rename(data)
    machine.start()
    point = puller.backup(repository, machine.name, connect=machine.uri, on_frozen=truth)
    records = [each.disk("vdb") for each in (first, point)]
    assert [record and record.image.data and record.image.data.path for record in records] == [str(data)] * 2
    assert [record and record.reason for record in records][1] == REPLACED
    assert truth.equals(restored(repository, point, tmp_path), "vdb", 1)
    assert machine.remains() == []


def test_ten_generations_of_a_guest_that_writes_while_it_is_backed_up(
    bare_factory: BareFactory, truth: Truth, repository: puller.Repository, tmp_path: Path
) -> None:
    """What the guest writes during a run is not in its point, and is in the next one."""
    machine = bare_factory(DiskSpec("vda", 20 * MIB), DiskSpec("vdb", ODD))
    machine.write("vda", 1, 0, 12 * MIB)
    machine.write("vdb", 3, 0, ODD)
    chance = random.Random(7)

    def write() -> None:
        for target, size in (("vda", 20 * MIB), ("vdb", ODD)):
            for _ in range(4):
                length = chance.randrange(1, 400) * 512
                offset = chance.randrange((size - length) // 512) * 512
                way = chance.choice((machine.write_zeroes, machine.unmap_zeroes, machine.discard, None))
                if way is None:
                    machine.write(target, chance.randrange(256), offset, length)
                else:
                    way(target, offset, length)

    def write_meanwhile(exports: Sequence[DiskExport]) -> None:
        truth(exports)
        write()

    points = []
    for _ in range(10):
        write()
        points.append(puller.backup(repository, machine.name, connect=machine.uri, on_frozen=write_meanwhile))
    assert [point.kind for point in points] == ["full"] + ["incremental"] * 9
    for number, point in enumerate(points, 1):
        folder = restored(repository, point, tmp_path)
        assert truth.equals(folder, "vda", number)
        assert truth.equals(folder, "vdb", number)
    assert machine.remains() == []
