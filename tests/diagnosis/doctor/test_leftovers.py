"""``doctor`` on real libvirt: what earlier runs and other programs left is found, and nothing else is."""

from __future__ import annotations

import os
import subprocess
import xml.etree.ElementTree as ET
from datetime import UTC, datetime, timedelta
from pathlib import Path

import libvirt
import pytest
from msgspec.structs import replace

import puller
from puller.diagnosis.finding import Status
from puller.diagnosis.scratch import Folders, label
from puller.hypervisor.confinement import Confinement
from puller.hypervisor.connection import Host
from puller.hypervisor.domain.checkpoint import checkpoint_name
from puller.hypervisor.job import openjob
from puller.hypervisor.job.job import PullJob, backup_xml, socket_path
from puller.hypervisor.job.listener import UnixListener
from puller.hypervisor.locking.lock import DomainLock, lock_directory
from puller.repository.points import new_id, object_name
from puller.units import MIB
from tests.diagnosis.doctor.ward import Ward, element_at, shut_off, source
from tests.lab.machine import DiskSpec, EmbeddedLibvirt, Machine

NOBODY = 65534


@pytest.mark.parametrize(
    ("bitmap", "remedy"), [("lonely", "qemu-img bitmap --remove"), ("puller-lonely", "Run a backup")]
)
def test_a_bitmap_without_a_checkpoint(ward: Ward, bitmap: str, remedy: str) -> None:
    image = ward.image(f"{bitmap}.img")
    subprocess.run(["qemu-img", "bitmap", "--add", str(image), bitmap], check=True)
    with ward.defined("stranded", source(image)):
        assert ward.found("stranded") == shut_off("stranded", {"disk-bitmaps": "warn"})
        (check,) = [item for item in ward.checks("stranded") if item.name == "disk-bitmaps"]
    assert remedy in check.advice


def test_bitmaps_that_a_crash_of_qemu_leaves_inconsistent_or_missing(
    ward: Ward, embedded_libvirt: EmbeddedLibvirt
) -> None:
    with embedded_libvirt.machine("crash", ward.folder, [DiskSpec("vda", 8 * MIB)]) as machine:
        puller.backup(ward.repository, "crash", connect=ward.uri)
        machine.stop()
        assert ward.found("crash") == {}
        machine.start()
        assert ward.found("crash") == {}
        machine.kill()
        assert ward.found("crash") == {"disk-base crash/vda": "warn", "disk-bitmaps crash/vda": "warn"}
        machine.start()
        assert ward.found("crash") == {"disk-base crash/vda": "warn"}
        puller.backup(ward.repository, "crash", connect=ward.uri)
        assert ward.found("crash") == {}
        machine.kill()
        assert ward.found("crash") == {"disk-base crash/vda": "warn", "disk-bitmaps crash/vda": "warn"}


def test_an_agent_that_is_not_there_and_a_snapshot(ward: Ward, embedded_libvirt: EmbeddedLibvirt) -> None:
    def with_channel(root: ET.Element) -> None:
        source(ward.image("agent.img"))(root)
        channel = ET.SubElement(element_at(root, "./devices"), "channel", type="unix")
        ET.SubElement(channel, "target", type="virtio", name="org.qemu.guest_agent.0")

    overlay = f"<disk name='vda'><source file='{ward.folder}/over'/></disk>"
    snapshot = f"<domainsnapshot><disks>{overlay}</disks></domainsnapshot>"
    with ward.defined("agent", with_channel) as handle:
        machine = Machine(handle, embedded_libvirt.root, ward.folder)
        machine.start()
        machine.resume()
        try:
            assert ward.found("agent") == {"guest-agent agent": "warn", "last-point agent": "warn"}
            puller.backup(ward.repository, "agent", connect=ward.uri)
            handle.snapshotCreateXML(snapshot, libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY)
            assert ward.found("agent") == {
                "guest-agent agent": "warn",
                "snapshots agent": "warn",
                "disk-base agent/vda": "warn",
            }
            handle.listAllSnapshots()[0].delete(libvirt.VIR_DOMAIN_SNAPSHOT_DELETE_METADATA_ONLY)
        finally:
            machine.kill()


def test_a_block_job(ward: Ward) -> None:
    handle = ward.machine.handle
    target = f"<disk type='file'><source file='{ward.folder}/copy'/><driver type='qcow2'/></disk>"
    handle.blockCopy("vda", target, {}, libvirt.VIR_DOMAIN_BLOCK_COPY_TRANSIENT_JOB)
    try:
        assert ward.found() == {"disk-job ward/vda": "fail"}
    finally:
        handle.blockJobAbort("vda")


def test_checkpoints_of_another_tool_and_of_a_run_that_did_not_commit(ward: Ward) -> None:
    orphan = checkpoint_name(ward.repository.id, "20261122T050000Z-00000009")
    for name in ("other-tool", orphan):
        made = ward.machine.handle.checkpointCreateXML(
            f"<domaincheckpoint><name>{name}</name></domaincheckpoint>", 0
        )
        assert ward.found() == {"checkpoints ward": "warn"}
        made.delete()


