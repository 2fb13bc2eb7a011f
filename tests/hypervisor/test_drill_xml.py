"""The machine of a drill: it reaches nothing of the host, of other machines and of any network."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path

from puller.hypervisor.domain.definition.drill_xml import (
    DrillMachine,
    Offers,
    emulated,
    for_drill,
    macs_of,
    memory_of,
    offers_of,
)

QEMU = "{http://libvirt.org/schemas/domain/qemu/1.0}"
ORIGINAL = """
<domain type='kvm' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>drill-web1-00000000</name>
  <memory unit='GiB'>8</memory>
  <currentMemory unit='GiB'>8</currentMemory>
  <memoryBacking><hugepages/><locked/></memoryBacking>
  <vcpu>4</vcpu>
  <iothreads>1</iothreads>
  <cputune><vcpupin vcpu='0' cpuset='3'/><shares>4096</shares></cputune>
  <numatune><memory mode='strict' nodeset='1'/></numatune>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <cpu mode='host-passthrough'/>
  <on_poweroff>restart</on_poweroff>
  <on_crash>preserve</on_crash>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2' iothread='1'/>
      <source file='/drills/vda.qcow2'/><target dev='vda' bus='virtio'/><shareable/>
    </disk>
    <disk type='file' device='disk'>
      <source file='/shared.img'/><target dev='vdb' bus='virtio'/><readonly/>
    </disk>
    <disk type='file' device='cdrom'><source file='/iso/setup.iso'/><target dev='sda'/><readonly/></disk>
    <controller type='pci' index='0' model='pcie-root'/>
    <filesystem type='mount'><source dir='/srv'/><target dir='srv'/></filesystem>
    <interface type='bridge'>
      <mac address='52:54:00:00:00:aa'/><source bridge='br0'/><model type='virtio'/>
      <address type='pci' domain='0x0000' bus='0x01' slot='0x00' function='0x0'/>
    </interface>
    <interface type='network'>
      <mac address='52:54:00:00:00:bb'/><source network='default'/><model type='e1000e'/>
      <address type='pci' domain='0x0000' bus='0x00' slot='0x05' function='0x1'/>
    </interface>
    <serial type='tcp'><source mode='bind' host='0.0.0.0' service='2000'/><protocol type='telnet'/></serial>
    <console type='tcp'><target type='serial' port='0'/></console>
    <console type='pty'><target type='virtio' port='1'/></console>
    <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
    <channel type='unix'><source path='/run/other'/><target type='virtio' name='other'/></channel>
    <channel type='spicevmc'><target type='virtio' name='com.redhat.spice.0'/></channel>
    <graphics type='spice' port='5900'/>
    <video><model type='qxl'/></video>
    <hostdev mode='subsystem' type='usb'><source><vendor id='0x1'/></source></hostdev>
    <redirdev bus='usb' type='spicevmc'/>
    <tpm><backend type='passthrough'><device path='/dev/tpm0'/></backend></tpm>
    <vsock><cid auto='yes'/></vsock>
    <shmem name='both'/>
  </devices>
  <qemu:commandline>
    <qemu:arg value='-virtfs'/><qemu:arg value='local,path=/,mount_tag=all'/>
  </qemu:commandline>
