from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from puller.errors import HypervisorError, NoSuchDisk, UnsupportedDisk
from puller.hypervisor.disk import Disk, parse_disks, select
from puller.hypervisor.encryption import Encryption
from puller.hypervisor.image import describe, untracked

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


def test_every_disk_that_holds_changing_data_is_a_candidate() -> None:
    candidates = [each.target for each in parse_disks(XML) if each.is_candidate]
    assert candidates == ["vda", "sdb", "vdc", "vdd", "vde", "vdf"]


def test_candidates_are_taken_unless_told_otherwise() -> None:
    disks = [disk("vda"), disk("sda", device="cdrom"), disk("vdb"), disk("vdc", readonly=True)]
    assert [each.target for each in select("x", disks, [], [])] == ["vda", "vdb"]
    assert [each.target for each in select("x", disks, ["vdb"], [])] == ["vdb"]
    assert [each.target for each in select("x", disks, [], ["vda"])] == ["vdb"]


def test_a_raw_disk_is_taken_without_a_bitmap() -> None:
    disks = [disk("vda"), disk("vdb", format="raw")]
    assert [each.target for each in select("web", disks, [], [])] == ["vda", "vdb"]
    assert [untracked(each) for each in disks] == [None, "a raw image has no dirty bitmap"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"device": "cdrom"}, "a cdrom"),
        ({"source": "", "path": None}, "empty"),
        ({"readonly": True}, "read-only"),
        ({"transient": True}, "transient"),
    ],
)
def test_a_disk_that_is_asked_for_and_cannot_be_taken_is_refused(
    changes: dict[str, object], reason: str
) -> None:
    with pytest.raises(UnsupportedDisk, match=f"disk vdb of domain x is {reason}: "):
        select("x", [disk("vda"), disk("vdb", **changes)], ["vda", "vdb"], [])


@pytest.mark.parametrize(("include", "exclude"), [(["vdz"], []), ([], ["vdz"])])
def test_an_unknown_target_is_refused_and_the_known_ones_are_named(
    include: list[str], exclude: list[str]
) -> None:
    with pytest.raises(NoSuchDisk, match="domain x has no disk vdz") as caught:
        select("x", [disk("vda"), disk("vdb")], include, exclude)
    assert "vda, vdb" in caught.value.advice


@pytest.mark.parametrize("disks", [[], [disk("sda", device="cdrom")]])
def test_a_domain_with_nothing_to_back_up_is_refused(disks: list[Disk]) -> None:
    with pytest.raises(NoSuchDisk, match="domain x has no disk to back up"):
        select("x", disks, [], [])


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
    monkeypatch.setattr("puller.hypervisor.image._INFO_SECONDS", 0.1)
    with pytest.raises(HypervisorError, match=r"qemu-img cannot read /hangs: no answer in 0 s"):
        describe(Path("/hangs"), "qcow2")


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
