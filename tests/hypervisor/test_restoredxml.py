"""``domain.xml`` with restored files in it."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from puller.errors import UsageError
from puller.hypervisor.domain.definition.memory import with_memory
from puller.hypervisor.domain.definition.reconnect import waits_by_itself
from puller.hypervisor.domain.definition.restoredxml import (
    Copy,
    DiskSource,
    NbdExport,
    Networks,
    adapt,
    free_name,
    networks_of,
)
from puller.hypervisor.domain.disks.disk import parse_disks

XML = """<domain type='kvm' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>web1</name><uuid>5d1a3bc7-64f0-4a15-9c29-20c5c1a3e2ab</uuid>
  <sysinfo type='smbios'><system><entry name='uuid'>5d1a3bc7-64f0-4a15-9c29-20c5c1a3e2ab</entry>
    <entry name='serial'>7</entry></system></sysinfo>
  <os><nvram template='/usr/share/OVMF_VARS.fd'>/var/lib/libvirt/qemu/nvram/web1_VARS.fd</nvram></os>
  <devices>
    <disk type='block' device='lun' sgio='unfiltered'>
      <driver name='qemu' type='raw' cache='none'><metadata_cache><max_size>1</max_size></metadata_cache>
      </driver><source dev='/dev/sdb'><encryption format='luks'/>
      <slices><slice type='storage' offset='0' size='1'/></slices>
      </source><backingStore type='file'><source file='/base'/></backingStore>
      <target dev='vda' bus='virtio'/><boot order='1'/><serial>abc</serial>
    </disk>
    <disk type='network'><source protocol='rbd' name='p/i'/><auth username='a'/><target dev='vdb'/></disk>
    <disk type='file'><source file='/x'/><target dev='vdc'/></disk>
    <disk type='file' device='cdrom'><source file='/cd.iso'/><target dev='sda'/><readonly/></disk>
    <interface type='network'><mac address='52:54:00:11:22:33'/><source network='default'/></interface>
  </devices>
  <qemu:commandline><qemu:arg value='-S'/></qemu:commandline>
