"""Doctor on real libvirt: each planted fault is found, with advice, and nothing else is."""

from __future__ import annotations

import os
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import libvirt
import pytest
from msgspec.structs import replace

import puller
from puller.diagnosis import domain as domains
from puller.diagnosis.doctor import Examination, doctor
from puller.diagnosis.domain import ExaminedDomain
from puller.diagnosis.finding import Finding, Status
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
from tests.lab.machine import DiskSpec, EmbeddedLibvirt, Machine

NOBODY = 65534
QEMU_NAMESPACE = "{http://libvirt.org/schemas/domain/qemu/1.0}"

Found = dict[str, str]
"""By ``name subject``: the status of what is not ok."""


class Ward:
    """A machine with one point in a repository, and a doctor who looks at whatever a test names."""

    def __init__(self, machine: Machine, repository: puller.Repository, folder: Path, uri: str) -> None:
        self.machine = machine
        self.repository = repository
        self.folder = folder
        self.uri = uri
        self.point = puller.backup(repository, machine.name, connect=uri)

    def checks(self, *domains: str, **choices: Any) -> list[Finding]:
        examination = Examination(self.uri, domains or (self.machine.name,), **choices)
        return list(doctor(self.repository.store, lambda: self.repository, examination))

    def found(self, *domains: str, **choices: Any) -> Found:
        """What is not ok; each such finding has one sentence of advice."""
        faults = [check for check in self.checks(*domains, **choices) if check.status is not Status.OK]
        assert all(check.advice.endswith(".") and check.text for check in faults)
        return {f"{check.name} {check.subject}": check.status.value for check in faults}

    @contextmanager
    def defined(self, name: str, edit: Callable[[ET.Element], None]) -> Iterator[Any]:
        """A domain like the machine, but for what ``edit`` changes; it is not started."""
        root = ET.fromstring(self.machine.handle.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))
        root.remove(_the(root, "uuid"))
        _the(root, "name").text = name
        edit(root)
        handle = self.machine.handle.connect().defineXML(ET.tostring(root, encoding="unicode"))
        try:
            yield handle
        finally:
            handle.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA)

    def image(self, name: str, *options: str) -> Path:
        path = self.folder / name
        if not path.exists():
            subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *options, str(path), "8M"], check=True)
        return path


@pytest.fixture(scope="module")
def ward(embedded_libvirt: EmbeddedLibvirt, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ward]:
    folder = tmp_path_factory.mktemp("ward")
    repository = puller.create_repository(str(folder / "repository"))
    with embedded_libvirt.machine("ward", folder, [DiskSpec("vda", 8 * MIB)]) as machine:
        yield Ward(machine, repository, folder, embedded_libvirt.uri)


@pytest.fixture(autouse=True)
def nothing_else_is_wrong(ward: Ward) -> Iterator[None]:
    """Each test takes away what it has planted."""
    yield
    assert ward.found() == {}


def _the(root: ET.Element, path: str) -> ET.Element:
    element = root.find(path)
    assert element is not None
    return element


def source(path: Path | str) -> Callable[[ET.Element], None]:
    return lambda root: _the(root, "./devices/disk/source").set("file", str(path))


def shut_off(name: str, more: Found) -> Found:
    """Domains that are only defined have no point, which is a fault since the test names them."""
    return {f"last-point {name}": "warn"} | {
        f"{check} {name}{'/vda' if check.startswith('disk') else ''}": status
        for check, status in more.items()
    }


def test_a_sound_host_has_no_fault(ward: Ward) -> None:
    checks = ward.checks()
    assert {check.status for check in checks} == {Status.OK}
    assert {check.name for check in checks} >= {
        "libvirt",
        "qemu",
        "libnbd",
        "open-job",
        "disk-base",
        "socket",
    }
    assert not list(ward.repository.store.list("locks/"))


def test_it_changes_nothing(ward: Ward) -> None:
    def state() -> object:
        files = {path: path.stat().st_mtime_ns for path in ward.folder.rglob("*") if path.is_file()}
        return files, ward.machine.handle.XMLDesc(0), ward.machine.bitmaps("vda")

    before = state()
    ward.checks()
    assert state() == before


