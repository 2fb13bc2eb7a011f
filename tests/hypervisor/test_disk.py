from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from puller.backups.omissions import omissions
from puller.cancelling import CancelScope
from puller.errors import HypervisorError, NoSuchDisk, UnsupportedDisk
from puller.host.access import LOCAL
from puller.hypervisor.domain.disks.disk import Disk, ImageFacts, parse_disks, select
from puller.hypervisor.domain.disks.encryption import Encryption
from puller.hypervisor.domain.disks.image import describe, untracked
from puller.hypervisor.domain.domain import Domain
from puller.hypervisor.domain.facts import with_facts
from puller.hypervisor.domain.hostfiles import attached_files, named_files

XML = """
<domain type='kvm'><name>x</name><devices>
  <disk type='file' device='disk'>
    <driver name='qemu' type='qcow2'/><source file='/images/a &amp; b.qcow2' index='1'/>
    <backingStore type='file'><format type='raw'/><source file='/images/base.raw'/></backingStore>
    <target dev='vda' bus='virtio'/>
  </disk>
  <disk type='block' device='lun'>
    <driver name='qemu' type='raw'/><source dev='/dev/vg/b'/><target dev='sdb' bus='scsi'/><shareable/>
  </disk>
  <disk type='network' device='disk'>
    <driver name='qemu' type='raw'/><source protocol='rbd' name='pool/c'><host name='h'/></source>
    <target dev='vdc' bus='virtio'/>
  </disk>
  <disk type='volume' device='disk'>
    <driver name='qemu' type='qcow2'/><source pool='default' volume='d.qcow2'/>
    <target dev='vdd' bus='virtio'/>
  </disk>
  <disk type='nvme' device='disk'>
    <driver name='qemu' type='raw'/><source type='pci' managed='yes' namespace='1'/>
    <target dev='vde' bus='virtio'/>
  </disk>
  <disk type='file' device='disk'>
    <driver name='qemu' type='qcow2'/><source file='/images/f'/><target dev='vdf' bus='virtio'/><transient/>
  </disk>
  <disk type='file' device='disk'>
    <source file='/images/g'/><target dev='vdg' bus='virtio'/><readonly/>
  </disk>
  <disk type='file' device='cdrom'><driver name='qemu'/><target dev='sda' bus='sata'/><readonly/></disk>
  <disk type='file' device='floppy'>
    <driver name='qemu' type='raw'/><source file='/floppy.img'/><target dev='fda' bus='fdc'/>
  </disk>
</devices></domain>"""


def disk(target: str, **changes: object) -> Disk:
    values: dict[str, object] = {
        "target": target,
        "source": f"/{target}",
        "type": "file",
        "format": "qcow2",
        "device": "disk",
        "readonly": False,
        "transient": False,
        "shareable": False,
        "path": Path(f"/{target}"),
    }
    return Disk(**(values | changes))  # type: ignore[arg-type]


CHAIN = """<domain><devices><disk type='file'>
  <driver type='qcow2'/><source file='/top'/><target dev='vda'/>
  <backingStore type='file'>
    <format type='qcow2'/><source file='/vm/../middle'/>
    <backingStore type='network'>
      <format type='raw'/><source protocol='nbd' name='base'/><backingStore/>
    </backingStore>
  </backingStore>
</disk></devices></domain>"""


def test_the_images_behind_a_disk() -> None:
    (disk,) = parse_disks(CHAIN)
    assert disk.backing == ("qcow2 /middle", "raw nbd:base")


def test_all_kinds_of_sources_are_told_apart() -> None:
    disks = {each.target: each for each in parse_disks(XML)}
    assert [(each.target, each.type, each.source, each.path) for each in disks.values()] == [
        ("vda", "file", "/images/a & b.qcow2", Path("/images/a & b.qcow2")),
        ("sdb", "block", "/dev/vg/b", Path("/dev/vg/b")),
        ("vdc", "network", "rbd:pool/c", None),
        ("vdd", "volume", "default/d.qcow2", None),
        ("vde", "nvme", "nvme", None),
        ("vdf", "file", "/images/f", Path("/images/f")),
        ("vdg", "file", "/images/g", Path("/images/g")),
        ("sda", "file", "", None),
        ("fda", "file", "/floppy.img", Path("/floppy.img")),
    ]
    assert disks["vda"].format == "qcow2"
    assert disks["vdg"].format == "raw"
    assert disks["sdb"].shareable
    assert disks["vdf"].transient
    assert disks["sda"].device == "cdrom"


def test_every_disk_that_can_be_frozen_is_a_candidate() -> None:
    disks = parse_disks(XML)
    assert [each.target for each in disks if each.is_candidate] == ["vda", "vdc", "vdd", "vde"]
    assert [each.target for each in disks if each.holds_changes and not each.is_candidate] == ["sdb", "vdf"]


VHOST = """<domain><devices>
  <disk type='vhostuser' device='disk'><source type='unix' path='/vhost.sock'/><target dev='vda'/></disk>
  <disk type='vhostvdpa' device='disk'><source dev='/dev/vhost-vdpa-0'/><target dev='vdb'/></disk>
  <disk type='volume' device='disk'>
    <source pool='san' volume='unit:0:0:1' mode='direct'/><target dev='vdc'/>
  </disk>
</devices></domain>"""


