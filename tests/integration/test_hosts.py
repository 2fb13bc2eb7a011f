"""Domains that are not simply running, and what belongs to a domain beside its disks.

Whatever has happened, the next run needs no help, stores what has changed and restores exactly.
"""

from __future__ import annotations

import json
import os
import subprocess
import tarfile
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import libvirt
import pytest

import puller
from puller.errors import (
    Locked,
    NoSuchDomain,
)
from puller.hypervisor.job.frozen import DiskExport
from puller.units import KIB, MIB
from tests.integration.conftest import Scene, Truth, bitmap, checkpoints, io, restored
from tests.lab.fixtures import MachineFactory
from tests.lab.machine import DiskSpec


def test_a_domain_that_is_shut_off(scene: Scene) -> None:
    machine = scene.machine
    (known,) = checkpoints(machine)
    machine.write("vda", 4, 3 * MIB, 64 * KIB)
    machine.stop()
    off = scene.backup()
    assert (off.kind, off.consistency, off.checkpoint) == ("incremental", "offline", known)
    assert off.disks[0].dirty_bytes == 64 * KIB
    scene.assert_exact(off)
    machine.start()
    machine.save()
    assert scene.backup().consistency == "crash"
    machine.handle.managedSaveRemove()
    machine.start()
    machine.write("vda", 5, 4 * MIB, 64 * KIB)
    on = scene.backup()
    assert (on.kind, on.parent, on.disks[0].dirty_bytes) == ("incremental", off.parent, 128 * KIB)
    assert on.disks[0].new_bytes == 64 * KIB, "what was read shut off is read again, and known"
    assert checkpoints(machine) == {on.checkpoint}
    scene.assert_exact(on)

    machine.stop()
    io(machine.image("vda"), "qcow2", "write -P 6 5M 64k")
    again = scene.backup()
    assert (again.kind, again.disks[0].dirty_bytes) == ("incremental", 64 * KIB)
    scene.assert_exact(again)
    bitmap(machine.image("vda"), "--remove", str(on.checkpoint))
    lost = scene.backup()
    assert lost.kind == "rehash"
    assert lost.checkpoint is None
    assert lost.disks[0].reason.endswith("is missing or inconsistent in the image")
    assert lost.disks[0].stored_bytes == 0
    scene.assert_exact(lost)
    machine.start()
    assert scene.backup().kind == "rehash"
    assert scene.backup().kind == "incremental"
    machine.stop()
    machine.start()
    machine.write("vda", 7, 6 * MIB, 64 * KIB)
    machine.kill()
    crashed = scene.backup()
    assert (crashed.kind, crashed.checkpoint) == ("rehash", None)
    scene.assert_exact(crashed)


def test_a_living_run_that_has_its_locks_elsewhere(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of another user, or in a container: its job is not taken for a dead run's."""
    truth, refused = scene.truth, []

    def meanwhile(exports: Sequence[DiskExport]) -> None:
        truth(exports)
        (held,) = scene.folder.glob("*-run.lock")
        assert held.stat().st_mode & 0o777 == 0o644, "no other user could look whether it is held"
        with monkeypatch.context() as patch:
            patch.setattr("puller.hypervisor.locking.lock.lock_directory", lambda: scene.folder / "other")
            for mode in ("pull", "push"):
                with pytest.raises(Locked, match="another user, container or host") as caught:
                    puller.backup(scene.repository, scene.machine.name, connect=scene.uri, mode=mode)
                refused.append(caught.value.exit_code)

    scene.truth = meanwhile
    usual = os.umask(0o077)  # as in the unit
    try:
        for mode in ("pull", "push"):
            point = scene.backup(mode=mode)
            scene.machine.flush()
    finally:
        os.umask(usual)
    assert refused == [11] * 4
    assert list(scene.folder.glob("*.lock")) == []
    assert checkpoints(scene.machine) == {point.checkpoint}


def test_an_image_in_use_is_not_read_and_one_that_is_read_is_not_used(scene: Scene) -> None:
    scene.machine.stop()
    command = ["qemu-io", "-f", "qcow2", str(scene.machine.image("vda"))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as user:
        assert user.stdin
        assert user.stdout
        user.stdin.write(b"length\n")
        user.stdout.read(1)  # it has opened the image
        with pytest.raises(Locked, match="is in use by another process"):
            scene.backup()

    def start(_exports: object) -> None:
        with pytest.raises(libvirt.libvirtError, match='Failed to get "write" lock'):
            scene.machine.handle.createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED)

    scene.truth = start
    assert scene.backup().consistency == "offline"
    scene.machine.start()


def test_a_transient_domain(scene: Scene) -> None:
    machine = scene.machine
    machine.stop()
    text = machine.handle.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    connection = machine.handle.connect()
    machine.handle.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA)

    def start() -> None:
        machine.handle = connection.createXML(text, libvirt.VIR_DOMAIN_START_PAUSED)

    start()
    machine.write("vda", 3, MIB, 64 * KIB)
    point = scene.backup()
    assert (point.kind, point.disks[0].dirty_bytes) == ("incremental", 64 * KIB)
    scene.assert_exact(point)
    machine.handle.destroy()
    with pytest.raises(NoSuchDomain):
        scene.backup()
    start()
    machine.write("vda", 4, 2 * MIB, 64 * KIB)
    point = scene.backup()
    assert (point.kind, point.disks[0].dirty_bytes) == ("incremental", 64 * KIB)
    assert machine.bitmaps("vda") == {point.checkpoint}
    machine.define(text)


