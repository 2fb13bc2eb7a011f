"""Hosts as they are: lost bitmaps, disks without any, domains that are not simply running.

Whatever has happened, the next run needs no help, stores what has changed and restores exactly.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tarfile
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import libvirt
import pytest
from msgspec import structs

import puller
from puller.errors import (
    CheckpointUnusable,
    DomainNotRunning,
    HypervisorError,
    Locked,
    NoSuchDomain,
    UnsupportedDisk,
)
from puller.hypervisor.job.frozen import DiskExport
from puller.hypervisor.job.job import PullJob
from puller.repository.points import Ref, new_id
from puller.units import KIB, MIB
from tests.integration.conftest import SIZE, Scene, Truth, bitmap, checkpoints, io, restored
from tests.lab.feed import store_disk
from tests.lab.fixtures import MachineFactory
from tests.lab.machine import DiskSpec


def kill_qemu(scene: Scene) -> None:
    """Bitmaps that were in the image stay flagged in-use. Only those of an earlier start are in it."""
    scene.machine.stop()
    scene.machine.start()
    scene.machine.kill()
    scene.machine.start()


def remove_bitmap(scene: Scene) -> None:
    scene.machine.stop()
    (name,) = checkpoints(scene.machine)
    bitmap(scene.machine.image("vda"), "--remove", name)
    scene.machine.start()


def clear_the_bitmaps_feature(scene: Scene) -> None:
    """As a program that knows nothing of bitmaps does when it writes to the image (autoclear bit 0)."""
    scene.machine.stop()
    with scene.machine.image("vda").open("r+b") as image:
        image.seek(88)
        image.write(bytes(8))
    scene.machine.start()


FAULTS = [kill_qemu, remove_bitmap, clear_the_bitmaps_feature]


def test_a_lost_bitmap_costs_a_read_and_no_storage(scene: Scene) -> None:
    for number, spoil in enumerate(FAULTS):
        (known,) = checkpoints(scene.machine)
        spoil(scene)
        scene.machine.write("vda", number + 1, number * MIB, 64 * KIB)
        scene.machine.discard("vda", (number + 8) * MIB, 128 * KIB)
        point = scene.backup()
        (disk,) = point.disks
        assert (point.kind, disk.kind) == ("rehash", "rehash")
        assert disk.reason == f"its dirty bitmap of checkpoint {known} is missing or inconsistent"
        assert (
            f"puller reads all data of disk vda and compares it with point {disk.parent}: {disk.reason}"
            in scene.told
        )
        assert disk.read_bytes > 15 * MIB
        assert disk.stored_bytes < 16 * MIB // 100
        assert checkpoints(scene.machine) == {point.checkpoint}
        scene.assert_exact(point)
        scene.machine.write("vda", number + 1, 12 * MIB, 64 * KIB)
        assert scene.backup().kind == "incremental"


def test_a_bitmap_that_nothing_needs_is_removed(scene: Scene) -> None:
    machine = scene.machine
    (known,) = checkpoints(machine)
    machine.stop()
    machine.forget_checkpoints()
    machine.start()
    puller.delete(scene.repository, [point.point for point in puller.list_points(scene.repository)])
    point = scene.backup()
    assert point.kind == "full"
    assert scene.told == [f"removed dirty bitmap {known} from vda: its checkpoint no longer exists"]
    assert machine.bitmaps("vda") == {point.checkpoint}


def test_a_checkpoint_that_libvirt_refuses_is_done_without(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it says of the bitmaps before is not what counts when the job begins."""
    real = PullJob._begin

    def refuse(job: PullJob) -> None:
        if any(job._bases.values()):
            raise CheckpointUnusable("the bitmap is broken")
        real(job)

    monkeypatch.setattr(PullJob, "_begin", refuse)
    point = scene.backup()
    assert (point.kind, point.disks[0].reason) == ("rehash", "the bitmap is broken")
    assert checkpoints(scene.machine) == {point.checkpoint}
    scene.assert_exact(point)


def test_a_checkpoint_that_only_libvirt_has_lost_is_redefined(scene: Scene) -> None:
    (known,) = checkpoints(scene.machine)
    scene.machine.forget_checkpoints()
    scene.machine.write("vda", 3, 2 * MIB, 64 * KIB)
    point = scene.backup()
    assert (point.kind, point.disks[0].dirty_bytes) == ("incremental", 64 * KIB)
    assert f"restored libvirt's lost record of checkpoint {known}" in scene.told
    assert scene.machine.bitmaps("vda") == {point.checkpoint}
    scene.assert_exact(point)
    (known,) = checkpoints(scene.machine)
    scene.machine.forget_checkpoints()
    scene.machine.lose_bitmap("vda", known)
    point = scene.backup()
    (disk,) = point.disks
    assert disk.reason == f"libvirt has lost checkpoint {known}"
    assert (disk.kind, disk.new_bytes, disk.stored_bytes) == ("rehash", 0, 0)
    assert checkpoints(scene.machine) == {point.checkpoint}
    scene.assert_exact(point)


def test_a_checkpoint_whose_stored_xml_is_damaged_is_done_without(scene: Scene) -> None:
    (point,) = puller.list_points(scene.repository)
    scene.repository.points.delete([(point.uuid, point.point)])
    scene.repository.points.commit(structs.replace(point, checkpoint_xml="<domaincheckpoint>"))
    scene.machine.forget_checkpoints()
    point = scene.backup()
    assert (point.kind, point.disks[0].new_bytes) == ("rehash", 0)
    assert checkpoints(scene.machine) == {point.checkpoint}
    scene.assert_exact(point)


def test_a_point_of_a_copy_on_another_host_is_no_base(scene: Scene) -> None:
    """It has the UUID, the disk's name and a checkpoint, and is newer; but its bitmap is in another image."""
    (own,) = puller.list_points(scene.repository)
    size = own.disks[0].size
    root, _ = store_disk(scene.repository, b"\1" * size)
    name = new_id(own.time + timedelta(seconds=1))
    mark = f"{str(own.checkpoint)[: -len(own.point)]}{name}"
    copy = structs.replace(
        own,
        point=name,
        host="lab",
        time=own.time + timedelta(seconds=1),
        disks=(structs.replace(own.disks[0], root=Ref.to(root)),),
        checkpoint=mark,
        checkpoint_xml=str(own.checkpoint_xml).replace(str(own.checkpoint), mark),
    )
    scene.repository.points.commit(copy)
    scene.machine.write("vda", 3, 2 * MIB, 64 * KIB)
    point = scene.backup()
    (disk,) = point.disks
    assert (disk.kind, disk.parent, disk.dirty_bytes) == ("incremental", own.point, 64 * KIB)
    scene.assert_exact(point)


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


def test_a_restored_disk_begins_with_a_comparison(scene: Scene) -> None:
    scene.machine.write("vda", 9, 0, MIB)
    later = scene.backup()
    (first,) = (point for point in puller.list_points(scene.repository) if point.point == later.parent)
    scene.machine.stop()
    target = scene.machine.image("vda")
    puller.restore(
        scene.repository, first.point, output=str(target), disks=["vda"], format="qcow2", force=True
    )
    scene.machine.start()
    point = scene.backup()
    assert (point.kind, point.disks[0].new_bytes) == ("rehash", 0)
    scene.assert_exact(point)


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
