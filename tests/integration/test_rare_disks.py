"""Disks that a backup leaves out or refuses, and domains that have none, on real libvirt and QEMU."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import puller
from puller.cli.output.results.records import description, listing, summary
from puller.errors import NoSuchDisk, UnsupportedDisk, UsageError
from puller.events import Event, Notice
from puller.units import MIB
from puller.upkeep.retention.policy import Policy
from tests.integration.conftest import checkpoints, leftovers, loop_device
from tests.lab.fixtures import MachineFactory
from tests.lab.machine import DiskSpec, Machine

Edit = Callable[[ET.Element], None]


def restarted(machine: Machine, edit: Edit) -> Machine:
    """The machine, running with another definition."""
    machine.stop()
    root = ET.fromstring(machine.handle.XMLDesc(2))
    edit(root)
    machine.define(ET.tostring(root, encoding="unicode"))
    machine.start()
    return machine


def sharing(*paths: Path) -> Edit:
    """Shareable raw disks, from vdb on."""

    def edit(root: ET.Element) -> None:
        for letter, path in zip("bcd", paths, strict=False):
            disk = ET.SubElement(root.find("devices"), "disk", type="file", device="disk")  # type: ignore[arg-type]
            ET.SubElement(disk, "driver", name="qemu", type="raw", cache="none")
            ET.SubElement(disk, "source", file=str(path))
            ET.SubElement(disk, "target", dev=f"vd{letter}", bus="virtio")
            ET.SubElement(disk, "shareable")

    return edit


class Taker:
    """``taker(machine)`` takes a point and keeps what was told."""

    def __init__(self, uri: str, folder: Path) -> None:
        self.repository = puller.create_repository(str(folder / "repository"), password=None)
        self.uri = uri
        self.told: list[str] = []

    def __call__(self, machine: Machine, **options: Any) -> puller.Point:
        def observe(event: Event) -> None:
            if isinstance(event, Notice):
                self.told.append(event.text)

        self.told = []
        return puller.backup(self.repository, machine.name, connect=self.uri, observer=observe, **options)

    def doctor(self, machine: Machine, **options: Any) -> dict[str, tuple[str, str]]:
        checks = puller.doctor(self.repository, connect=self.uri, domains=(machine.name,), **options)
        return {f"{check.name} {check.subject}": (check.status.value, check.text) for check in checks}


@pytest.fixture
def taker(libvirt_uri: str, tmp_path: Path) -> Taker:
    return Taker(libvirt_uri, tmp_path)


def test_a_shareable_disk(machine_factory: MachineFactory, taker: Taker, tmp_path: Path) -> None:
    """Left out; taken when named; refused when another machine of the host has it open."""
    shared = tmp_path / "shared.raw"
    shared.write_bytes(bytes(4 * MIB))
    first = restarted(machine_factory(DiskSpec("vda", MIB)), sharing(shared))
    point = taker(first)
    note = "the point does not hold disk vdb: it is shareable"
    assert [disk.disk for disk in point.disks] == ["vda"]
    assert point.notes == (note,)
    assert note in taker.told
    assert taker.doctor(first)[f"disk-left-out {first.name}/vdb"] == (
        "warn",
        "the disk is shareable: backups leave it out",
    )
    named = taker(first, disks=["vda", "vdb"])
    assert [disk.disk for disk in named.disks] == ["vda", "vdb"]
    assert named.notes == ("disk vdb is shareable: writes by other hosts are not frozen",)

    second = restarted(machine_factory(DiskSpec("vda", MIB)), sharing(shared))
    before = checkpoints(first)
    words = f"cannot back up disk vdb of domain {first.name}: the running domain {second.name} uses it"
    for mode in ("pull", "push"):
        with pytest.raises(UnsupportedDisk, match=words) as caught:
            taker(first, disks=["vda", "vdb"], mode=mode)
        assert "--exclude-disk vdb" in caught.value.advice
    assert checkpoints(first) == before
    assert not leftovers(tmp_path)
    finding = taker.doctor(first, disks=("vda", "vdb"))[f"other-writers {first.name}"]
    assert finding[0] == "fail"
    assert [disk.disk for disk in taker(first).disks] == ["vda"]


def test_a_domain_that_is_shut_off_whose_disk_another_one_has_open(
    machine_factory: MachineFactory, taker: Taker, tmp_path: Path
) -> None:
    """Of a raw image QEMU keeps readers and writers not apart. The other one calls it by another name."""
    shared, link = tmp_path / "shared.raw", tmp_path / "link.raw"
    shared.write_bytes(bytes(4 * MIB))
    link.symlink_to(shared)
    owner = machine_factory(DiskSpec("vda", MIB, "raw"))
    owner.stop()
    owner.image("vda").replace(shared)
    owner.image("vda").symlink_to(shared)
    other = restarted(machine_factory(DiskSpec("vda", MIB)), sharing(link))
    with pytest.raises(UnsupportedDisk, match=f"vda .* the running domain {other.name} uses it"):
        taker(owner)
    other.stop()
    assert taker(owner).consistency == "offline"


def test_a_domain_that_is_shut_off_whose_disk_another_one_has_as_a_device(
    machine_factory: MachineFactory, taker: Taker
) -> None:
    """A loop device over the image: another file to everybody, and the same bytes."""
    owner = machine_factory(DiskSpec("vda", MIB, "raw"))
    owner.stop()
    with loop_device(owner.image("vda")) as device:

        def attach(root: ET.Element) -> None:
            disk = ET.SubElement(root.find("devices"), "disk", type="block", device="disk")  # type: ignore[arg-type]
            ET.SubElement(disk, "driver", name="qemu", type="raw")
            ET.SubElement(disk, "source", dev=device)
            ET.SubElement(disk, "target", dev="vdb", bus="virtio")

        other = restarted(machine_factory(DiskSpec("vda", MIB)), attach)
        with pytest.raises(UnsupportedDisk, match=f"vda .* the running domain {other.name} uses it"):
            taker(owner)
        other.stop()


def without_disks(root: ET.Element) -> None:
    devices = root.find("devices")
    assert devices is not None
    for disk in devices.findall("disk"):
        devices.remove(disk)


@pytest.mark.parametrize("state", ["running", "shut off"])
def test_a_domain_without_disks(
    machine_factory: MachineFactory, taker: Taker, tmp_path: Path, state: str
) -> None:
    """A point with its configuration, which all commands take as any other."""
    machine = machine_factory(DiskSpec("vda", MIB))
    disk = taker(machine)
    restarted(machine, without_disks)
    if state == "shut off":
        machine.stop()
    point = taker(machine)
    assert (point.kind, point.disks, point.consistency) == ("configuration", (), "none")
    assert (point.checkpoint, point.parent, point.freeze_seconds) == (None, None, None)
    assert taker.told == ["no disk to back up: the point holds only the configuration"]
    names = {item.name for item in point.attachments}
    assert names == ({"domain.xml", "live.xml"} if state == "running" else {"domain.xml"})
    assert machine.handle.isActive() == (state == "running")

    assert "(configuration, no disks)" in summary(point)
    assert point.point in listing([disk, point], point.time)
    assert "configuration" in description(point, point.time)
    output = tmp_path / "restored"
    told: list[Event] = []
    assert puller.restore(taker.repository, point.point, output=str(output), observer=told.append).disks == ()
    texts = [event.text for event in told if isinstance(event, Notice)]
    assert [text for text in texts if text.startswith("to define the domain, run 'chmod")] == texts[-1:]
    assert {path.name for path in output.iterdir()} == names | {"restored.xml"}
    with pytest.raises(UsageError, match="has none"):
        puller.restore(taker.repository, point.point, output="nbd://localhost/x")
    with pytest.raises(NoSuchDisk, match="has no disk vda; it has none"):
        puller.restore(taker.repository, point.point, output=str(output), disks=["vda"])

    report = puller.prune(taker.repository, Policy(last=1), grace=timedelta(0))
    assert report.removed == ()  # the older one is the newest that has vda
    assert puller.check(taker.repository, read_data=100).errors == ()
    assert taker.doctor(machine)[f"disks {machine.name}"] == (
        "ok",
        "no disk to back up: a point holds only the configuration",
    )


def test_what_a_point_does_not_hold_is_noted(
    machine_factory: MachineFactory, taker: Taker, tmp_path: Path
) -> None:
    base = tmp_path / "base.raw"
    base.write_bytes(bytes(MIB))

    def edit(root: ET.Element) -> None:
        devices = root.find("devices")
        assert devices is not None
        disk = ET.SubElement(devices, "disk", type="file", device="disk")
        ET.SubElement(disk, "driver", name="qemu", type="raw")
        ET.SubElement(disk, "source", file=str(base))
        ET.SubElement(disk, "target", dev="vdb", bus="virtio")
        ET.SubElement(disk, "readonly")
        shared = ET.SubElement(devices, "filesystem", type="mount", accessmode="passthrough")
        ET.SubElement(shared, "source", dir=str(tmp_path))
        ET.SubElement(shared, "target", dir="host")

    machine = machine_factory(DiskSpec("vda", MIB))
    machine.stop()
    root = ET.fromstring(machine.handle.XMLDesc(2))
    edit(root)
    machine.define(ET.tostring(root, encoding="unicode"))
    machine.handle.createWithFlags(1)
    point = taker(machine)
    note = f"the point does not hold shared directory {tmp_path}, disk vdb (read-only, {base})"
    assert [text for text in taker.told if "does not hold" in text] == list(point.notes) == [note]


def test_a_disk_that_a_domain_need_not_have_is_excluded(
    machine_factory: MachineFactory, taker: Taker
) -> None:
    machine = machine_factory(DiskSpec("vda", MIB), DiskSpec("vdb", MIB))
    with pytest.raises(NoSuchDisk, match="has no disk vdz"):
        taker(machine, exclude=["vdb", "vdz"])
    point = taker(machine, exclude_if_present=["vdb", "vdz"])
    assert [disk.disk for disk in point.disks] == ["vda"]
    checks = taker.doctor(machine, exclude=("vdb", "vdz"))
    assert checks[f"exclude-disks {taker.uri}"] == (
        "warn",
        "'exclude-disks' names vdz, which none of the examined domains has",
    )
    assert checks[f"disks {machine.name}"] == ("ok", "taken: vda")
