"""The image server in the definition of a booted machine: the next start reads there what an image lacks.

At the end of a pull, libvirt takes the server out of the definition, before anybody knows that the image is
whole. If QEMU is killed then, the next start would show the guest zeros in place of data. libvirt does that
only if the definition names the image by the same path as the running domain. So while puller pulls, the
definition has another spelling of the path::

    running domain   STORAGE/web1-boot/vda.qcow2
    definition       STORAGE/web1-boot//vda.qcow2, and behind it the server

Seen with libvirt 9.0. A libvirt that takes the server out all the same leaves things as they were before.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Collection, Iterator
from os.path import normpath
from pathlib import Path

from puller.hypervisor.connection import Host
from puller.hypervisor.domain.definition.restoredxml import NbdExport, backing_store
from puller.hypervisor.domain.domain import Domain
from puller.hypervisor.job.blockpull import images_behind
from puller.recovery.booting.record import Booted, BootedDisk

_ADVICE = "Run the same command again."


def name_server(booted: Booted, disks: Collection[BootedDisk], domain: Domain, host: Host) -> None:
    """Define the domain with the server behind these disks. Raises HypervisorError."""
    root = ET.fromstring(domain.secure_xml())
    wanted = {disk.disk for disk in disks}
    for target, element in _disks(root):
        if target in wanted:
            _remove_behind(element)
            element.append(backing_store(NbdExport(Path(booted.socket), target)))
    host.define(ET.tostring(root, encoding="unicode"), _ADVICE)


def hold_server(booted: Booted, disk: BootedDisk, domain: Domain, host: Host) -> None:
    """Define the running domain so that the pull that is to begin leaves the server behind the disk.

    Raises HypervisorError.
    """
    live, root = ET.fromstring(domain.xml()), ET.fromstring(domain.secure_xml())
    used = {target: _path(element) for target, element in _disks(live)}.get(disk.disk)
    for target, element in _disks(root):
        if target == disk.disk and normpath(_path(element)) == disk.overlay:
            _spell(element, _other_spelling(disk.overlay) if used == disk.overlay else disk.overlay)
            _remove_behind(element)
            element.append(backing_store(NbdExport(Path(booted.socket), target)))
    host.define(ET.tostring(root, encoding="unicode"), _ADVICE)


def forget_server(booted: Booted, domain: Domain, host: Host) -> None:
    """Define the domain without the server, if it names that. Raises HypervisorError."""
    if not any(images_behind(domain.inactive_xml()).values()):
        return
    root = ET.fromstring(domain.secure_xml())
    overlays = {disk.disk: disk.overlay for disk in booted.disks}
    for target, element in _disks(root):
        if target in overlays:
            _remove_behind(element)
            if normpath(_path(element)) == overlays[target]:
                _spell(element, overlays[target])
    host.define(ET.tostring(root, encoding="unicode"), _ADVICE)


def _disks(root: ET.Element) -> Iterator[tuple[str, ET.Element]]:
    """The disks of a domain's XML, by target."""
    for element in root.iterfind("./devices/disk"):
        if (target := element.find("./target")) is not None:
            yield target.get("dev", ""), element


def _path(element: ET.Element) -> str:
    source = element.find("./source")
    return "" if source is None else source.get("file", "")


def _spell(element: ET.Element, path: str) -> None:
    if (source := element.find("./source")) is not None:
        source.set("file", path)


def _remove_behind(element: ET.Element) -> None:
    for behind in element.findall("./backingStore"):
        element.remove(behind)


def _other_spelling(path: str) -> str:
    """A path of libvirt's is compared letter by letter."""
    folder, _, name = path.rpartition("/")
    return f"{folder}//{name}"
