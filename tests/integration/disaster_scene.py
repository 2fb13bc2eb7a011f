"""A host that burns down, and another one that has never seen the repository; each has a libvirtd of its own.

``python -m tests.integration.disaster_scene before FOLDER REPOSITORY`` takes the points of two machines;
``… after FOLDER REPOSITORY`` walks docs/recovery.md, "On a new host". Both print one JSON document, on which
test_disaster.py asserts.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from contextlib import closing
from pathlib import Path
from typing import Any

import libvirt

from puller.hypervisor.connection import prepare_library
from tests.lab.daemon import URI, PrivateLibvirt
from tests.lab.machine import QEMU

OVMF = Path("/usr/share/OVMF")
NVRAM = Path("/var/lib/libvirt/qemu/nvram")
SWTPM = Path("/var/lib/libvirt/swtpm")
MIB = 1 << 20


def domain_xml(name: str, images: Path, *, uefi: bool) -> str:
    """A machine with a qcow2 and a raw disk; ``uefi`` gives it firmware variables and a TPM."""
    root = ET.Element("domain", type="qemu")
    ET.SubElement(root, "name").text = name
    ET.SubElement(root, "memory", unit="MiB").text = "64"
    system = ET.SubElement(root, "os")
    ET.SubElement(system, "type", arch="x86_64", machine="q35").text = "hvm"
    ET.SubElement(ET.SubElement(root, "features"), "acpi")
    devices = ET.SubElement(root, "devices")
    ET.SubElement(devices, "emulator").text = QEMU
    if uefi:
        ET.SubElement(system, "loader", readonly="yes", type="pflash").text = str(OVMF / "OVMF_CODE_4M.fd")
        ET.SubElement(system, "nvram", template=str(OVMF / "OVMF_VARS_4M.fd"))
        tpm = ET.SubElement(devices, "tpm", model="tpm-crb")
        ET.SubElement(tpm, "backend", type="emulator", version="2.0")
    for target, kind in (("vda", "qcow2"), ("vdb", "raw")):
        disk = ET.SubElement(devices, "disk", type="file", device="disk")
        ET.SubElement(disk, "driver", name="qemu", type=kind)
        ET.SubElement(disk, "source", file=str(images / f"{name}-{target}"))
        ET.SubElement(disk, "target", dev=target, bus="virtio")
    interface = ET.SubElement(devices, "interface", type="user")
    ET.SubElement(interface, "model", type="virtio")
    return ET.tostring(root, encoding="unicode")


def make_images(name: str, images: Path) -> None:
    for target, kind, options in (("vda", "qcow2", ["-o", "cluster_size=32k"]), ("vdb", "raw", [])):
        path = str(images / f"{name}-{target}")
        subprocess.run(["qemu-img", "create", "-q", "-f", kind, *options, path, "16M"], check=True)
        pattern = str(len(name))
        command = ["qemu-io", "-f", kind, "-c", f"write -P {pattern} 1M 3M", "-c", "write -P 9 12M 64k", path]
        subprocess.run(command, check=True, capture_output=True)


def puller(*words: str) -> subprocess.CompletedProcess[str]:
    """The command, in this environment."""
    command = [sys.executable, "-m", "puller.cli", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def answer(*words: str) -> dict[str, Any]:
    done = puller(*words, "--json")
    return {"code": done.returncode, **json.loads(done.stdout)}


def digest(path: Path) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def content(path: Path, kind: str) -> str:
    """A digest of what the guest sees on the disk."""
    plain = path.with_name(f"{path.name}.plain")
    subprocess.run(["qemu-img", "convert", "-U", "-f", kind, "-O", "raw", path, plain], check=True)
    found = hashlib.sha256(plain.read_bytes()).hexdigest()
    plain.unlink()
    return found


def state(connection: Any, name: str) -> dict[str, Any]:
    """What the machine is made of, on whichever host."""
    handle = connection.lookupByName(name)
    root = ET.fromstring(handle.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))
    disks = {}
    for disk in root.findall("./devices/disk"):
        source, target, driver = disk.find("source"), disk.find("target"), disk.find("driver")
        assert source is not None
        assert target is not None
        assert driver is not None
        kind = driver.get("type", "raw")
        path = Path(source.get("file", ""))
        disks[target.get("dev", "")] = {"path": str(path), "content": content(path, kind), "format": kind}
    mac = root.find("./devices/interface/mac")
    nvram = root.findtext("./os/nvram") or ""
    (tpm,) = [*(SWTPM / handle.UUIDString()).rglob("tpm2-00.permall")] or [Path("/nonexistent")]
    return {
        "uuid": handle.UUIDString(),
        "mac": None if mac is None else mac.get("address"),
        "disks": disks,
        "nvram": nvram,
        "variables": digest(Path(nvram)) if nvram else None,
        "tpm": digest(tpm),
    }


def before(folder: Path, repository: str) -> dict[str, Any]:
    """Two machines, their points, and a copy of one that starts beside it."""
    images = folder / "images"
    images.mkdir()
    with closing(libvirt.open(URI)) as connection:
        for name, uefi in (("web1", True), ("database", False)):
            make_images(name, images)
            connection.defineXML(domain_xml(name, images, uefi=uefi))
        original = connection.lookupByName("web1")
        original.createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED)
        variables = Path(ET.fromstring(original.XMLDesc()).findtext("./os/nvram") or "")
        with variables.open("r+b") as file:
            file.seek(400_000)
            file.write(b"the order in which it boots")
        outcome: dict[str, Any] = {"init": puller("init", "-r", repository).returncode}
        outcome["backup"] = answer("backup", "-r", repository, "-c", URI, "web1", "database")
        outcome["machines"] = {name: state(connection, name) for name in ("web1", "database")}
        outcome["copy"] = copy_beside(connection, folder, repository)
        outcome["original runs on"] = bool(original.isActive())
        outcome["original"] = state(connection, "web1")
        original.destroy()
        return outcome


def copy_beside(connection: Any, folder: Path, repository: str) -> dict[str, Any]:
    words = ["--define", "--name", "web1-test", "--network", "disconnect", "--start"]
    output = str(folder / "copy")
    done = answer("restore", "-r", repository, "-c", URI, "web1@latest", "-o", output, *words)
    if "error" in done:
        return done
    handle = connection.lookupByName("web1-test")
    found = {
        "code": done["code"],
        "active": bool(handle.isActive()),
        "mode": (folder / "copy").stat().st_mode,
    }
    handle.destroy()
    return found | state(connection, "web1-test")


def after(folder: Path, repository: str) -> dict[str, Any]:
    """docs/recovery.md, "On a new host", with what is in the environment."""
    outcome: dict[str, Any] = {"points": answer("points")["points"]}
    outcome["shown"] = answer("show", "web1@latest")
    outcome["machines"], outcome["runs"] = {}, {}
    with closing(libvirt.open(URI)) as connection:
        for name in ("web1", "database"):
            words = ["restore", f"{name}@latest", "--output", str(folder / "guests" / name), "--define"]
            outcome["looked"] = answer(*words, "--dry-run")["xml"]
            outcome["before"] = [domain.name() for domain in connection.listAllDomains()]
            restored = answer(*words)
            if "error" in restored:
                return outcome | restored
            outcome["machines"][name] = state(connection, name)
            started = subprocess.run(["virsh", "-c", URI, "start", name], capture_output=True, check=False)
            outcome["runs"][name] = started.returncode == 0 and connection.lookupByName(name).isActive()
            connection.lookupByName(name).destroy()
        outcome["again"] = answer(*words)
        outcome["next"] = answer("backup", "web1")
    return outcome


def main() -> int:
    part, folder, repository = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
    os.environ["PULLER_CACHE_DIR"] = str(folder / "cache")
    os.environ["PULLER_PASSWORD"] = "outside the fire"
    prepare_library()
    with PrivateLibvirt(folder):
        if part == "after":
            os.environ["PULLER_REPOSITORY"] = repository
        json.dump(before(folder, repository) if part == "before" else after(folder, repository), sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
