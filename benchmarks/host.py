"""A private libvirt daemon and its domains, for puller and its peers alike.

``qemu:///embed`` serves one process only, but here several programs have to reach the same domain. So this
starts libvirt's ordinary daemon in session mode, all its state in a folder of its own, and names its socket
in the URI. The daemon takes the session mode only from an ordinary user: root runs it in a user namespace
in which root's files belong to user 1000. Nothing of the machine's own libvirt is touched.
"""

from __future__ import annotations

import mmap
import os
import shutil
import socket
import subprocess
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import libvirt
import libvirt_qemu

from puller.hypervisor.connection import prepare_library

DISK = "vda"
START_SECONDS = 30.0
_AS_USER = ("unshare", "--user", "--map-user=1000", "--map-group=1000")
_CONFIGURATION = """\
log_outputs="3:file:{folder}/libvirtd.log"
"""


@dataclass(frozen=True, slots=True)
class Boot:
    """What a guest boots from. A domain without it stands still all the time."""

    kernel: Path
    initramfs: Path
    console: Path
    words: str = ""
    """More words of the kernel's command line."""


class Host:
    """The daemon with the domains that were defined on it. A context; ``folder`` needs a short path."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._socket = folder / "run" / "libvirt" / "libvirt-sock"
        self.uri = f"qemu:///session?socket={self._socket}"
        self._domains: list[Domain] = []
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self._daemon())
            prepare_library()
            self._connection = libvirt.open(self.uri)
            stack.callback(self._connection.close)
            stack.callback(self._remove_all)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *failure: object) -> None:
        self._stack.close()

    def variables(self) -> dict[str, str]:
        """The variables by which programs find this daemon, and its state where it told them to look."""
        folders = {"RUNTIME_DIR": "run", "CONFIG_HOME": "config", "CACHE_HOME": "cache", "DATA_HOME": "data"}
        found = {f"XDG_{name}": str(self._folder / folder) for name, folder in folders.items()}
        return found | {"LIBVIRT_DEFAULT_URI": self.uri}

    @contextmanager
    def _daemon(self) -> Iterator[None]:
        for name in ("run", "config", "cache", "data"):
            (self._folder / name).mkdir(parents=True)
        configuration = self._folder / "libvirtd.conf"
        configuration.write_text(_CONFIGURATION.format(folder=self._folder))
        command = [_libvirtd(), "-f", str(configuration), "--pid-file", str(self._folder / "libvirtd.pid")]
        process = subprocess.Popen(
            [*(_AS_USER if os.geteuid() == 0 else ()), *command],
            env=os.environ | self.variables(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            self._wait(process)
            yield
        finally:
            process.terminate()
            process.wait()

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not self._listens():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"libvirtd does not start; see {self._folder}/libvirtd.log")
            time.sleep(0.02)

    def _listens(self) -> bool:
        """Whether the daemon answers: its socket is there a little earlier."""
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(self._socket)) == 0

    def domain(self, name: str, image: Path, boot: Boot | None = None, *, cached: bool = True) -> Domain:
        """Define a domain on the qcow2 ``image`` and start it, standing still. It ends with the host.

        The image is in the page cache if ``cached``; otherwise QEMU reads it from the disk, past the cache.
        """
        handle = self._connection.defineXML(_domain_xml(name, image, boot, cached=cached))
        domain = Domain(handle, self._folder, image, cached=cached)
        self._domains.append(domain)
        handle.createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED)
        return domain

    def remove(self, domain: Domain) -> None:
        """End a domain before the host ends, and delete its image."""
        self._domains.remove(domain)
        domain.destroy()
        domain.image.unlink()

    def _remove_all(self) -> None:
        for domain in list(self._domains):
            self.remove(domain)


class Domain:
    """A domain with one disk, ``vda``."""

    def __init__(self, handle: Any, state: Path, image: Path, *, cached: bool) -> None:
        self._handle = handle
        self._state = state
        self.image = image
        self._kept = _kept_in_memory(image) if cached else None
        self.name: str = handle.name()

    @property
    def pid(self) -> int:
        """Of its QEMU."""
        return int((self._state / "run" / "libvirt" / "qemu" / "run" / f"{self.name}.pid").read_text())

    def resume(self) -> None:
        """Let the guest run."""
        self._handle.resume()

    def destroy(self) -> None:
        """End it and forget all that libvirt knows of it."""
        if self._handle.isActive():
            self._handle.destroy()
        if self._kept is not None:
            self._kept.close()
        self._handle.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA)

    def write(self, source: Path, offset: int, length: int) -> None:
        """Write ``length`` bytes, the file ``source`` over and over, through the device as a guest would.

        QEMU's answer is nothing whether it worked or not; see :meth:`dirty`.
        """
        device = f"/machine/peripheral/ua-{DISK}/virtio-backend"
        command = f'qemu-io -d {device} "write -s {source} {offset} {length}"'
        flags = libvirt_qemu.VIR_DOMAIN_QEMU_MONITOR_COMMAND_HMP
        libvirt_qemu.qemuMonitorCommand(self._handle, command, flags)

    @contextmanager
    def export(self, folder: Path) -> Iterator[str]:
        """The NBD URI of the disk in a pull job without a checkpoint, which ends with the context."""
        socket = folder / f"{self.name}.sock"
        job = ET.Element("domainbackup", mode="pull")
        ET.SubElement(job, "server", transport="unix", socket=str(socket))
        disk = ET.SubElement(ET.SubElement(job, "disks"), "disk", name=DISK, type="file", backup="yes")
        ET.SubElement(disk, "scratch", file=str(folder / f"{self.name}.scratch"))
        self._handle.backupBegin(ET.tostring(job, encoding="unicode"), None)
        try:
            yield f"nbd+unix:///{DISK}?socket={socket}"
        finally:
            with suppress(libvirt.libvirtError):
                self._handle.abortJob()


def _kept_in_memory(image: Path) -> mmap.mmap:
    """Map all of the image, so that its pages stay in the page cache for everybody who reads it.

    A host that reclaims cold pages had a fresh copy of 5.6 GiB out of its cache within a minute, and then
    measured its disk: QEMU took 12.4 CPU-s to serve what takes it 3.5 from memory.
    """
    with image.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, mmap.MAP_SHARED | mmap.MAP_POPULATE, mmap.PROT_READ)


def _libvirtd() -> str:
    found = shutil.which("libvirtd", path=f"{os.environ['PATH']}:/usr/sbin")
    if found is None:
        raise RuntimeError("libvirtd is not installed")
    return found


def _domain_xml(name: str, image: Path, boot: Boot | None, *, cached: bool) -> str:
    root = ET.Element("domain", type="qemu")
    ET.SubElement(root, "name").text = name
    ET.SubElement(root, "memory", unit="MiB").text = "128"
    system = ET.SubElement(root, "os")
    ET.SubElement(system, "type", arch="x86_64", machine="q35").text = "hvm"
    devices = ET.SubElement(root, "devices")
    if boot is not None:
        _add_boot(root, system, devices, boot)
    ET.SubElement(devices, "controller", type="usb", model="none")
    ET.SubElement(devices, "memballoon", model="none")
    disk = ET.SubElement(devices, "disk", type="file", device="disk")
    cache = {} if cached else {"cache": "none"}
    ET.SubElement(disk, "driver", name="qemu", type="qcow2", discard="unmap", attrib=cache)
    ET.SubElement(disk, "source", file=str(image))
    ET.SubElement(disk, "target", dev=DISK, bus="virtio")
    ET.SubElement(disk, "alias", name=f"ua-{DISK}")
    return ET.tostring(root, encoding="unicode")


def _add_boot(root: ET.Element, system: ET.Element, devices: ET.Element, boot: Boot) -> None:
    ET.SubElement(system, "kernel").text = str(boot.kernel)
    ET.SubElement(system, "initrd").text = str(boot.initramfs)
    words = "console=ttyS0 quiet panic=-1 mitigations=off no_timer_check"
    ET.SubElement(system, "cmdline").text = f"{words} {boot.words}".rstrip()
    processor = ET.SubElement(root, "cpu", mode="custom", match="exact")
    ET.SubElement(processor, "model").text = "qemu64"
    # Without it the guest's kernel gathers noise for a second before /dev/urandom answers.
    ET.SubElement(processor, "feature", policy="require", name="rdrand")
    ET.SubElement(ET.SubElement(devices, "serial", type="file"), "source", path=str(boot.console))
