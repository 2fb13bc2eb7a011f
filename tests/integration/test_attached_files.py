"""What a domain needs besides its disks, in the point and back on a host."""

from __future__ import annotations

import os
import signal
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import libvirt
import pytest

import puller
from puller.events import Event, Notice
from puller.hypervisor.job.frozen import DiskExport
from puller.units import KIB, MIB
from tests.integration.conftest import Scene, Truth
from tests.lab.fixtures import MachineFactory
from tests.lab.machine import DiskSpec, Machine

NAMES = ("kernel", "initrd", "fw_cfg", "sda.iso", "fda.img")

SNAPSHOT = "<domainsnapshot><name>before-upgrade</name></domainsnapshot>"


def medium(devices: ET.Element, device: str, bus: str, target: str, path: Path) -> None:
    disk = ET.SubElement(devices, "disk", type="file", device=device)
    ET.SubElement(disk, "driver", name="qemu", type="raw")
    ET.SubElement(disk, "source", file=str(path))
    ET.SubElement(disk, "target", dev=target, bus=bus)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """Files of a host, each with a content of its own."""
    folder = tmp_path / "host"
    folder.mkdir()
    made = {name: folder / name for name in (*NAMES, "sdb.iso")}
    for number, path in enumerate(made.values(), 1):
        path.write_bytes(bytes([number]) * 100 * KIB)
    made["sdb.iso"].write_bytes(bytes(2 * MIB))
    made["kernel"].write_bytes(kernel(100 * KIB))
    return made


def kernel(size: int) -> bytes:
    """What QEMU takes for a Linux that can have an initrd; see Documentation/arch/x86/boot.rst of Linux."""
    image = bytearray(size)
    image[0x1F1] = 4  # sectors of the setup
    image[0x202:0x208] = b"HdrS" + (0x203).to_bytes(2, "little")
    image[0x22C:0x230] = (0x37FFFFFF).to_bytes(4, "little")  # the highest address of an initrd
    return bytes(image)


@pytest.fixture
def machine(machine_factory: MachineFactory, files: dict[str, Path]) -> Machine:
    """A machine that is shut off and has been given all of these."""
    machine = machine_factory(DiskSpec("vda", MIB))
    machine.stop()
    root = ET.fromstring(machine.handle.XMLDesc())
    firmware, devices = root.find("os"), root.find("devices")
    assert firmware is not None
    assert devices is not None
    for name in ("kernel", "initrd"):
        ET.SubElement(firmware, name).text = str(files[name])
    entries = ET.SubElement(root, "sysinfo", type="fwcfg")
    ET.SubElement(entries, "entry", name="opt/org.example/seed", file=str(files["fw_cfg"]))
    medium(devices, "cdrom", "sata", "sda", files["sda.iso"])
    medium(devices, "cdrom", "sata", "sdb", files["sdb.iso"])
    medium(devices, "floppy", "fdc", "fda", files["fda.img"])
    machine.define(ET.tostring(root, encoding="unicode"))
    return machine


@pytest.fixture
def scene(machine: Machine, libvirt_uri: str, tmp_path: Path, truth: Truth) -> Scene:
    return Scene(machine, libvirt_uri, tmp_path, truth)


def held(point: puller.Point) -> set[str]:
    return {item.name for item in point.attachments}


def restored(scene: Scene, point: puller.Point) -> Path:
    output = scene.folder / f"out-{point.point}"
    puller.restore(scene.repository, point.point, output=str(output))
    return output


@pytest.mark.parametrize("state", ["running", "shut off"])
def test_what_a_machine_starts_with_is_in_its_point(state: str, scene: Scene, files: dict[str, Path]) -> None:
    if state == "running":
        scene.machine.start()
    point = scene.backup(attach_limit=MIB)
    assert held(point) >= set(NAMES)
    note = f"the point has no sdb.iso: medium of sdb {files['sdb.iso']} is larger than 1.0 MiB"
    assert point.notes == (note,)
    assert note in scene.told
    output = restored(scene, point)
    for name in NAMES:
        assert (output / name).read_bytes() == files[name].read_bytes()
    assert "sdb.iso" in held(scene.backup())
    assert not {"sda.iso", "sdb.iso", "fda.img"} & held(scene.backup(attach_limit=0))
    assert "sda.iso" not in held(scene.backup(exclude=["sda"]))


def test_what_changes_or_cannot_be_read_is_noted(scene: Scene, files: dict[str, Path]) -> None:
    """It is read at the frozen moment and compared after the copy."""
    before = files["fda.img"].read_bytes()
    files["initrd"].unlink()

    def write(_exports: Sequence[DiskExport]) -> None:
        files["fda.img"].write_bytes(b"written")

    scene.truth = write
    point = scene.backup()
    assert point.notes == (
        f"the point has no initrd: cannot read initrd {files['initrd']}: no such file",
        "fda.img changed during the backup: the point has its state at the start of the backup",
    )
    assert (restored(scene, point) / "fda.img").read_bytes() == before


def test_a_medium_that_was_changed_while_running(
    scene: Scene, files: dict[str, Path], tmp_path: Path
) -> None:
    """The point holds that of the definition, by which the domain is restored, and names the other."""
    scene.machine.start()
    other = tmp_path / "other.iso"
    other.write_bytes(bytes(MIB))
    (disk,) = (
        disk
        for disk in ET.fromstring(scene.machine.handle.XMLDesc()).findall("./devices/disk")
        if disk.find("target[@dev='sda']") is not None
    )
    source = disk.find("source")
    assert source is not None
    source.attrib.clear()
    source.set("file", str(other))
    scene.machine.handle.updateDeviceFlags(
        ET.tostring(disk, encoding="unicode"), libvirt.VIR_DOMAIN_AFFECT_LIVE
    )
    point = scene.backup()
    assert point.notes == (f"the point does not hold disk sda (a cdrom, {other})",)
    assert (restored(scene, point) / "sda.iso").read_bytes() == files["sda.iso"].read_bytes()


