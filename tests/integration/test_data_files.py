"""A qcow2 image whose data is in an external file: on a loop device, which stands for LVM, ZFS or RBD."""

from __future__ import annotations

import os
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import pytest

import puller
from puller.backups.bases.facts import REPLACED, WRITTEN
from puller.errors import OutputInUse, UnsupportedDisk
from puller.hypervisor.connection import Host
from puller.units import CHUNK, KIB, MIB
from tests.integration.conftest import SIZE, Backup, Scene, Truth, leftovers, loop_device, restored
from tests.lab.fixtures import MachineFactory
from tests.lab.machine import DiskSpec, Machine


def keep_data_in(image: Path, data: str, size: int) -> None:
    """Make a qcow2 ``image`` whose data is what the raw file or device ``data`` has already."""
    first = image.with_suffix(".first")
    first.touch()
    os.truncate(first, size)
    image.unlink(missing_ok=True)
    options = f"data_file={first},data_file_raw=on"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-o", options, image, str(size)], check=True)
    subprocess.run(["qemu-img", "amend", "-f", "qcow2", "-o", f"data_file={data}", image], check=True)
    first.unlink()


def on_data_file(machine: Machine, data: str, size: int) -> None:
    """Give the machine's raw disk a qcow2 image with this data file, and start it."""
    machine.stop()
    _give(machine, "file", "file", str(machine.image("vda")), "qcow2")
    keep_data_in(machine.image("vda"), data, size)
    machine.start()


def make_device(folder: Path, size: int) -> Path:
    path = folder / "volume"
    path.touch()
    os.truncate(path, size)
    return path


@pytest.fixture
def device(tmp_path: Path) -> Iterator[str]:
    with loop_device(make_device(tmp_path, SIZE)) as name:
        yield name


@pytest.fixture
def scene(
    machine_factory: MachineFactory, libvirt_uri: str, tmp_path: Path, truth: Truth, device: str
) -> Scene:
    """A machine with its data on a loop device."""
    machine = machine_factory(DiskSpec("vda", SIZE, "raw"))
    on_data_file(machine, device, SIZE)
    return Scene(machine, libvirt_uri, tmp_path, truth)


def test_a_hundred_dirty_chunks_on_a_device_cost_a_hundred_chunks(
    machine_factory: MachineFactory, backup: Backup, truth: Truth, tmp_path: Path
) -> None:
    size = 1024 * MIB
    machine = machine_factory(DiskSpec("vda", size, "raw"))
    repository = puller.create_repository(str(tmp_path / "repository"), password=None)
    with loop_device(make_device(tmp_path, size)) as device:
        on_data_file(machine, device, size)
        machine.write("vda", 1, 0, MIB)
        assert backup(repository, machine).kind == "full"
        for number in range(100):
            machine.write("vda", number + 2, number * 10 * MIB + 5 * CHUNK, CHUNK)
        point = backup(repository, machine)
        (disk,) = point.disks
        assert (point.kind, disk.reason) == ("incremental", "")
        assert disk.dirty_bytes == disk.read_bytes == disk.new_bytes == 100 * CHUNK
        assert truth.equals(restored(repository, point, tmp_path), "vda", 2)
        assert not leftovers(tmp_path)
        machine.stop()


def test_a_definition_that_names_its_data_file(scene: Scene, device: str) -> None:
    """``<dataStore>``, which libvirt supports since 10.10: pulled, pushed, shut off, restored as it was."""
    with Host.connect(scene.uri) as host:
        if host.libvirt_version < (10, 10, 0):
            pytest.skip("this libvirt knows no <dataStore>")
    machine = scene.machine

    def name_it(root: ET.Element) -> None:
        source = root.find("./devices/disk/source")
        assert source is not None
        for found in source.findall("dataStore"):
            source.remove(found)
        store = ET.SubElement(source, "dataStore", type="block")
        ET.SubElement(store, "format", type="raw")
        ET.SubElement(store, "source", dev=device)

    machine.stop()
    scene.redefine(name_it)
    machine.start()
    assert "dataStore" in machine.handle.XMLDesc()
    scene.fill("vda")
    assert scene.backup().kind == "full"
    machine.write("vda", 7, 100 * KIB, 3 * KIB)
    machine.discard("vda", 512 * KIB, 128 * KIB)
    pulled = scene.backup()
    assert (pulled.kind, pulled.disks[0].reason) == ("incremental", "")
    scene.assert_exact(pulled)
    machine.write("vda", 8, 5 * MIB, 64 * KIB)
    machine.flush()
    pushed = scene.backup(mode="push")
    assert (pushed.kind, pushed.mode) == ("incremental", "push")
    machine.stop()
    off = scene.backup()
    assert off.kind == "incremental"
    scene.assert_exact(off)
    machine.start()
    machine.write("vda", 9, 0, MIB)
    machine.stop()
    puller.rollback(scene.repository, pushed.point, connect=scene.uri)
    raw = restored(scene.repository, pushed, scene.folder) / "vda.raw"
    compare = ["qemu-img", "compare", "-f", "qcow2", "-F", "raw", str(machine.image("vda")), str(raw)]
    subprocess.run(compare, check=True)
    assert Path(device).read_bytes() == raw.read_bytes()
    assert not leftovers(scene.folder)


