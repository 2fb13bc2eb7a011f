"""Restoring onto what somebody uses is refused, with who it is, whatever was forced; nothing is written."""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

import puller
from puller.errors import OutputInUse
from puller.events import DiskPlanned, Event, Notice
from puller.hypervisor.domain.disks import sources
from puller.nbd.image import ImageServer
from puller.units import MIB
from tests.integration.conftest import loop_device
from tests.lab.archive import make_point
from tests.lab.fixtures import MachineFactory
from tests.lab.machine import DiskSpec, Machine

CONTENT = os.urandom(MIB)
NOWHERE = "qemu:///embed?root=/nonexistent/puller"
"""A libvirt that cannot be reached."""


class Restoring:
    """Restores one disk of ``MIB`` bytes, by force."""

    def __init__(self, folder: Path, uri: str) -> None:
        self.uri = uri
        self.told: list[str] = []
        self._repository = puller.create_repository(str(folder / "repository"), password=None)
        make_point(self._repository, {"vda": CONTENT})

    def __call__(self, output: object, **options: object) -> None:
        self.told = []
        choices = {"connect": self.uri, "force": True, "observer": self._observe, **options}
        puller.restore(self._repository, "web1@latest", output=str(output), disks=["vda"], **choices)  # type: ignore[arg-type]

    def refused(self, output: object, **options: object) -> str:
        with pytest.raises(OutputInUse) as refusal:
            self(output, **options)
        assert "--force does not help" in refusal.value.advice
        return refusal.value.message

    def _observe(self, event: Event) -> None:
        if isinstance(event, Notice):
            self.told.append(event.text)


@pytest.fixture
def restoring(tmp_path: Path, libvirt_uri: str) -> Restoring:
    return Restoring(tmp_path, libvirt_uri)


def blank(path: Path, size: int = 8 * MIB) -> Path:
    path.write_bytes(b"\xff" * size)
    return path


def put_upon(machine: Machine, kind: str, path: object, image_format: str) -> None:
    """Start the machine again with its one disk elsewhere."""
    machine.stop()
    root = ET.fromstring(machine.handle.XMLDesc())
    disk, source = root.find("./devices/disk"), root.find("./devices/disk/source")
    driver = root.find("./devices/disk/driver")
    assert disk is not None
    assert source is not None
    assert driver is not None
    disk.set("type", kind)
    source.attrib.clear()
    source.set("file" if kind == "file" else "dev", str(path))
    driver.set("type", image_format)
    machine.define(ET.tostring(root, encoding="unicode"))
    machine.start()


def test_the_image_of_a_running_domain_by_any_name(
    restoring: Restoring, machine_factory: MachineFactory, tmp_path: Path
) -> None:
    machine = machine_factory(DiskSpec("vda", 8 * MIB, "raw"))
    machine.write("vda", 7, 0, MIB)
    image = machine.image("vda")
    link, hard = tmp_path / "link", tmp_path / "hard"
    link.symlink_to(image)
    hard.hardlink_to(image)
    before = image.stat()
    for name in (image, link, hard):
        assert (
            restoring.refused(name)
            == f"cannot restore to {name}: domain {machine.name} is running with {image}"
        )
    with loop_device(image) as device:
        assert f"domain {machine.name} is running" in restoring.refused(device)
    machine.flush()
    assert image.read_bytes()[:MIB] == b"\x07" * MIB
    assert (image.stat().st_ino, link.is_symlink()) == (before.st_ino, True)
    machine.stop()
    restoring(image)
    assert image.read_bytes() == CONTENT


def test_an_image_behind_a_running_domains_own(
    restoring: Restoring, machine_factory: MachineFactory, tmp_path: Path
) -> None:
    machine = machine_factory(DiskSpec("vda", 8 * MIB))
    base, overlay = machine.image("vda"), tmp_path / "overlay"
    command = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", str(base), str(overlay)]
    subprocess.run(command, check=True)
    put_upon(machine, "file", overlay, "qcow2")
    assert f"domain {machine.name} is running with {base}" in restoring.refused(base)