def test_snapshots_and_foreign_checkpoints_are_described(scene: Scene) -> None:
    assert not {"snapshots.xml", "checkpoints.xml"} & held(scene.backup())
    flags = libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY
    scene.machine.start()
    record = (
        "<domaincheckpoint><name>theirs</name><disks><disk name='vda' checkpoint='bitmap'/>"
        "<disk name='fda' checkpoint='no'/></disks></domaincheckpoint>"
    )
    scene.machine.handle.checkpointCreateXML(record)
    first = scene.backup()
    output = restored(scene, first)
    names = [item.text for item in ET.parse(output / "checkpoints.xml").findall("./domaincheckpoint/name")]
    assert names == ["theirs"]
    scene.machine.handle.checkpointLookupByName("theirs").delete()
    scene.machine.stop()
    overlay = scene.folder / "overlay"
    root = ET.fromstring(SNAPSHOT)
    disks = ET.SubElement(root, "disks")
    disk = ET.SubElement(disks, "disk", name="vda", snapshot="external")
    ET.SubElement(disk, "source", file=str(overlay))
    for name in ("sda", "sdb", "fda"):
        ET.SubElement(disks, "disk", name=name, snapshot="no")
    for checkpoint in scene.machine.handle.listAllCheckpoints():
        checkpoint.delete(libvirt.VIR_DOMAIN_CHECKPOINT_DELETE_METADATA_ONLY)
    snapshot = scene.machine.handle.snapshotCreateXML(ET.tostring(root, encoding="unicode"), flags)
    try:
        described = restored(scene, scene.backup()) / "snapshots.xml"
        assert ET.parse(described).findtext("./domainsnapshot/name") == "before-upgrade"
    finally:
        snapshot.delete(libvirt.VIR_DOMAIN_SNAPSHOT_DELETE_METADATA_ONLY)


def test_a_machine_starts_on_a_host_that_has_none_of_it(scene: Scene, files: dict[str, Path]) -> None:
    """What is missing is written; what differs is kept and told; ``force`` replaces it."""
    original = scene.machine
    contents = {name: files[name].read_bytes() for name in NAMES}
    point = scene.backup()
    definition = original.handle.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    original.handle.undefineFlags(0)
    told: list[str] = []

    def observe(event: Event) -> None:
        if isinstance(event, Notice):
            told.append(event.text)

    def recreate(output: str, **options: Any) -> None:
        made = puller.recreate(
            scene.repository,
            point.point,
            connect=scene.uri,
            output=str(scene.folder / output),
            observer=observe,
            **options,
        )
        found = original.handle.connect().lookupByUUIDString(made.uuid)
        with Machine(found, original._root, scene.folder / output) as itself:
            itself.start()
            itself.stop()

    try:
        for name in ("kernel", "sda.iso", "fda.img"):
            files[name].unlink()
        files["initrd"].write_bytes(b"of this host")
        recreate("first")
        assert f"kernel {files['kernel']} was restored" in told
        assert any(text.startswith(f"initrd {files['initrd']} exists and differs") for text in told)
        assert files["initrd"].read_bytes() == b"of this host"
        for name in ("kernel", "fw_cfg", "sda.iso", "fda.img"):
            assert files[name].read_bytes() == contents[name]
        recreate("second", force=True)
        assert files["initrd"].read_bytes() == contents["initrd"]
    finally:
        original.define(definition)


def test_firmware_variables_on_the_network(
    machine_factory: MachineFactory, libvirt_uri: str, tmp_path: Path, truth: Truth
) -> None:
    """Read from their server; if it does not answer, the point has none and says so."""
    machine = machine_factory(DiskSpec("vda", MIB))
    machine.stop()
    scene = Scene(machine, libvirt_uri, tmp_path, truth)
    variables, socket, pid = tmp_path / "variables", tmp_path / "variables.sock", tmp_path / "pid"
    variables.write_bytes(b"boot order" * 10_240)

    def edit(root: ET.Element) -> None:
        firmware = root.find("os")
        assert firmware is not None
        ET.SubElement(firmware, "loader", readonly="yes", type="pflash").text = "/usr/share/OVMF/CODE.fd"
        nvram = ET.SubElement(firmware, "nvram", type="network")
        source = ET.SubElement(nvram, "source", protocol="nbd", name="vars")
        ET.SubElement(source, "host", transport="unix", socket=str(socket))
        ET.SubElement(ET.SubElement(root, "features"), "acpi")

    scene.redefine(edit)
    serve = ["qemu-nbd", "--persistent", "--shared=0", "-f", "raw", "-k", str(socket), "-x", "vars"]
    subprocess.run([*serve, "--fork", f"--pid-file={pid}", str(variables)], check=True)
    try:
        point = scene.backup()
        assert point.notes == ()
        assert (restored(scene, point) / "nvram.fd").read_bytes() == variables.read_bytes()
    finally:
        os.kill(int(pid.read_text()), signal.SIGTERM)
    (note,) = scene.backup().notes
    assert note.startswith("the point has no nvram.fd: cannot read the firmware variables of domain ")