def test_a_disk_that_does_not_pass_through_qemu_is_left_out_and_refused_when_named() -> None:
    disks = parse_disks(VHOST)
    assert [each.target for each in select("x", disks, [], [])] == ["vdc"]
    words = "disk vda of domain x: it is a vhost-user disk, whose data does not pass through QEMU"
    with pytest.raises(UnsupportedDisk, match=words) as caught:
        select("x", disks, ["vda"], [])
    assert caught.value.advice == "Leave it out with --exclude-disk vda."
    with pytest.raises(UnsupportedDisk, match="disk vdb of domain x: it is a vhost-vdpa disk"):
        select("x", disks, ["vdb"], [])


def test_an_sd_card_is_left_out() -> None:
    (card,) = parse_disks(
        "<domain><devices><disk><source file='/card'/><target dev='sda' bus='sd'/></disk></devices></domain>"
    )
    assert (card.is_candidate, card.holds_changes) == (False, True)
    with pytest.raises(UnsupportedDisk, match="it is an SD card, for which libvirt has no backup job"):
        select("web1", [card], ["sda"], [])


def test_a_volume_that_qemu_reaches_itself_is_a_network_disk() -> None:
    assert [(each.type, each.source) for each in parse_disks(VHOST)][2] == ("network", "san/unit:0:0:1")


def test_candidates_are_taken_unless_told_otherwise() -> None:
    disks = [disk("vda"), disk("sda", device="cdrom"), disk("vdb"), disk("vdc", readonly=True)]
    assert [each.target for each in select("x", disks, [], [])] == ["vda", "vdb"]
    assert [each.target for each in select("x", disks, ["vdb"], [])] == ["vdb"]
    assert [each.target for each in select("x", disks, [], ["vda"])] == ["vdb"]


def test_a_raw_disk_is_taken_without_a_bitmap() -> None:
    disks = [disk("vda"), disk("vdb", format="raw")]
    assert [each.target for each in select("web", disks, [], [])] == ["vda", "vdb"]
    assert [untracked(each) for each in disks] == [None, "a raw image cannot hold a dirty bitmap"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"device": "cdrom"}, "a cdrom"),
        ({"source": "", "path": None}, "empty"),
        ({"readonly": True}, "read-only"),
        ({"transient": True}, "transient"),
        ({"device": "lun"}, "passed through as a lun, to which the guest can write without passing QEMU"),
    ],
)
def test_a_disk_that_is_asked_for_and_cannot_be_taken_is_refused(
    changes: dict[str, object], reason: str
) -> None:
    with pytest.raises(UnsupportedDisk, match=f"disk vdb of domain x: it is {reason}$"):
        select("x", [disk("vda"), disk("vdb", **changes)], ["vda", "vdb"], [])


@pytest.mark.parametrize(("include", "exclude"), [(["vdz"], []), ([], ["vdz"])])
def test_an_unknown_target_is_refused_and_the_known_ones_are_named(
    include: list[str], exclude: list[str]
) -> None:
    with pytest.raises(NoSuchDisk, match="domain x has no disk vdz") as caught:
        select("x", [disk("vda"), disk("vdb")], include, exclude)
    assert "vda, vdb" in caught.value.advice


@pytest.mark.parametrize("disks", [[], [disk("sda", device="cdrom")], [disk("vda", shareable=True)]])
def test_of_a_domain_without_disks_to_take_none_are(disks: list[Disk]) -> None:
    assert select("x", disks, [], []) == ()


def test_excluding_all_disks_is_refused_unless_they_need_not_be_there() -> None:
    with pytest.raises(NoSuchDisk, match="domain x has no disk to back up"):
        select("x", [disk("vda")], [], ["vda"])
    assert select("x", [disk("vda")], [], [], ["vda", "vdz"]) == ()
    assert select("x", [disk("vda"), disk("vdb")], [], [], ["vdb", "vdz"]) == (disk("vda"),)
    with pytest.raises(NoSuchDisk):
        select("x", [disk("vda")], ["vda"], [], ["vda"])


def test_a_shareable_disk_is_taken_when_it_is_named() -> None:
    disks = [disk("vda"), disk("vdb", shareable=True)]
    assert [each.target for each in select("x", disks, [], [])] == ["vda"]
    assert [each.target for each in select("x", disks, ["vdb"], [])] == ["vdb"]


NAMED = """<domain>
  <os><kernel>/k</kernel><initrd>/i</initrd><dtb>/d</dtb><loader type='pflash'>/OVMF.fd</loader></os>
  <sysinfo type='fwcfg'><entry name='opt/a' file='/f'/><entry name='opt/b'>text</entry></sysinfo>
  <devices>
    <memory model='nvdimm'><source><path>/n</path></source></memory>
    <filesystem type='mount'><source dir='/s'/><target dir='x'/></filesystem>
    <hostdev mode='subsystem' type='scsi'><source><adapter name='scsi_host0'/></source></hostdev>
    <hostdev mode='subsystem' type='pci'><source><address domain='0'/></source></hostdev>
  </devices>
</domain>"""


