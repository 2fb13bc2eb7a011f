"""A throwaway Linux guest that writes to a real file system all the while.

It is the distribution's kernel with one busybox script as its init (``tests/guest/init``), booted
directly: nothing is installed in it and it is up in about three seconds without KVM. Needs
busybox-static, e2fsprogs and qemu-utils.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import stat
import subprocess
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import libvirt

from tests.lab.kernel import FOR_AGENT, WANTED, Kernel

INIT = Path(__file__).resolve().parents[1] / "guest" / "init"
BUSYBOX = Path("/bin/busybox")
QEMU_GA = Path("/usr/sbin/qemu-ga")
AGENT_CHANNEL = "org.qemu.guest_agent.0"

SYSTEM_DISK = 256 << 20
FILLED = 48 << 20
"""Bytes of files that the system disk holds from the start, so that a full backup has something to read."""
BARE_DISK = (9 << 20) + 3 * 512
"""No multiple of 64 KiB: the last chunk is partial."""

DATABASE = 4 << 20
MEMORY_MIB = 128
POLL_SECONDS = 0.05
READY = "puller-guest ready"
FAILED = "puller-guest failed"


class GuestError(Exception):
    """The guest cannot be built, or did not do what was waited for."""


class Agent(Enum):
    """The QEMU guest agent in the guest: none, the real one, or the real one with a hook that hangs.

    A hook that hangs keeps the agent from answering for ``HANG_SECONDS``; *then* it freezes.
    """

    NONE = "none"
    SOUND = "sound"
    HANGING = "hanging"


HANG_SECONDS = 8


# --- initramfs --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Entry:
    """A file in a cpio archive; ``device`` is major and minor number of a device node."""

    name: str
    mode: int
    content: bytes = b""
    device: tuple[int, int] = (0, 0)


def build_initramfs(
    kernel: Kernel,
    path: Path,
    agent: Agent = Agent.NONE,
    init: Path = INIT,
    programs: Mapping[str, Path] | None = None,
    more_modules: Sequence[str] = (),
) -> None:
    """Write the guest's initial file system to ``path``: ``init`` and what it calls, by their names in it.

    Raises GuestError if a program is missing.
    """
    if not BUSYBOX.exists():
        raise GuestError(f"{BUSYBOX} is missing; install busybox-static")
    entries = [
        *(_Entry(folder, stat.S_IFDIR | 0o755) for folder in ("bin", "dev", "lib", "lib64", "modules")),
        _Entry("dev/console", stat.S_IFCHR | 0o600, device=(5, 1)),
        _Entry("bin/busybox", stat.S_IFREG | 0o755, BUSYBOX.read_bytes()),
        _Entry("init", stat.S_IFREG | 0o755, init.read_bytes()),
    ]
    wanted: tuple[str, ...] = (*WANTED, *more_modules)
    if agent is not Agent.NONE:
        entries += _agent_entries()
        wanted += FOR_AGENT
    for order, (name, content) in enumerate(kernel.needed_modules(wanted).items()):
        entries.append(_Entry(f"modules/{order:02}-{name}.ko", stat.S_IFREG | 0o644, content))
    for name, program in (programs or {}).items():
        entries.append(_Entry(name, stat.S_IFREG | 0o755, program.read_bytes()))
    path.write_bytes(b"".join(_cpio(entries)))


def _agent_entries() -> list[_Entry]:
    """The agent with the libraries that it is linked with, at their own places."""
    if not QEMU_GA.exists():
        raise GuestError(f"{QEMU_GA} is missing; install qemu-guest-agent")
    files = [str(QEMU_GA), *map(str, libraries_of(QEMU_GA))]
    folders = {str(parent)[1:] for name in files for parent in Path(name).parents if len(parent.parts) > 1}
    return [
        *(_Entry(folder, stat.S_IFDIR | 0o755) for folder in sorted(folders)),
        *(_Entry(name[1:], stat.S_IFREG | 0o755, Path(name).read_bytes()) for name in files),
    ]


def libraries_of(program: Path) -> list[Path]:
    """The libraries that a program is linked with."""
    return [Path(name) for name in re.findall(r"(/\S+) \(0x", _run("ldd", str(program)))]


def _cpio(entries: Iterable[_Entry]) -> Iterator[bytes]:
    """The "newc" archive of cpio(5), which the kernel unpacks: header and name, then content, padded to 4."""
    for inode, entry in enumerate((*entries, _Entry("TRAILER!!!", 0)), start=1):
        name = entry.name.encode() + b"\0"
        fields = (inode, entry.mode, 0, 0, 1, 0, len(entry.content), 0, 0, *entry.device, len(name), 0)
        header = b"070701" + b"".join(b"%08X" % field for field in fields) + name
        yield header + bytes(-len(header) % 4)
        yield entry.content + bytes(-len(entry.content) % 4)


# --- disks ------------------------------------------------------------------------------------


def make_system_disk(path: Path, size: int, filled: int) -> None:
    """Make a qcow2 of ``size`` bytes with an ext4 that already holds about ``filled`` bytes of files."""
    with tempfile.TemporaryDirectory(dir=path.parent) as work:
        files, raw = Path(work, "files"), Path(work, "raw")
        _make_files(files, filled)
        with raw.open("wb") as image:
            image.truncate(size)
        # Without the lazy options the guest's kernel would go on zeroing inode tables by itself.
        options = "lazy_itable_init=0,lazy_journal_init=0,nodiscard"
        _run("mkfs.ext4", "-q", "-F", "-m", "0", "-E", options, "-d", str(files), str(raw))
        _run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(raw), str(path))


def _make_files(folder: Path, total: int) -> None:
    """A database file that the guest overwrites, and files of which half is noise and half is text."""
    folder.mkdir()
    source = random.Random(total)
    (folder / "database").write_bytes(source.randbytes(DATABASE))
    half = 1 << 19
    text = b"".join(b"%08d the same words again and again\n" % line for line in range(half // 40))
    for number in range(max(0, total - DATABASE) // (2 * half)):
        (folder / f"file-{number}").write_bytes(source.randbytes(half) + text)


def make_bare_disk(path: Path, size: int) -> None:
    """Make an empty qcow2 of ``size`` bytes, a multiple of 512."""
    _run("qemu-img", "create", "-q", "-f", "qcow2", str(path), str(size))


def _run(*command: str) -> str:
    # mkfs lives where users' paths do not lead.
    environment = os.environ | {"PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise GuestError(f"{command[0]} failed: {done.stderr.strip()}")
    return done.stdout


# --- domain -----------------------------------------------------------------------------------


def guest_domain_xml(
    name: str, kernel: Kernel, initramfs: Path, disks: Sequence[Path], console: Path, agent: Agent
) -> str:
    """Domain XML of the guest: ``disks`` become vda, vdb, …; its console is written to a file."""
    domain = ET.Element("domain", type="qemu")
    _text(domain, "name", name)
    _text(domain, "memory", str(MEMORY_MIB), unit="MiB")
    _text(domain, "vcpu", "1")
    system = ET.SubElement(domain, "os")
    _text(system, "type", "hvm", arch="x86_64", machine="q35")
    _text(system, "kernel", str(kernel.image))
    _text(system, "initrd", str(initramfs))
    choices = f"puller.agent={agent.value} puller.hang={HANG_SECONDS}"
    _text(system, "cmdline", f"console=ttyS0 quiet panic=-1 mitigations=off no_timer_check {choices}")
    processor = ET.SubElement(domain, "cpu", mode="custom", match="exact")
    _text(processor, "model", "qemu64")
    # Without it the guest's kernel gathers noise for a second before /dev/urandom answers.
    ET.SubElement(processor, "feature", policy="require", name="rdrand")
    _text(domain, "on_reboot", "destroy")
    devices = ET.SubElement(domain, "devices")
    for letter, disk in zip("abcdefgh", disks, strict=False):
        _add_disk(devices, f"vd{letter}", disk)
    serial = ET.SubElement(devices, "serial", type="file")
    ET.SubElement(serial, "source", path=str(console))
    ET.SubElement(devices, "memballoon", model="none")
    if agent is not Agent.NONE:
        channel = ET.SubElement(devices, "channel", type="unix")
        ET.SubElement(channel, "target", type="virtio", name=AGENT_CHANNEL)
    return ET.tostring(domain, encoding="unicode")


def _add_disk(devices: ET.Element, target: str, path: Path) -> None:
    disk = ET.SubElement(devices, "disk", type="file", device="disk")
    ET.SubElement(disk, "driver", name="qemu", type="qcow2", discard="unmap", detect_zeroes="off")
    ET.SubElement(disk, "source", file=str(path))
    ET.SubElement(disk, "target", dev=target, bus="virtio")


def _text(parent: ET.Element, tag: str, text: str, **attributes: str) -> None:
    ET.SubElement(parent, tag, attributes).text = text


# --- console ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Console:
    """What the guest says, read from the file that its serial port writes."""

    path: Path

    def text(self) -> str:
        """All that was said up to now."""
        return self.path.read_text(errors="replace") if self.path.exists() else ""

    def generation(self) -> int:
        """Number of the last generation that the guest has finished writing, 0 before the first."""
        told: list[str] = re.findall(r"^generation (\d+)\r?\n", self.text(), re.MULTILINE)
        return int(told[-1]) if told else 0

    def wait_ready(self, seconds: float) -> None:
        """Wait until the guest has mounted its file system. Raises GuestError after ``seconds``."""
        self._wait(lambda: READY in self.text(), "the guest to be ready", seconds)

    def wait_generation(self, number: int, seconds: float) -> None:
        """Wait until the guest has written generation ``number``. Raises GuestError after ``seconds``."""
        self._wait(lambda: self.generation() >= number, f"generation {number}", seconds)

    def _wait(self, reached: Callable[[], bool], what: str, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not reached():
            tail = self.text()[-400:]
            if FAILED in tail or "Kernel panic" in tail:
                raise GuestError(f"the guest gave up: {tail.strip()}")
            if time.monotonic() > deadline:
                raise GuestError(f"waited {seconds:.0f} s for {what}; the console ends: {tail.strip()}")
            time.sleep(POLL_SECONDS)


# --- the running guest ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Guest:
    """A running guest. ``disks`` are its images by target."""

    name: str
    disks: dict[str, Path]
    console: Console


@contextmanager
def running_guest(uri: str, name: str, folder: Path, agent: Agent = Agent.NONE) -> Iterator[Guest]:
    """Boot a guest on the libvirt at ``uri``, all its files in ``folder``; destroy it when the context ends.

    It may still be booting when the context begins: wait on its console. Raises GuestError, NoKernel.
    """
    disks = {"vda": folder / "vda.qcow2", "vdb": folder / "vdb.qcow2"}
    guest = Guest(name, disks, Console(folder / "console"))
    make_system_disk(disks["vda"], SYSTEM_DISK, FILLED)
    make_bare_disk(disks["vdb"], BARE_DISK)
    xml = _domain_xml_in(folder, guest, agent)
    with closing(libvirt.open(uri)) as connection:
        domain = connection.defineXML(xml)
        try:
            domain.create()
            yield guest
        finally:
            # Anew: libvirt's daemon may have been started again meanwhile.
            with closing(libvirt.open(uri)) as again:
                _remove(again.lookupByName(name))


def _domain_xml_in(folder: Path, guest: Guest, agent: Agent) -> str:
    installed = Kernel.find()
    # A copy, because libvirt may change the owner of what it starts a domain from.
    kernel = Kernel(Path(shutil.copy(installed.image, folder / "kernel")), installed.modules)
    build_initramfs(kernel, folder / "initramfs", agent)
    return guest_domain_xml(
        guest.name, kernel, folder / "initramfs", list(guest.disks.values()), guest.console.path, agent
    )


def _remove(domain: Any) -> None:
    if domain.isActive():
        domain.destroy()
    domain.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA)