def test_a_lost_bitmap(ward: Ward) -> None:
    ward.machine.lose_bitmap("vda", str(ward.point.checkpoint))
    assert ward.found() == {"disk-base ward/vda": "warn"}
    ward.point = puller.backup(ward.repository, "ward", connect=ward.uri)


def test_a_lost_checkpoint(ward: Ward) -> None:
    xml = ward.machine.handle.checkpointLookupByName(ward.point.checkpoint).getXMLDesc(0)
    ward.machine.forget_checkpoints()
    assert ward.found() == {"disk-base ward/vda": "warn"}
    ward.machine.handle.checkpointCreateXML(xml, libvirt.VIR_DOMAIN_CHECKPOINT_CREATE_REDEFINE)


def test_an_open_job_of_somebody_else(ward: Ward) -> None:
    with Host.connect(ward.uri) as host:
        domain = host.domain("ward")
        server = UnixListener(domain.runtime_directory() / "theirs").element()
        job = backup_xml({"vda": None}, {"vda": ward.folder / "theirs"}, server)
        ward.machine.handle.backupBegin(job, None, 0)
        try:
            assert ward.found() == {"open-job ward": "fail"}
        finally:
            job_open = openjob.open_job(domain)
            assert job_open is not None
            openjob.end(domain, job_open)


def test_a_job_of_ours_is_a_fault_only_when_its_run_is_dead(ward: Ward) -> None:
    name = checkpoint_name(ward.repository.id, "20261122T050000Z-00000009")
    with Host.connect(ward.uri) as host:
        domain = host.domain("ward")
        job = PullJob(domain, {"vda": None}, name, ward.folder, UnixListener(socket_path(domain, name)))
        with job:
            assert ward.found() == {"checkpoints ward": "warn", "open-job ward": "warn"}
            with DomainLock(domain.uuid, "ward", lock_directory()):
                assert ward.found() == {}
    ward.machine.handle.checkpointLookupByName(name).delete()


def test_a_scratch_file_of_an_earlier_run(ward: Ward) -> None:
    name = checkpoint_name(ward.repository.id, "20261122T050000Z-00000009")
    left = ward.folder / f"{name}-{ward.machine.uuid}-vda.scratch"
    left.touch()
    assert ward.found() == {"scratch-leftovers ward": "warn"}
    left.unlink()


def test_too_little_room_for_the_scratch(ward: Ward) -> None:
    image = ward.image("huge.img")
    subprocess.run(["qemu-img", "resize", "-q", str(image), "1P"], check=True)
    with ward.defined("huge", source(image)):
        assert ward.found("huge") == shut_off("huge", {"scratch-space": "fail"})


def test_no_such_scratch_folder(ward: Ward) -> None:
    assert ward.found(scratch_dir="/nonexistent")["scratch-space ward"] == "fail"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may ask as another user")
def test_a_scratch_folder_that_the_user_of_qemu_cannot_walk_to(ward: Ward) -> None:
    closed = ward.folder / "closed"
    closed.mkdir(mode=0o700, exist_ok=True)

    def as_nobody(root: ET.Element) -> None:
        source(ward.image("nobody.img"))(root)
        label = ET.SubElement(root, "seclabel", type="static", model="dac", relabel="no")
        ET.SubElement(label, "label").text = f"+{NOBODY}:+{NOBODY}"

    with ward.defined("nobody", as_nobody):
        found = ward.found("nobody", scratch_dir=str(closed))
    assert found == shut_off("nobody", {"scratch-access": "fail"})


def commit(ward: Ward, age: timedelta, uuid: str) -> None:
    """A point like the ward's, but of another domain and time."""
    moment = datetime.now(UTC) - age
    ward.repository.points.commit(replace(ward.point, point=new_id(moment), time=moment, uuid=uuid))


def test_what_is_not_known_of_the_policies_that_confine_qemu_is_said() -> None:
    folders = Folders(Path("/usr/share"), ())
    confined = label(folders, Confinement(None, frozenset({"apparmor"})))
    assert confined.status is Status.OK
    assert confined.text == "apparmor confines QEMU; only a backup can show whether QEMU may use /usr/share"
    assert label(folders, Confinement(None, frozenset())).text == "QEMU is not confined"


@pytest.mark.parametrize(("age", "status"), [(47, None), (49, "warn"), (-23, None), (-25, "fail")])
def test_the_age_of_the_last_point(ward: Ward, age: int, status: str | None) -> None:
    with ward.defined("aged", source(ward.image("aged.img"))) as handle:
        commit(ward, timedelta(hours=200), handle.UUIDString())
        commit(ward, timedelta(hours=age), handle.UUIDString())
        assert ward.found("aged").get("last-point aged") == status


def test_a_damaged_record_of_the_last_point(ward: Ward) -> None:
    with ward.defined("hurt", source(ward.image("hurt.img"))) as handle:
        commit(ward, timedelta(hours=1), handle.UUIDString())
        ward.repository.store.put(object_name(handle.UUIDString(), ward.point.point), b"nonsense")
        assert ward.found("hurt") == {"last-point hurt": "fail", "disk-base hurt/vda": "warn"}