def test_live_shut_off_and_in_place(scene: Scene, device: str) -> None:
    """Every kind of write; a plain raw restore; a rollback into the data file."""
    machine = scene.machine
    scene.fill("vda")
    scene.backup()
    machine.write("vda", 7, 100 * KIB, 3 * KIB)
    machine.write_zeroes("vda", 256 * KIB, 128 * KIB)
    machine.discard("vda", 512 * KIB, 128 * KIB)
    machine.write("vda", 0, 768 * KIB, 64 * KIB)
    changed = scene.backup()
    assert changed.kind == "incremental"
    scene.assert_exact(changed)
    machine.stop()
    point = scene.backup()
    assert (point.kind, point.disks[0].image.data.path if point.disks[0].image.data else "") == (
        "incremental",
        device,
    )
    scene.assert_exact(point)
    machine.start()
    machine.write("vda", 9, 5 * MIB, MIB)
    machine.stop()
    rolled = puller.rollback(scene.repository, point.point, connect=scene.uri)
    assert rolled.disks[0].bytes_compared < 8 * MIB
    folder = scene.folder / point.point
    with Path(device).open("rb") as data:
        assert data.read() == (folder / "vda.raw").read_bytes()
    machine.start()
    again = scene.backup()
    assert again.kind == "incremental"
    scene.assert_exact(again)


def test_a_data_file_in_use_is_not_rolled_back(scene: Scene, device: str) -> None:
    """For example through a mount or another guest, which do not use the image beside it."""
    machine = scene.machine
    scene.fill("vda")
    point = scene.backup()
    machine.write("vda", 9, 5 * MIB, MIB)
    machine.stop()
    before = Path(device).read_bytes()
    pipe, hold = subprocess.PIPE, 'exec 3<>"$1"; exec cat'
    with subprocess.Popen(["sh", "-c", hold, "sh", device], stdin=pipe, stdout=pipe) as user:
        assert user.stdout is not None
        assert user.stdin is not None
        user.stdin.write(b"open\n")
        user.stdin.flush()
        user.stdout.readline()
        with pytest.raises(OutputInUse, match=rf"{device}: process {user.pid} \(cat\) has it open"):
            puller.rollback(scene.repository, point.point, connect=scene.uri)
        user.stdin.close()
    assert Path(device).read_bytes() == before
    puller.rollback(scene.repository, point.point, connect=scene.uri)
    raw = restored(scene.repository, point, scene.folder) / "vda.raw"
    assert Path(device).read_bytes() == raw.read_bytes()


def test_a_rollback_of_a_data_file_that_another_program_wrote_to(
    machine_factory: MachineFactory, libvirt_uri: str, tmp_path: Path, truth: Truth
) -> None:
    """The bitmap has not seen that, so all of the disk is compared. The probe would likely miss one chunk."""
    size = 256 * MIB
    data = make_device(tmp_path, size)
    machine = machine_factory(DiskSpec("vda", size, "raw"))
    on_data_file(machine, str(data), size)
    scene = Scene(machine, libvirt_uri, tmp_path, truth)
    machine.write("vda", 5, 0, 200 * MIB)
    point = scene.backup()
    machine.stop()
    with data.open("r+b") as file:
        file.seek(77 * MIB + 7 * CHUNK)
        file.write(b"mended by hand")
    rolled = puller.rollback(scene.repository, point.point, connect=scene.uri)
    assert rolled.disks[0].bytes_compared >= 200 * MIB
    raw = restored(scene.repository, point, tmp_path) / "vda.raw"
    subprocess.run(["cmp", str(data), str(raw)], check=True)


def test_a_data_file_that_another_program_writes_to(scene: Scene, device: str) -> None:
    """Of a domain that is shut off; its bitmap is not believed until a later checkpoint begins anew."""
    machine = scene.machine
    scene.fill("vda")
    first = scene.backup()
    machine.stop()
    assert scene.backup().kind == "incremental"
    with Path(device).open("r+b") as data:
        data.seek(9 * MIB + 5)
        data.write(b"mended by hand")
    mended = scene.backup()
    assert (mended.disks[0].kind, mended.disks[0].reason) == ("rehash", WRITTEN)
    scene.assert_exact(mended)
    machine.start()
    running = scene.backup()
    assert (running.disks[0].kind, running.disks[0].reason) == ("rehash", WRITTEN)
    scene.assert_exact(running)
    machine.write("vda", 3, MIB, 64 * KIB)
    after = scene.backup()
    assert (after.kind, after.parent) == ("incremental", running.point)
    scene.assert_exact(after)
    assert first.point != running.point


