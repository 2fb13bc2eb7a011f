"""Disks that are volumes of a storage pool: only a libvirtd that is its own process has storage pools here.

``python -m tests.integration.volume_scene FOLDER`` prints one JSON document; test_daemon.py asserts on it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from contextlib import closing
from pathlib import Path
from typing import Any

import libvirt
import libvirt_qemu

import puller
from puller.hypervisor.connection import prepare_library
from tests.lab.daemon import URI, PrivateLibvirt
from tests.lab.machine import QEMU

SIZE = 4 << 20
TARGETS = {"vda": "0.10", "vdb": "1.1"}
"""And the version of qcow2 of each: the older one is what libvirt makes unless told otherwise."""


def make_pool(connection: Any, folder: Path) -> Any:
    """A pool in ``folder`` with a volume for each target."""
    folder.mkdir()
    pool = connection.storagePoolDefineXML(
        f"<pool type='dir'><name>pool</name><target><path>{folder}</path></target></pool>"
    )
    pool.create()
    for (
        target,
        compat,
    ) in TARGETS.items():  # where none is named, libvirt 9 makes 0.10 and libvirt 11 makes 1.1
        pool.createXML(
            f"<volume><name>{target}.qcow2</name><capacity>{SIZE}</capacity>"
            f"<target><format type='qcow2'/><compat>{compat}</compat></target></volume>"
        )
    return pool


def domain_xml() -> str:
    """A machine that stands still, with the volumes as its disks."""
    root = ET.Element("domain", type="qemu")
    ET.SubElement(root, "name").text = "volumes"
    ET.SubElement(root, "memory", unit="MiB").text = "32"
    ET.SubElement(ET.SubElement(root, "os"), "type", arch="x86_64", machine="q35").text = "hvm"
    devices = ET.SubElement(root, "devices")
    ET.SubElement(devices, "emulator").text = QEMU
    for target in TARGETS:
        disk = ET.SubElement(devices, "disk", type="volume", device="disk")
        ET.SubElement(disk, "driver", name="qemu", type="qcow2")
        ET.SubElement(disk, "source", pool="pool", volume=f"{target}.qcow2")
        ET.SubElement(disk, "target", dev=target, bus="virtio")
        ET.SubElement(disk, "alias", name=f"ua-{target}")
    return ET.tostring(root, encoding="unicode")


class Stage:
    """The machine, and a repository. Each point follows a write to both disks."""

    def __init__(self, folder: Path, domain: Any) -> None:
        self.folder = folder
        self.domain = domain
        self.repository = puller.create_repository(str(folder / "repository"), password=None)

    def write(self, pattern: int) -> None:
        """Through the devices, and flushed."""
        human = libvirt_qemu.VIR_DOMAIN_QEMU_MONITOR_COMMAND_HMP
        for target in TARGETS:
            for command in (f"write -P {pattern} {pattern << 16} 64k", "flush"):
                line = f'qemu-io -d /machine/peripheral/ua-{target}/virtio-backend "{command}"'
                libvirt_qemu.qemuMonitorCommand(self.domain, line, human)

    def take(self, mode: puller.Mode = "pull") -> dict[str, str]:
        point = puller.backup(self.repository, "volumes", connect=URI, mode=mode)
        return {disk.disk: disk.kind for disk in point.disks}

    def is_exact(self) -> bool:
        """Whether the last point is what the images are, of the machine that is off."""
        output = self.folder / "restored"
        puller.restore(self.repository, "volumes@latest", output=str(output), format="raw")
        images = [(self.folder / "pool" / f"{target}.qcow2", output / f"{target}.raw") for target in TARGETS]
        return all(
            subprocess.run(["qemu-img", "compare", "-q", *map(str, pair)], check=False).returncode == 0
            for pair in images
        )

    def overwrite_running(self) -> str:
        """What a restore onto a volume of the running machine is refused with."""
        volume = self.folder / "pool" / "vda.qcow2"
        try:
            puller.restore(
                self.repository, "volumes@latest", output=str(volume), disks=["vda"], force=True, connect=URI
            )
        except puller.OutputInUse as error:
            return error.message
        return "overwritten"

    def restore_to(self, connection: Any, pool: Any) -> dict[str, Any]:
        """A copy on new volumes of the pool; refusals and failures, which leave no volume."""
        before = set(pool.listVolumes())
        made = self._recreate("copy", start=True)
        assert isinstance(made, puller.Recreated), made
        copy = connection.lookupByName("copy")
        outcome: dict[str, Any] = {"started": bool(copy.isActive())}
        copy.destroy()
        volumes = sorted(set(pool.listVolumes()) - before)
        outcome["volumes"] = volumes
        outcome["same"] = [self._same(Path(pool.storageVolLookupByName(name).path())) for name in volumes]
        copy.undefine()
        outcome["taken"] = self._recreate("copy")
        for name in volumes:
            pool.storageVolLookupByName(name).delete()
        precious = self.folder / "precious.raw"
        precious.write_text("precious")
        outcome["mapped"] = self._recreate("copy", places={"vda": str(precious)})
        outcome["kept"] = precious.read_text()
        outcome["unknown pool"] = self._recreate("copy", pool="nowhere")
        outcome["unknown network"] = self._recreate("copy", map_networks={"misspelt": "x"})
        outcome["missing network"] = self._recreate("copy", network="nowhere")
        for pack in (self.folder / "repository" / "packs").rglob("*"):
            if pack.is_file():
                pack.write_bytes(bytes(pack.stat().st_size))
        self.repository = puller.open_repository(str(self.folder / "repository"))
        outcome["damaged"] = self._recreate("copy")
        outcome["left"] = sorted(set(pool.listVolumes()) - before)
        outcome["domains"] = [domain.name() for domain in connection.listAllDomains()]
        return outcome

    def _recreate(self, name: str, **options: Any) -> Any:
        """The name of the error, if it is refused."""
        choices = {"pool": "pool", "name": name, "connect": URI, **options}
        try:
            return puller.recreate(self.repository, "volumes@latest", **choices)
        except puller.PullerError as error:
            return f"{type(error).__name__}: {error.message}"

    def _same(self, volume: Path) -> bool:
        """Whether the volume is what the restored disk of its target is."""
        target = volume.stem.removeprefix("copy-")
        plain = self.folder / "restored" / f"{target}.raw"
        command = ["qemu-img", "compare", "-q", "-f", "raw", "-F", "qcow2", str(plain), str(volume)]
        return subprocess.run(command, check=False).returncode == 0


def play(folder: Path) -> dict[str, Any]:
    """What came of a point in each mode and state."""
    with closing(libvirt.open(URI)) as connection:
        pool = make_pool(connection, folder / "pool")
        domain = connection.defineXML(domain_xml())
        domain.createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED)
        stage = Stage(folder, domain)
        outcome: dict[str, Any] = {}
        try:
            runs: list[tuple[str, puller.Mode]] = [("full", "pull"), ("pull", "pull"), ("push", "push")]
            for number, (name, mode) in enumerate(runs, 1):
                stage.write(number)
                outcome[name] = stage.take(mode)
            outcome["in use"] = stage.overwrite_running()
            stage.write(9)
            domain.destroy()
            outcome["offline"] = stage.take()
            outcome["exact"] = stage.is_exact()
            outcome["pool"] = stage.restore_to(connection, pool)
        finally:
            if domain.isActive():
                domain.destroy()
            domain.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA)
            pool.destroy()
        return outcome


def main() -> int:
    folder = Path(sys.argv[1])
    os.environ["PULLER_CACHE_DIR"] = str(folder / "cache")
    prepare_library()
    with PrivateLibvirt(folder):
        json.dump(play(folder), sys.stdout, indent=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