def test_domains_that_nobody_named_may_be_shut_off(ward: Ward) -> None:
    with ward.defined("idle", source(ward.image("idle.img"))):
        examination = Examination(ward.uri)
        checks = list(doctor(ward.repository.store, lambda: ward.repository, examination))
    assert {check.status for check in checks if check.subject.startswith("idle")} == {Status.OK}


def test_a_domain_that_is_undefined_after_the_listing_is_no_fault(
    ward: Ward, monkeypatch: pytest.MonkeyPatch
) -> None:
    uuids, questions = Host.uuids, domains.examine
    with (
        ward.defined("before", lambda root: None) as before,
        ward.defined("amidst", lambda root: None) as amidst,
    ):
        xml = {handle.name(): handle.XMLDesc() for handle in (before, amidst)}

        def listed(host: Host) -> dict[str, str]:
            known = uuids(host)
            before.undefine()
            return known

        def vanishing(examined: ExaminedDomain) -> Iterator[Finding]:
            if examined.domain.name == "amidst":
                amidst.undefine()
            yield from questions(examined)

        monkeypatch.setattr(Host, "uuids", listed)
        monkeypatch.setattr(domains, "examine", vanishing)
        checks = [check for check in ward.checks("*") if check.subject.partition("/")[0] in xml]
        assert [(check.subject, check.status, check.text) for check in checks] == [
            ("amidst", Status.OK, "undefined meanwhile"),
            ("before", Status.OK, "undefined meanwhile"),
        ]
        for text in xml.values():
            ward.machine.handle.connect().defineXML(text)


def test_what_is_the_same_for_all_domains_is_asked_once(ward: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    """libvirt may start a QEMU for each such question: 40 domains took a minute."""
    asked: list[str] = []
    for name in ("getCapabilities", "getDomainCapabilities"):
        ask = getattr(libvirt.virConnect, name)

        def counted(*arguments: Any, name: str = name, ask: Any = ask) -> Any:
            asked.append(name)
            return ask(*arguments)

        monkeypatch.setattr(libvirt.virConnect, name, counted)
    with ExitStack() as defined:
        for number in range(12):
            defined.enter_context(ward.defined(f"web{number}", lambda root: None))
        ward.checks("*")
    assert sorted(asked) == ["getCapabilities", "getDomainCapabilities"]


def test_no_such_domain(ward: Ward) -> None:
    assert ward.found("nonsense") == {"domain nonsense": "fail"}


def test_libvirt_cannot_be_reached(ward: Ward) -> None:
    uri = "qemu+unix:///system?socket=/nonexistent"
    checks = doctor(ward.repository.store, lambda: ward.repository, Examination(uri))
    assert [check.name for check in checks if check.status is Status.FAIL] == ["connection"]


def test_a_domain_that_is_shut_off_and_has_no_point(ward: Ward) -> None:
    with ward.defined("off", source(ward.image("off.img"))):
        assert ward.found("off") == shut_off("off", {})


def test_a_transient_domain(ward: Ward) -> None:
    xml = ward.machine.handle.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    ward.machine.handle.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA)
    try:
        assert "persistence ward" in ward.found()
    finally:
        ward.machine.handle.connect().defineXML(xml)