def test_another_data_file(
    machine_factory: MachineFactory, libvirt_uri: str, tmp_path: Path, truth: Truth
) -> None:
    """A file that was replaced by a copy, and one of another name."""
    data, other = make_device(tmp_path, SIZE), tmp_path / "other"
    machine = machine_factory(DiskSpec("vda", SIZE, "raw"))
    on_data_file(machine, str(data), SIZE)
    scene = Scene(machine, libvirt_uri, tmp_path, truth)
    scene.backup()
    machine.stop()
    other.write_bytes(data.read_bytes())
    other.replace(data)
    times = machine.image("vda").stat()
    os.utime(data, ns=(times.st_mtime_ns, times.st_mtime_ns))
    machine.start()
    assert scene.backup().disks[0].reason == REPLACED
    machine.stop()
    other.write_bytes(data.read_bytes())
    image = machine.image("vda")
    subprocess.run(["qemu-img", "amend", "-f", "qcow2", "-o", f"data_file={other}", image], check=True)
    machine.start()
    moved = scene.backup()
    assert moved.disks[0].reason == f"its data file is now {other} and was {data}"
    scene.assert_exact(moved)


def test_a_volume_that_another_machine_has_as_its_disk(
    scene: Scene, machine_factory: MachineFactory, device: str
) -> None:
    scene.machine.stop()
    other = machine_factory(DiskSpec("vda", SIZE, "raw"))
    other.stop()
    _give(other, "block", "dev", device, "raw")
    other.start()
    with pytest.raises(UnsupportedDisk, match=f"the running domain {other.name} uses it"):
        scene.backup()


PAGE = Path(__file__).parents[2] / "docs" / "hosts.md"


def walk() -> str:
    """The commands of the page that convert a raw disk."""
    section = PAGE.read_text().split("## Block storage with true incrementals")[1]
    return section.split("```sh\n")[1].split("```")[0]


def shell(script: str) -> str:
    done = subprocess.run(["sh", "-euc", script], check=True, capture_output=True, text=True)
    return done.stdout


@pytest.mark.parametrize("way", ["the page's", "doctor's"])
def test_a_raw_volume_is_converted_and_restored_as_it_was(
    way: str, machine_factory: MachineFactory, libvirt_uri: str, tmp_path: Path, truth: Truth, device: str
) -> None:
    """By these very commands. Nothing on the volume changes, and the next points are incremental."""
    machine = machine_factory(DiskSpec("vda", SIZE, "raw"))
    machine.stop()
    _give(machine, "block", "dev", device, "raw")
    machine.start()
    scene = Scene(machine, libvirt_uri, tmp_path, truth)
    scene.fill("vda")
    machine.write("vda", 5, 0, 512)
    assert scene.backup().kind == "full"
    image = tmp_path / f"{machine.name}-vda.qcow2"
    checks = puller.doctor(scene.repository, connect=libvirt_uri, domains=(machine.name,))
    advice = next(check.advice for check in checks if check.name == "disk-format")
    page = (
        walk().replace("/dev/vg0/web1", device).replace("/var/lib/libvirt/images/web1-vda.qcow2", str(image))
    )
    told = advice.split("'")[1].replace("/var/lib/libvirt/images", str(tmp_path))
    script = page if way == "the page's" else told
    machine.stop()
    before = Path(device).read_bytes()
    printed = shell(script)
    assert Path(device).read_bytes() == before
    assert not image.with_name(f"{image.name}.first").exists()
    if way == "the page's":
        assert "Images are identical." in printed
    _give(machine, "file", "file", str(image), "qcow2")
    machine.start()
    converted = scene.backup()
    assert converted.disks[0].reason == f"its image is now qcow2 {image} and was raw {device}"
    assert converted.disks[0].new_bytes == 0
    machine.write("vda", 6, 3 * MIB, 64 * KIB)
    point = scene.backup()
    assert point.kind == "incremental"
    machine.stop()
    image.unlink()
    with Path(device).open("r+b") as volume:
        volume.write(bytes(SIZE))
    puller.restore(scene.repository, point.point, places={"vda": device}, force=True)
    shell(script)
    machine.start()
    again = scene.backup()
    assert again.disks[0].new_bytes == 0
    scene.assert_exact(again)


def _give(machine: Machine, kind: str, attribute: str, path: str, image_format: str) -> None:
    """Redefine the machine, which is off, with another source of its disk."""
    root = ET.fromstring(machine.handle.XMLDesc())
    disk, source = root.find("./devices/disk"), root.find("./devices/disk/source")
    assert disk is not None
    assert source is not None
    disk.set("type", kind)
    source.attrib.clear()
    source.set(attribute, path)
    driver = root.find("./devices/disk/driver")
    assert driver is not None
    driver.set("type", image_format)
    machine.define(ET.tostring(root, encoding="unicode"))
