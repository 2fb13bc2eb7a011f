"""Disks without bitmaps beside others, and disks that come, go and change their image.

Whatever has happened, the next run needs no help, stores what has changed and restores exactly.
"""

from __future__ import annotations

import os
import signal
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path

import libvirt
import pytest

import puller
from puller.errors import (
    DomainNotRunning,
    HypervisorError,
    UnsupportedDisk,
)
from puller.units import KIB, MIB
from tests.integration.conftest import SIZE, Scene, Truth, checkpoints, io
from tests.lab.fixtures import MachineFactory
from tests.lab.machine import DiskSpec


def test_disks_without_bitmaps_beside_one_that_has_one(
    machine_factory: MachineFactory, libvirt_uri: str, tmp_path: Path, truth: Truth
) -> None:
    disks = [DiskSpec("vda", SIZE), DiskSpec("vdb", SIZE, "qcow2-v2"), DiskSpec("vdr", SIZE, "raw")]
    scene = Scene(machine_factory(*disks), libvirt_uri, tmp_path, truth)
    scene.fill("vdr")
    scene.machine.write("vdb", 1, 0, MIB)
    assert scene.backup().kind == "full"
    for target in ("vda", "vdb", "vdr"):
        scene.machine.write(target, 2, 3 * MIB, 64 * KIB)
    scene.machine.write_zeroes("vdr", 4 * MIB, MIB)
    point = scene.backup()
    assert {disk.disk: disk.kind for disk in point.disks} == {
        "vda": "incremental",
        "vdb": "rehash",
        "vdr": "rehash",
    }
    assert point.kind == "mixed"
    assert [disk.reason.partition(" (")[0] for disk in point.disks] == [
        "",
        "a qcow2 image of version 2 cannot hold a dirty bitmap",
        "a raw image cannot hold a dirty bitmap",
    ]
    assert point.disks[2].stored_bytes < 16 * MIB // 100
    scene.assert_exact(point)
    only = scene.backup(disks=["vdr"])
    assert (only.kind, only.checkpoint) == ("rehash", None)
    scene.assert_exact(only)
    assert checkpoints(scene.machine) == {point.checkpoint}
    scene.machine.stop()
    off = scene.backup()
    assert [disk.kind for disk in off.disks] == ["incremental", "rehash", "rehash"]
    scene.assert_exact(off)

    def write(exports: object) -> None:
        truth(exports)  # type: ignore[arg-type]
        io(scene.machine.image("vdr"), "raw", "write -P 1 0 64k")

    scene.truth = write
    with pytest.raises(HypervisorError, match="was changed while it was read"):
        scene.backup()
    scene.truth = lambda _: scene.machine.start()
    with pytest.raises(DomainNotRunning, match="was started while its images were read"):
        scene.backup(disks=["vdr"])
    assert len(puller.list_points(scene.repository)) == 4