def test_the_device_of_a_running_domain(
    restoring: Restoring, machine_factory: MachineFactory, tmp_path: Path
) -> None:
    machine = machine_factory(DiskSpec("vda", MIB))
    file = blank(tmp_path / "device.img")
    node = tmp_path / "node"
    with loop_device(file) as device:
        put_upon(machine, "block", device, "raw")
        os.mknod(node, 0o600 | 0o060000, Path(device).stat().st_rdev)
        assert f"domain {machine.name} is running with {device}" in restoring.refused(device)
        assert f"domain {machine.name} is running with {device}" in restoring.refused(node)
        assert f"domain {machine.name} is running with {device}" in restoring.refused(file)
        assert file.read_bytes() == b"\xff" * 8 * MIB
        machine.stop()
        restoring(device)
    assert file.read_bytes()[:MIB] == CONTENT


def test_without_libvirt_the_host_tells(
    restoring: Restoring, machine_factory: MachineFactory, tmp_path: Path
) -> None:
    machine = machine_factory(DiskSpec("vda", 8 * MIB))
    said = restoring.refused(machine.image("vda"), connect=NOWHERE)
    process = f"process {machine.pid()} (qemu-system-x86 of domain {machine.name}) has it open"
    assert said == f"cannot restore to {machine.image('vda')}: {process}"
    assert restoring.told[0].startswith(
        f"cannot ask libvirt which running domains use {machine.image('vda')} (cannot connect to libvirt at "
    )
    other = blank(tmp_path / "old.img")
    restoring(other, connect=NOWHERE)
    assert other.read_bytes() == CONTENT
    assert len(restoring.told) == 2


def test_a_new_output_needs_no_libvirt(restoring: Restoring, tmp_path: Path) -> None:
    restoring(tmp_path / "new.img", connect=NOWHERE)
    assert restoring.told == []


def test_an_image_that_is_served(restoring: Restoring, tmp_path: Path) -> None:
    image = blank(tmp_path / "served.img")
    with ImageServer.read_only(image, "raw"):
        assert "(qemu-nbd) has it open" in restoring.refused(image)
        with loop_device(image) as device:
            assert "(qemu-nbd) has it open" in restoring.refused(device)
    assert image.read_bytes() == b"\xff" * 8 * MIB


def test_what_is_mounted(restoring: Restoring, tmp_path: Path) -> None:
    image, folder = blank(tmp_path / "fs.img", 16 * MIB), tmp_path / "mounted here"
    folder.mkdir()
    subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], check=True)
    with loop_device(image) as device:
        assert restoring.refused(image) == f"cannot restore to {image}: {device} is built on it"
        mounting = subprocess.run(["mount", device, folder], check=False, capture_output=True)
        if mounting.returncode:
            pytest.skip("cannot mount a file system here")
        try:
            for name in (device, image):
                assert restoring.refused(name) == f"cannot restore to {name}: it is mounted at {folder}"
        finally:
            subprocess.run(["umount", folder], check=True)
        restoring(device)


def test_a_lock_of_somebody_who_is_not_seen(restoring: Restoring, tmp_path: Path) -> None:
    image = blank(tmp_path / "locked.img")
    with image.open("r+b") as file:
        # As QEMU does it: byte 101 says that somebody writes.
        fcntl.fcntl(file, fcntl.F_OFD_SETLK, struct.pack("@hhqqi4x", fcntl.F_RDLCK, os.SEEK_SET, 101, 1, 0))
        assert "holds its lock" in restoring.refused(image)


def test_no_qemu_starts_on_what_is_being_overwritten(restoring: Restoring, tmp_path: Path) -> None:
    image, said = blank(tmp_path / "old.img"), []

    def start(event: Event) -> None:
        if isinstance(event, DiskPlanned):
            command = ["qemu-io", "-f", "raw", "-c", "write 0 512", str(image)]
            said.append(subprocess.run(command, capture_output=True, text=True, check=False).stderr)

    restoring(image, observer=start)
    assert "Is another process using the image" in said[0]
    assert image.read_bytes() == CONTENT


def test_where_a_domain_has_its_storage() -> None:
    xml = """<domain><os><nvram template='/t'>/nvram</nvram></os><devices>
      <disk type='file'><source file='/top'/><backingStore type='block'><source dev='/dev/base'/>
        <backingStore/></backingStore><mirror type='file'><source file='/copy'/></mirror></disk>
      <disk type='file'><source file='/data'><dataStore type='file'>
        <source file='/external'/></dataStore></source>
      </disk><disk type='volume'><source pool='p' volume='v'/></disk>
      <disk type='network'><source name='x'/></disk>
      <interface><source dev='eth0'/></interface></devices></domain>"""
    assert list(sources.paths(xml)) == ["/top", "/dev/base", "/copy", "/data", "/external", "/nvram"]
    assert list(sources.volumes(xml)) == [("p", "v")]