</domain>"""
FILES = {target: DiskSource(Path(f"/r/{target}.qcow2"), "qcow2") for target in ("vda", "vdb", "vde")}


def test_the_original_is_lost() -> None:
    domain = adapt(XML, FILES, Path("/r/nvram.fd"), None)
    assert (domain.name, domain.left_out, domain.added) == ("web1", ("vdc",), ("vde",))
    disks = {disk.target: disk for disk in parse_disks(domain.xml)}
    assert {target: (disk.type, disk.source, disk.format, disk.device) for target, disk in disks.items()} == {
        "vda": ("file", "/r/vda.qcow2", "qcow2", "disk"),
        "vdb": ("file", "/r/vdb.qcow2", "qcow2", "disk"),
        "sda": ("file", "/cd.iso", "raw", "cdrom"),
    }
    root = ET.fromstring(domain.xml)
    for gone in ("encryption", "auth", "slices", "metadata_cache"):
        assert root.find(f".//{gone}") is None
    assert [element.get("type") for element in root.findall(".//backingStore")] == []
    (first, *_) = root.findall("./devices/disk")
    assert "sgio" not in first.attrib
    assert first.findtext("serial") == "abc"
    assert (root.findtext("uuid") or "").startswith("5d1a3bc7")
    assert root.find("./devices/interface/mac") is not None
    assert root.findtext("./os/nvram") == "/r/nvram.fd"
    assert "<qemu:arg" in domain.xml


def test_a_copy_beside_the_original_shares_nothing_that_must_be_its_own() -> None:
    domain = adapt(XML, FILES, None, Copy(free_name("web1", ["web1", "web1-restored"])))
    root = ET.fromstring(domain.xml)
    assert (domain.name, root.findtext("name")) == ("web1-restored-2", "web1-restored-2")
    assert "5d1a3bc7" not in domain.xml
    assert root.find(".//mac") is None
    assert root.findtext("./sysinfo/system/entry[@name='serial']") == "7"
    nvram = root.find("./os/nvram")
    assert nvram is not None
    assert (nvram.text, nvram.get("template")) == (None, "/usr/share/OVMF_VARS.fd")


def test_a_copy_leaves_out_what_was_given_to_qemu_past_libvirt() -> None:
    """It may be a disk of the original, or a network whose cable would not be out."""
    domain = adapt(XML, FILES, None, Copy("web2"), networks=Networks(disconnect=True))
    assert "qemu:arg" not in domain.xml
    assert domain.left_out == ("vdc", "qemu:commandline")


def test_a_copy_starts_without_a_medium_that_is_not_on_its_host() -> None:
    xml = adapt(XML, FILES, None, Copy("web2")).xml
    assert ET.fromstring(xml).find(".//source[@file='/cd.iso'][@startupPolicy='optional']") is not None
    assert "startupPolicy" not in adapt(XML, FILES, None, None).xml


@pytest.mark.parametrize("mark", ["shareable", "transient"])
def test_what_is_written_to_an_overlay_is_kept(mark: str) -> None:
    """libvirt refuses to share a qcow2, and would throw away what is written to a transient disk."""
    xml = XML.replace("<target dev='vdb'/>", f"<target dev='vdb'/><{mark}/>")
    overlay = DiskSource(Path("/r/vdb.qcow2"), "qcow2", NbdExport(Path("/r/nbd.sock"), "vdb"))
    assert f"<{mark}" not in adapt(xml, {"vdb": overlay}, None, Copy("web2")).xml
    assert f"<{mark}" in adapt(xml, FILES, None, Copy("web2")).xml


BESIDE = """<domain type='kvm'><name>web1</name>
  <os><varstore template='/usr/share/varstore.json' path='/var/lib/libvirt/qemu/varstore/web1.json'/></os>
  <devices>
    <tpm model='tpm-crb'><backend type='emulator'><source type='dir' path='/old-tpm'/></backend></tpm>
    <memory model='nvdimm'><source><path>/nvdimm</path></source><target><size>1</size></target></memory>
    <memory model='dimm'><target><size>1</size></target></memory>
  </devices></domain>"""


def test_variables_of_uefi_vars_are_the_restored_ones() -> None:
    domain = adapt(BESIDE, {}, None, None, varstore=Path("/r/varstore.json"))
    root = ET.fromstring(domain.xml)
    assert root.findall("./os/varstore[@path='/r/varstore.json']")
    assert root.findall(".//tpm//source[@path='/old-tpm']")
    assert domain.left_out == ()


def test_a_copy_beside_the_original_writes_to_no_file_of_it_that_is_no_disk() -> None:
    domain = adapt(BESIDE, {}, None, Copy("web1-restored"))
    root = ET.fromstring(domain.xml)
    for path in ("/var/lib/libvirt/qemu/varstore/web1.json", "/old-tpm", "/nvdimm"):
        assert path not in domain.xml
    assert root.find("./os/varstore[@template='/usr/share/varstore.json']") is not None
    assert len(root.findall("./devices/memory")) == 1
    assert domain.left_out == ("nvdimm /nvdimm",)


def test_a_copy_has_the_uuid_that_it_is_given() -> None:
    root = ET.fromstring(adapt(XML, FILES, None, Copy("web2", "11111111-2222-3333-4444-555555555555")).xml)
    assert [element.text for element in root.findall("./uuid")] == ["11111111-2222-3333-4444-555555555555"]


def test_interfaces_are_kept_disconnected_or_connected_elsewhere() -> None:
    def interface(networks: Networks) -> ET.Element:
        found = ET.fromstring(adapt(XML, FILES, None, None, networks=networks).xml).find(".//interface")
        assert found is not None
        return found

    assert ET.tostring(interface(Networks())) == ET.tostring(interface(Networks(mapped={"other": "x"})))
    assert interface(Networks()).find("link") is None
    assert interface(Networks(disconnect=True)).find("./link[@state='down']") is not None
    for networks in (Networks(all="lab"), Networks(mapped={"default": "lab"})):
        assert interface(networks).find("./source[@network='lab']") is not None


def test_an_interface_needs_no_network_that_its_host_lacks() -> None:
    networks = Networks(disconnect=True, absent=frozenset({"ovs0"}))
    root = ET.fromstring(adapt(ALONE, {}, None, Copy("web2"), networks=networks).xml)
    kinds = [(each.get("type"), each.find("link[@state='down']")) for each in root.iterfind(".//interface")]
    assert [(kind, link is not None) for kind, link in kinds] == [("user", True), ("user", True)]
    assert root.find(".//interface/source") is root.find(".//virtualport") is None


SHARED = """<domain type='kvm'><name>web1</name><genid>43dc0cf8-809b-4adb-9bea-a9abb5f3d90e</genid><devices>
    <serial type='file'><source path='/log/web1' append='on'/><target port='0'/></serial>
    <serial type='pty'><log file='/log/web1-pty'/><target port='1'/></serial>
    <channel type='unix'><source mode='bind' path='/run/agent'/>
      <target type='virtio' name='org.qemu.guest_agent.0'/></channel>
    <channel type='tcp'><source mode='bind' host='::' service='4555'/><protocol type='raw'/>
      <target type='virtio' name='of.somebody'/></channel>
    <channel type='spicevmc'><target type='virtio' name='com.redhat.spice.0'/></channel>
    <graphics type='vnc' port='5901' autoport='no' listen='::'/><graphics type='spice' autoport='yes'/>
    <vsock model='virtio'><cid auto='no' address='7'/></vsock>
    <hostdev mode='subsystem' type='pci'><source/></hostdev>
    <shmem name='ring'/>
    <filesystem type='mount'><source dir='/srv/data'/><target dir='data'/></filesystem>
    <filesystem type='mount'><source dir='/srv/read'/><target dir='read'/><readonly/></filesystem>
  </devices></domain>"""


def test_a_copy_shares_no_port_socket_log_device_or_directory_with_its_original() -> None:
    domain = adapt(SHARED, {}, None, Copy("web2"))
    for taken in ("/log/", "/run/agent", "4555", "5901", "address='7'", 'address="7"', "/srv/data", "ring"):
        assert taken not in domain.xml
    assert domain.left_out == ("host device (pci)", "shared memory ring", "directory /srv/data")
    root = ET.fromstring(domain.xml)
    kinds = [device.get("type") for kind in ("serial", "channel") for device in root.findall(f".//{kind}")]
    assert kinds == ["pty", "pty", "unix", "pty", "spicevmc"]
    assert [each.get("autoport") for each in root.findall(".//graphics")] == ["yes", "yes"]
    assert root.find(".//filesystem/source[@dir='/srv/read']") is not None


ALONE = """<domain type='kvm'><name>web1</name><devices>
    <disk type='file' device='floppy'><source file='/a.img'/><target dev='fda'/></disk>
    <disk type='file' device='floppy'><source file='/b.img'/><target dev='fdb'/><readonly/></disk>
    <lease><lockspace>x</lockspace><key>k1</key><target path='/leases'/></lease>
    <interface type='hostdev' managed='yes'><source><address type='pci'/></source></interface>
    <interface type='bridge'><source bridge='ovs0'/><target dev='tap-web1'/><virtualport type='openvswitch'>
      <parameters interfaceid='09b11c53-8b5c-4eeb-8f00-d84eaa0aaa4f' profileid='p'/></virtualport></interface>
    <interface type='user'><portForward proto='tcp'><range start='2222' to='22'/></portForward></interface>
    <input type='evdev'><source dev='/dev/input/event1'/></input><input type='tablet' bus='usb'/>
    <tpm model='tpm-crb'><backend type='passthrough'><device path='/dev/tpm0'/></backend></tpm>
    <graphics type='vnc' port='-1' autoport='yes' websocket='5700'><listen type='socket' socket='/run/vnc'/>
    </graphics></devices></domain>"""


def test_a_copy_leaves_to_its_original_what_only_one_domain_may_use() -> None:
    domain = adapt(ALONE, {}, None, Copy("web2"))
    for taken in ("/a.img", "/leases", "hostdev", "tap-web1", "09b11c53", "2222", "event1", "tpm0", "5700"):
        assert taken not in domain.xml
    assert "/run/vnc" not in domain.xml
    assert domain.left_out == (
        "floppy disk /a.img",
        "lease k1",
        "network interface of the host (hostdev)",
        "input device of the host (evdev)",
        "TPM (passthrough)",
    )
    for kept in ("/b.img", "profileid", "ovs0", "tablet", 'type="user"'):
        assert kept in domain.xml


def test_an_interface_of_the_host_is_connected_where_it_is_told_to() -> None:
    domain = adapt(ALONE, {}, None, Copy("web2"), networks=Networks(all="lab"))
    assert domain.xml.count('<source network="lab"') == 3
    assert "virtualport" not in domain.xml
    itself = adapt(ALONE, {}, None, None, networks=Networks(all="lab"))
    assert "portForward" not in itself.xml
    assert not any("interface" in what for what in domain.left_out)


def test_the_domain_itself_keeps_what_it_has_but_its_generation_id() -> None:
    itself = adapt(SHARED, {}, None, None)
    assert itself.left_out == ()
    for kept in ("/log/web1", "/run/agent", "4555", "5901", "/srv/data"):
        assert kept in itself.xml
    assert ET.fromstring(itself.xml).find("./genid") is not None
    assert "43dc0cf8" not in itself.xml


def test_networks_and_bridges_are_known_by_name() -> None:
    bridged = XML.replace(
        "</devices>", "<interface type='bridge'><source bridge='br0'/></interface></devices>"
    )
    assert networks_of(bridged) == {"default", "br0"}


def test_a_disk_on_an_export_names_it_behind_its_image() -> None:
    source = DiskSource(Path("/r/vda.qcow2"), "qcow2", NbdExport(Path("/run/nbd.sock"), "vda"))
    root = ET.fromstring(adapt(XML, {"vda": source}, None, Copy("web1-boot")).xml)
    disk = root.find("./devices/disk")
    assert disk is not None
    (store,) = disk.findall("./backingStore")
    export, host = store.find("./source"), store.find("./source/host")
    assert export is not None
    assert host is not None
    assert export.attrib == {"protocol": "nbd", "name": "vda"}
    assert host.attrib == {"transport": "unix", "socket": "/run/nbd.sock"}
    assert [(store.get("type"), store.find("./format").attrib)] == [("network", {"type": "raw"})]  # type: ignore[union-attr]
    assert store.find("./backingStore") is not None
    assert waits_by_itself(ET.tostring(root, encoding="unicode"))


def test_libvirt_before_9_1_forgets_that_qemu_is_to_wait() -> None:
    source = DiskSource(Path("/r/vda.qcow2"), "qcow2", NbdExport(Path("/run/nbd.sock"), "vda"))
    root = ET.fromstring(adapt(XML, {"vda": source}, None, Copy("web1-boot")).xml)
    export = root.find(".//backingStore/source")
    assert export is not None
    export.remove(export.find("reconnect"))  # type: ignore[arg-type]
    assert not waits_by_itself(ET.tostring(root, encoding="unicode"))


def test_memory_is_set_in_kibibytes() -> None:
    xml = "<domain><name>a</name><memory unit='KiB'>1048576</memory><currentMemory>5</currentMemory></domain>"
    root = ET.fromstring(with_memory(xml, 512 << 20))
    assert [(one.text, one.get("unit")) for one in root if one.tag != "name"] == [(str(512 << 10), "KiB")] * 2


def test_memory_that_is_divided_is_not_set() -> None:
    xml = "<domain><name>a</name><memory>1</memory><cpu><numa><cell id='0'/></numa></cpu></domain>"
    with pytest.raises(UsageError, match="it has NUMA cells or memory modules"):
        with_memory(xml, 512 << 20)