def test_what_a_domain_names_on_its_host_beside_its_disks() -> None:
    assert named_files(NAMED) == (
        "kernel /k",
        "initrd /i",
        "device tree /d",
        "NVDIMM /n",
        "fw_cfg file /f",
        "shared directory /s",
        "SCSI device scsi_host0",
    )
    (note,) = omissions(named_files(NAMED), [disk("vdb", readonly=True)], ["vda"], [])
    assert note.endswith("scsi_host0")


def test_what_a_point_holds_of_the_host_has_a_name_of_its_own() -> None:
    drives = """
    <disk type='file' device='cdrom'><driver type='raw'/><source file='/c'/><target dev='sda'/></disk>
    <disk type='block' device='cdrom'><source dev='/dev/sr0'/><target dev='sdb'/></disk>
    <disk type='file' device='cdrom'><target dev='sdc'/></disk>
    <disk type='file' device='floppy'><source file='/fd'/><target dev='fda'/></disk></devices>"""
    tables = "<acpi><table type='raw'>/t1</table><table type='raw'>/t2</table></acpi></os>"
    xml = NAMED.replace("</devices>", drives).replace("</os>", tables)
    found = [(file.name, str(file.path)) for file in attached_files(xml)]
    assert found == [
        ("kernel", "/k"),
        ("initrd", "/i"),
        ("dtb", "/d"),
        ("acpi-table", "/t1"),
        ("acpi-table-2", "/t2"),
        ("fw_cfg", "/f"),
        ("loader", "/OVMF.fd"),
        ("sda.iso", "/c"),
        ("fda.img", "/fd"),
    ]
    packaged = "<domain><os><loader>/usr/share/OVMF/OVMF_CODE.fd</loader></os></domain>"
    assert attached_files(packaged) == ()


def test_what_the_user_leaves_out_is_not_noted() -> None:
    disks = [disk("vda"), disk("vdb", shareable=True), disk("vdc", type="vhostuser", path=None)]
    empty = [disk("sda", device="cdrom", source="", path=None)]
    assert list(omissions((), [*disks, *empty], [], ["vdc"])) == [
        "the point does not hold disk vdb: it is shareable"
    ]
    assert list(omissions((), disks, ["vda"], [])) == []


targets = st.lists(st.sampled_from(["vda", "vdb", "vdc", "vdd"]), unique=True)


@given(included=targets, excluded=targets)
def test_selection_is_what_was_asked_for_less_what_was_excluded(
    included: list[str], excluded: list[str]
) -> None:
    disks = [disk(target) for target in ("vda", "vdb", "vdc", "vdd")]
    expected = [each for each in disks if each.target in (included or "vda vdb vdc vdd")]
    expected = [each for each in expected if each.target not in excluded]
    if expected:
        assert list(select("x", disks, included, excluded)) == expected
    else:
        with pytest.raises(NoSuchDisk):
            select("x", disks, included, excluded)


def test_an_image_whose_storage_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "qemu-img"
    tool.write_text("#!/bin/sh\nexec sleep 60\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr("puller.hypervisor.domain.disks.image._INFO_SECONDS", 0.1)
    with pytest.raises(HypervisorError, match=r"qemu-img cannot read /hangs: no answer within 0 s"):
        describe(Path("/hangs"), "qcow2")


ONE = """<domain><devices><disk type='file'><source file='/hangs'/><target dev='vda'/></disk></devices>
</domain>"""


def test_a_look_at_a_file_whose_storage_hangs_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even killed does the program end then."""
    tool = tmp_path / "stat"
    tool.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/process\nexec sleep 10\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr("puller.hypervisor.domain.facts._SECONDS", 1.0)
    monkeypatch.setattr(subprocess.Popen, "kill", lambda self: None)
    domain = cast(Domain, SimpleNamespace(start_id=lambda: None, scope=CancelScope(), host=LOCAL))
    (disk,) = with_facts(domain, parse_disks(ONE))
    assert disk.facts == ImageFacts()
    os.kill(int((tmp_path / "process").read_text()), signal.SIGKILL)


def test_how_the_images_of_a_disk_are_encrypted() -> None:
    """Where libvirt has it now, where old definitions have it, and of the images behind."""
    (disk,) = parse_disks(
        """<domain><devices><disk type='file'><driver type='qcow2'/><target dev='vda'/>
        <source file='/a'><encryption format='luks'><secret type='passphrase' uuid='u'/></encryption></source>
        <backingStore type='file'><format type='qcow2'/><source file='/b'/>
        <backingStore type='file'><format type='raw'/><source file='/c'/>
        <encryption format='luks'><secret type='passphrase' usage='it'/></encryption>
        </backingStore></backingStore></disk></devices></domain>"""
    )
    assert disk.encryption == (
        Encryption("luks", "qcow2", "u", ""),
        None,
        Encryption("luks", "raw", "", "it"),
    )
    assert disk.lock == disk.encryption[0]
    assert all(plain.lock is None for plain in parse_disks(XML))