def test_a_network_disk_takes_part(
    machine_factory: MachineFactory, libvirt_uri: str, tmp_path: Path, truth: Truth
) -> None:
    scene = Scene(
        machine_factory(DiskSpec("vda", 4 * MIB), DiskSpec("vdb", 4 * MIB)), libvirt_uri, tmp_path, truth
    )
    scene.machine.stop()
    remote = tmp_path / "remote.raw"
    remote.write_bytes(b"remote!\n" * (MIB // 2))
    socket = tmp_path / "remote.sock"
    serve = [
        "qemu-nbd",
        "--persistent",
        "--shared=0",
        "-f",
        "raw",
        "-k",
        str(socket),
        "-x",
        "far",
        str(remote),
    ]
    pid_file = tmp_path / "remote.pid"
    subprocess.run([*serve, "--fork", f"--pid-file={pid_file}"], check=True)

    def connect(root: ET.Element) -> None:
        disk = root.findall("./devices/disk")[1]
        disk.set("type", "network")
        disk.remove(disk.find("source"))  # type: ignore[arg-type]
        disk.find("driver").set("type", "raw")  # type: ignore[union-attr]
        source = ET.SubElement(disk, "source", protocol="nbd", name="far")
        ET.SubElement(source, "host", transport="unix", socket=str(socket))

    scene.redefine(connect)
    scene.machine.start()
    assert scene.backup().kind == "full"
    scene.machine.write("vdb", 7, MIB, 64 * KIB)
    point = scene.backup()
    assert [disk.kind for disk in point.disks] == ["incremental", "rehash"]
    assert point.disks[1].new_bytes == 64 * KIB
    scene.assert_exact(point)
    scene.machine.stop()
    off = scene.backup()
    assert (off.consistency, [disk.kind for disk in off.disks]) == ("offline", ["incremental", "rehash"])
    assert off.disks[1].new_bytes == 0
    scene.assert_exact(off)

    def encrypted(root: ET.Element) -> None:
        root.findall("./devices/disk")[1].find("source").set("tls", "yes")  # type: ignore[union-attr]

    scene.redefine(encrypted)
    with pytest.raises(
        UnsupportedDisk, match=r"disk vdb of .* it is network, and the domain is shut off"
    ) as refused:
        scene.backup()
    assert "--exclude-disk vdb" in refused.value.advice
    os.kill(int(pid_file.read_text()), signal.SIGTERM)


def test_disks_that_come_go_and_change_their_image(
    machine_factory: MachineFactory, libvirt_uri: str, tmp_path: Path, truth: Truth
) -> None:
    scene = Scene(
        machine_factory(DiskSpec("vda", 4 * MIB), DiskSpec("vdb", 4 * MIB)), libvirt_uri, tmp_path, truth
    )
    machine = scene.machine
    machine.write("vda", 1, 0, 2 * MIB)
    machine.write("vdb", 2, 0, 2 * MIB)
    first = scene.backup()
    whole = ET.fromstring(machine.handle.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))
    machine.stop()
    scene.redefine(lambda root: root.find("devices").remove(root.findall("./devices/disk")[1]))  # type: ignore[union-attr]
    machine.start()
    removed = scene.backup()
    assert [(disk.disk, disk.kind) for disk in removed.disks] == [("vda", "incremental")]
    assert checkpoints(machine) == {removed.checkpoint}
    machine.stop()
    machine.define(ET.tostring(whole, encoding="unicode"))
    machine.start()
    assert machine.bitmaps("vdb") == {first.checkpoint}
    added = scene.backup()
    assert [(disk.kind, disk.parent) for disk in added.disks] == [
        ("incremental", removed.point),
        ("incremental", first.point),  # its bitmap has recorded all the time
    ]
    assert scene.told == [f"restored libvirt's lost record of checkpoint {first.checkpoint}"]
    assert machine.bitmaps("vda") == machine.bitmaps("vdb") == {added.checkpoint}
    scene.assert_exact(added)

    machine.stop()
    raw = tmp_path / "converted.raw"
    subprocess.run(["qemu-img", "convert", "-O", "raw", str(machine.image("vdb")), str(raw)], check=True)

    def convert(root: ET.Element) -> None:
        disk = root.findall("./devices/disk")[1]
        disk.find("driver").set("type", "raw")  # type: ignore[union-attr]
        disk.find("source").set("file", str(raw))  # type: ignore[union-attr]

    scene.redefine(convert)
    machine.start()
    changed = scene.backup()
    assert [disk.kind for disk in changed.disks] == ["incremental", "rehash"]
    assert changed.disks[1].reason == "a raw image cannot hold a dirty bitmap"
    assert changed.disks[1].stored_bytes == 0
    scene.assert_exact(changed)
    machine.stop()
    machine.define(ET.tostring(whole, encoding="unicode"))
    machine.start()
    back = scene.backup()
    assert back.disks[1].parent == added.point  # its bitmap has recorded since
    scene.assert_exact(back)


def test_snapshots_in_the_chain(scene: Scene) -> None:
    """libvirt 9.0 makes none where there are checkpoints; QEMU's tools do."""
    machine = scene.machine
    image, overlay = machine.image("vda"), scene.folder / "overlay.qcow2"
    machine.stop()
    subprocess.run(["qemu-img", "snapshot", "-c", "inside", str(image)], check=True)
    machine.start()
    machine.write("vda", 3, MIB, 64 * KIB)
    point = scene.backup()
    assert (point.kind, point.disks[0].dirty_bytes) == ("incremental", 64 * KIB)
    scene.assert_exact(point)

    machine.stop()
    create = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", str(image), str(overlay)]
    subprocess.run(create, check=True)
    scene.redefine(lambda root: root.find("./devices/disk/source").set("file", str(overlay)))  # type: ignore[union-attr]
    io(overlay, "qcow2", "write -P 8 2M 64k")
    off = scene.backup()
    assert off.disks[0].reason == f"its image is now qcow2 {overlay} and was qcow2 {image}"
    scene.assert_exact(off)
    machine.start()
    point = scene.backup()
    assert (point.kind, point.disks[0].stored_bytes) == ("rehash", 0)
    scene.assert_exact(point)
    machine.write("vda", 9, 3 * MIB, 64 * KIB)
    point = scene.backup()
    assert (point.kind, point.disks[0].dirty_bytes) == ("incremental", 64 * KIB)
    assert checkpoints(machine) == {point.checkpoint}
    scene.assert_exact(point)