</domain>
"""
MACHINE = DrillMachine(Path("/drills"), {"vda"}, ("52:54:00:00:00:cc", "52:54:00:00:00:dd"))


def made(**choices: object) -> ET.Element:
    from dataclasses import replace

    return ET.fromstring(for_drill(ORIGINAL, replace(MACHINE, **choices)))  # type: ignore[arg-type]


def test_nothing_of_the_host_is_left() -> None:
    text = ET.tostring(made(), encoding="unicode")
    for word in (
        *("br0", "default", "/srv", "/shared.img", "setup.iso", "2000", "/run/other", "spice", "hostdev"),
        *("/dev/tpm0", "vsock", "shmem", "virtfs", "hugepages", "locked", "vcpupin", "nodeset", "iothread"),
        *("shareable", "preserve"),
    ):
        assert word not in text, word
    assert made().find("./devices/video/model[@type='qxl']") is not None, "there would be nothing to see"


def test_disks_of_the_point_stay_and_drives_are_empty() -> None:
    (disk, drive) = made().findall("./devices/disk")
    assert disk.find("./source[@file='/drills/vda.qcow2']") is not None
    assert (drive.get("device"), drive.find("./source")) == ("cdrom", None)


def test_interfaces_are_unplugged_and_keep_their_addresses() -> None:
    for interface, mac in zip(made().findall("./devices/interface"), MACHINE.macs, strict=True):
        assert interface.get("type") == "user"
        assert interface.find("./link[@state='down']") is not None
        assert interface.find(f"./mac[@address='{mac}']") is not None
        assert interface.find("./address[@type='pci']") is not None
        assert interface.find("./source") is None


def test_a_forwarded_port_is_all_that_leads_into_the_guest() -> None:
    root = made(port=443)
    words = [arg.get("value", "") for arg in root.findall(f"./{QEMU}commandline/{QEMU}arg")]
    assert words[:2] == ["-netdev", "user,id=drill,restrict=on,hostfwd=tcp:127.0.0.1:0-:443"]
    assert json.loads(words[3]) == {
        "driver": "virtio-net-pci",
        "netdev": "drill",
        "bus": "pci.1",
        "addr": "0x0.0x0",
        "mac": "52:54:00:00:00:cc",
    }
    (other,) = root.findall("./devices/interface")
    assert other.find("./link[@state='down']") is not None
    without = ORIGINAL.replace("<interface", "<!-- <interface").replace("</interface>", "</interface> -->")
    alone = ET.fromstring(for_drill(without, DrillMachine(Path("/drills"), port=22)))
    device = [arg.get("value", "") for arg in alone.iter(f"{QEMU}arg")][3]
    assert json.loads(device) == {"driver": "virtio-net-pci", "netdev": "drill"}


def test_an_interface_on_the_first_bus_keeps_its_place() -> None:
    for model, bus in (("pcie-root", "pcie.0"), ("pci-root", "pci.0")):
        first, second = ORIGINAL.replace("pcie-root", model).split("<interface type='network'>")
        text = first[: first.index("<interface")] + "<interface type='network'>" + second
        words = [
            arg.get("value", "")
            for arg in ET.fromstring(for_drill(text, DrillMachine(Path("/d"), port=1))).iter(f"{QEMU}arg")
        ]
        assert json.loads(words[3]) == {
            **{"driver": "e1000e", "netdev": "drill", "bus": bus, "addr": "0x5.0x1"},
            "mac": "52:54:00:00:00:bb",
        }


def test_consoles_write_to_files() -> None:
    root = made()
    found = [
        (device.tag, device.get("type"), source.get("path"), source.get("append"))
        for device in root.find("./devices") or ()
        if device.tag in ("serial", "console")
        for source in device.findall("./source")
    ]
    assert found == [
        ("serial", "file", "/drills/console0.log", "on"),
        ("console", "file", "/drills/console1.log", "on"),
    ]
    names = {target.get("name") for target in root.findall("./devices/channel/target")}
    assert names == {"org.qemu.guest_agent.0", "other"}
    assert root.find("./devices/channel[@type='null']/target[@name='other']") is not None
    bare = ORIGINAL.replace("serial type", "x type").replace("</serial>", "</x>").replace("console", "y")
    added = ET.fromstring(for_drill(bare, MACHINE)).find("./devices/serial[@type='file']/source")
    assert added is not None, "one that has no serial port gets one, for what its boot loader says"


def test_memory_is_limited() -> None:
    gib = 1 << 20
    assert memory_of(ORIGINAL, None) == 8 * gib
    assert memory_of(ORIGINAL, 2 * gib) == 2 * gib
    assert memory_of(ORIGINAL, 16 * gib) == 8 * gib
    root = made(memory=2 * gib)
    assert [(item.get("unit"), item.text) for item in root.findall("./memory")] == [("KiB", str(2 * gib))]
    assert root.find("./currentMemory") is None
    assert made(memory=16 * gib).findtext("./currentMemory") == "8"
    cells = ORIGINAL.replace(
        "<cpu mode='host-passthrough'/>", "<cpu><numa><cell memory='8388608'/></numa></cpu>"
    )
    assert memory_of(cells, 2 * gib) == 8 * gib, "its cells would no longer add up"


def test_firmware_variables_stay_in_the_directory_of_the_drill() -> None:
    for system in (
        "<os firmware='efi'><type>hvm</type></os>",
        "<os><type>hvm</type><loader type='pflash'>/usr/share/OVMF/OVMF_CODE.fd</loader></os>",
        "<os><type>hvm</type><loader type='pflash'>/c.fd</loader><nvram template='/v.fd'/></os>",
    ):
        root = ET.fromstring(for_drill(f"<domain>{system}<devices/></domain>", MACHINE))
        assert root.findtext("./os/nvram") == "/drills/nvram.fd"
    for system in (
        "<os><type>hvm</type></os>",
        "<os><type>hvm</type><loader type='pflash' stateless='yes'>/c.fd</loader></os>",
    ):
        root = ET.fromstring(for_drill(f"<domain>{system}<devices/></domain>", MACHINE))
        assert root.find("./os/nvram") is None


def test_the_machine_ends_with_its_guest() -> None:
    root = made()
    assert (root.findtext("./on_poweroff"), root.findtext("./on_crash")) == ("destroy", "destroy")


def test_an_emulated_machine_needs_no_processor_of_the_host() -> None:
    root = ET.fromstring(emulated(ORIGINAL))
    assert root.get("type") == "qemu"
    assert [cpu.attrib for cpu in root.findall("./cpu")] == [{"mode": "maximum"}]


def test_what_a_guest_offers() -> None:
    assert offers_of(ORIGINAL) == Offers(agent=True, console=True)
    assert offers_of("<domain><devices/></domain>") == Offers(agent=False, console=False)
    assert macs_of(ORIGINAL) == ("52:54:00:00:00:aa", "52:54:00:00:00:bb")