def test_what_belongs_to_a_domain_is_kept_beside_its_disks(
    machine_factory: MachineFactory, libvirt_uri: str, tmp_path: Path, truth: Truth
) -> None:
    scene = Scene(machine_factory(DiskSpec("vda", MIB)), libvirt_uri, tmp_path, truth, "pw")
    first = scene.backup()
    running = {item.name for item in first.attachments}
    assert running == {"domain.xml", "live.xml", "images.json"}
    read = [item.time for item in first.attachments if item.time is not None]
    ended = first.time + timedelta(seconds=first.seconds)
    assert len(read) == 3 and all(first.time <= moment <= ended for moment in read)
    scene.machine.stop()
    (tmp_path / "code.fd").write_bytes(bytes(128 * KIB))
    (tmp_path / "variables.fd").write_bytes(b"boot order" * 10_000)

    def equip(root: ET.Element) -> None:
        system = root.find("os")
        assert system is not None
        ET.SubElement(system, "loader", readonly="yes", type="pflash").text = str(tmp_path / "code.fd")
        ET.SubElement(system, "nvram").text = str(tmp_path / "variables.fd")
        ET.SubElement(ET.SubElement(root, "features"), "acpi")
        tpm = ET.SubElement(root.find("devices"), "tpm", model="tpm-crb")  # type: ignore[arg-type]
        ET.SubElement(tpm, "backend", type="emulator", version="2.0")
        ET.SubElement(root.find("devices"), "graphics", type="vnc", passwd="s3cret")  # type: ignore[arg-type]

    scene.redefine(equip)
    state = Path(libvirt_uri.partition("root=")[2]) / "lib" / "swtpm" / scene.machine.uuid / "tpm2"
    state.mkdir(parents=True)
    (state / "tpm2-00.permall").write_bytes(b"sealed keys")
    point = scene.backup()
    names = {item.name for item in point.attachments}
    assert names == {"domain.xml", "nvram.fd", "loader", "tpm.tar", "images.json"}
    folder = restored(scene.repository, point, tmp_path)
    assert (folder / "nvram.fd").read_bytes() == b"boot order" * 10_000
    assert "s3cret" in (folder / "domain.xml").read_text()
    with tarfile.open(folder / "tpm.tar") as tar:
        content = tar.extractfile("tpm2/tpm2-00.permall")
        assert content is not None
        assert content.read() == b"sealed keys"
    (chain,) = json.loads((folder / "images.json").read_text())["vda"]
    assert chain["filename"] == str(scene.machine.image("vda"))

    plain = puller.create_repository(str(tmp_path / "plain"), password=None)
    point = puller.backup(plain, scene.machine.name, connect=libvirt_uri)
    assert {item.name for item in point.attachments} == {"domain.xml", "nvram.fd", "loader", "images.json"}
    assert "s3cret" not in (restored(plain, point, tmp_path) / "domain.xml").read_text()

    with (tmp_path / "variables.fd").open("wb") as variables:
        variables.truncate(65 * MIB)
    point = scene.backup()
    assert "nvram.fd" not in {item.name for item in point.attachments}
    assert scene.told == [
        "the domain is shut off: puller reads its images, and it cannot be started until that is done",
        "the point has no nvram.fd: cannot back up the firmware variables of domain "
        f"{scene.machine.name}: {tmp_path / 'variables.fd'} is larger than 64 MiB",
    ]