@pytest.mark.parametrize("name", ["libvirt", "qemu"])
def test_a_version_that_is_too_old(ward: Ward, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(f"puller.diagnosis.host.LEAST_{name.upper()}", (99, 0, 0))
    assert ward.found() == {f"{name} {ward.uri}": "fail"}


def test_an_emulator_that_libvirt_cannot_back_up(ward: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    """No QEMU so old is at hand: libvirt's answer is altered on its way. A domain's XML may overrule it."""

    class Unable:
        def getDomainCapabilities(self, *_: object) -> str:  # noqa: N802 - libvirt's name
            return "<domainCapabilities><features><backup supported='no'/></features></domainCapabilities>"

    def switched_on(root: ET.Element) -> None:
        source(ward.image("forced.img"))(root)
        capabilities = ET.SubElement(root, f"{QEMU_NAMESPACE}capabilities")
        ET.SubElement(capabilities, f"{QEMU_NAMESPACE}add", capability="incremental-backup")

    with Host.connect(ward.uri) as host, ward.defined("forced", switched_on):
        ordinary, forced = host.domain("ward"), host.domain("forced")
        assert host.supports_backup(ordinary)
        unable = Host(Unable(), ward.uri)
        assert not unable.supports_backup(ordinary)
        assert unable.supports_backup(forced)
    monkeypatch.setattr(Host, "supports_backup", lambda host, domain: False)
    assert ward.found() == {"backup-support ward": "fail"}


def test_a_folder_whose_path_is_too_long_for_a_socket(ward: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    with Host.connect(ward.uri) as host:
        domain = host.domain("ward")
        length = len(str(socket_path(domain, ward.point.checkpoint or "")))
    monkeypatch.setattr("puller.diagnosis.scratch.SOCKET_PATH", length)
    assert ward.found() == {}
    monkeypatch.setattr("puller.diagnosis.scratch.SOCKET_PATH", length - 1)
    assert ward.found() == {"socket ward": "fail"}


@pytest.mark.parametrize(
    ("edit", "more"),
    [
        # The machine runs on the image, of which no lock would tell a reader of raw.
        (
            lambda disk: disk.find("driver").set("type", "raw"),
            {"disk-format": "warn", "other-writers": "fail"},
        ),
        (lambda disk: disk.append(ET.Element("transient")), {"disk-left-out": "warn"}),
    ],
    ids=["raw", "transient"],
)
def test_a_disk_that_can_have_no_checkpoint_or_no_backup(
    ward: Ward, edit: Callable[[ET.Element], None], more: Found
) -> None:
    with ward.defined("odd", lambda root: edit(_the(root, "./devices/disk"))):
        assert ward.found("odd") == shut_off("odd", more)


def test_a_network_disk(ward: Ward) -> None:
    def far(root: ET.Element) -> None:
        disk = _the(root, "./devices/disk")
        disk.set("type", "network")
        _the(disk, "driver").set("type", "raw")
        disk.remove(_the(disk, "source"))
        place = ET.SubElement(disk, "source", protocol="nbd", name="far")
        ET.SubElement(place, "host", name="127.0.0.1", port="9")

    def encrypted(root: ET.Element) -> None:
        far(root)
        _the(root, "./devices/disk/source").set("tls", "yes")

    with ward.defined("far", far):
        assert ward.found("far") == shut_off("far", {"disk-format": "warn"})
    with ward.defined("far", encrypted):
        assert ward.found("far") == shut_off("far", {"disk-format": "fail"})


def test_doctor_and_backup_agree_on_a_domain_that_is_shut_off(ward: Ward) -> None:
    with ward.defined("agreed", source(ward.image("agreed.img"))):
        assert puller.backup(ward.repository, "agreed", connect=ward.uri).consistency == "offline"
        assert ward.found("agreed") == {}


def test_an_image_of_the_old_version(ward: Ward) -> None:
    with ward.defined("old", source(ward.image("old.img", "-o", "compat=0.10"))):
        assert ward.found("old") == shut_off("old", {"disk-format": "warn"})


def test_an_image_that_qemu_has_marked_as_corrupt(ward: Ward) -> None:
    image = ward.image("corrupt.img")
    with image.open("r+b") as file:
        file.seek(79)
        file.write(b"\x02")
    with ward.defined("corrupt", source(image)):
        assert ward.found("corrupt") == shut_off("corrupt", {"disk-image": "fail"})


def test_an_image_that_is_not_what_the_domain_says(ward: Ward) -> None:
    image = ward.folder / "other.img"
    image.write_bytes(bytes(MIB))
    with ward.defined("other", source(image)):
        found = ward.found("other")
    assert found["disk-image other/vda"] == "fail"


def test_an_image_whose_storage_hangs_is_looked_into_once(
    ward: Ward, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, calls, tool = ward.image("hung.img"), tmp_path / "calls", tmp_path / "qemu-img"
    tool.write_text(f"#!/bin/sh\necho called >> {calls}\nexec sleep 60\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr("puller.hypervisor.domain.disks.image._INFO_SECONDS", 0.5)
    with ward.defined("hung", source(image)):
        found = ward.found("hung")
    assert found["disk-image hung/vda"] == "fail"
    assert calls.read_text() == "called\n"


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
        channel = ET.SubElement(_the(root, "./devices"), "channel", type="unix")
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
