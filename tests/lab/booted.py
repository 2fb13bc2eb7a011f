"""A machine that reads and writes all the while it is recovered, and checks of that from outside."""

from __future__ import annotations

import hashlib
import os
import random
import re
import shutil
import subprocess
import threading
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.lab.guest import FAILED, Agent, GuestError, build_initramfs, guest_domain_xml
from tests.lab.kernel import Kernel

INIT = Path(__file__).resolve().parents[1] / "guest" / "recovery-init"
MIB = 1 << 20
BLOCKS = 64
"""Of the disk: the guest reads the third quarter, overwrites the last, and leaves the first half alone."""
TAIL = 3 * 512
"""Makes the disk no multiple of 64 KiB."""

_READ = re.compile(r"^read (\d+) ([0-9a-f]{32})\r?$", re.MULTILINE)
_WRITING = re.compile(r"^writing (\d+)\r?$", re.MULTILINE)
_WROTE = re.compile(r"^wrote (\d+) ([0-9a-f]{32})\r?$", re.MULTILINE)


def make_machine(folder: Path, name: str) -> str:
    """Make the images of the machine in ``folder``, and return its definition. vdb is small and not used."""
    content = random.Random(name).randbytes(BLOCKS * MIB + TAIL)
    raw = folder / "vda.raw"
    raw.write_bytes(content)
    for target, source in (("vda", raw), ("vdb", folder / "vdb.raw")):
        if target == "vdb":
            source.write_bytes(random.Random(1).randbytes(MIB))
        image = str(folder / f"{target}.qcow2")
        subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", source, image], check=True)
    installed = Kernel.find()
    # A copy, because libvirt may change the owner of what it starts a domain from.
    kernel = Kernel(Path(shutil.copy(installed.image, folder / "kernel")), installed.modules)
    build_initramfs(kernel, folder / "initramfs", init=INIT)
    disks = [folder / "vda.qcow2", folder / "vdb.qcow2"]
    xml = guest_domain_xml(name, kernel, folder / "initramfs", disks, folder / "console", Agent.NONE)
    return xml.replace("</devices>", "<interface type='user'><model type='virtio'/></interface></devices>")


class Terminal:
    """Reads the serial terminal of a running domain, and keeps what the guest says."""

    def __init__(self, xml: str) -> None:
        console = ET.fromstring(xml).find("./devices/console[@type='pty']/source")
        assert console is not None
        self._descriptor = os.open(console.get("path", ""), os.O_RDONLY | os.O_NOCTTY)
        self._said = bytearray()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        with suppress(OSError):  # the domain has ended
            while piece := os.read(self._descriptor, 65536):
                self._said += piece

    def text(self) -> str:
        """All that was said up to now."""
        return bytes(self._said).decode(errors="replace").replace("\r", "")

    def turns(self) -> int:
        """How often the guest has written."""
        return len(_WROTE.findall(self.text()))

    def wait_turns(self, number: int, seconds: float = 120.0) -> None:
        """Wait until the guest has written so often. Raises GuestError if it fails, or after ``seconds``."""
        self.wait(lambda: self.turns() >= number, seconds)

    def wait(self, reached: Callable[[], bool], seconds: float = 120.0) -> None:
        """Wait for a condition. Raises GuestError."""
        deadline = time.monotonic() + seconds
        while not reached():
            text = self.text()
            if FAILED in text or "I/O error" in text or "panic" in text or time.monotonic() > deadline:
                raise GuestError(f"the guest gave up, or {seconds:.0f} s are over: {text[-600:]}")
            time.sleep(0.05)

    def wrong_reads(self, original: Path) -> list[int]:
        """The blocks that the guest has read otherwise than they are in ``original``."""
        return [block for block, digest in self._told(_READ) if _digest(original, block) != digest]

    def wrong_writes(self, image: Path) -> list[int]:
        """The blocks that are in the raw ``image`` otherwise than the guest has written them last.

        A write that was under way at the end may be there or not.
        """
        text = self.text()
        last = dict(self._told(_WROTE))
        begun = list(_WRITING.finditer(text))
        if begun and not _WROTE.search(text, begun[-1].end()):
            last.pop(int(begun[-1][1]), None)
        return [block for block, digest in last.items() if _digest(image, block) != digest]

    def _told(self, what: re.Pattern[str]) -> list[tuple[int, str]]:
        return [(int(match[1]), match[2]) for match in what.finditer(self.text())]


def _digest(image: Path, block: int) -> str:
    with image.open("rb") as file:
        file.seek(block * MIB)
        return hashlib.md5(file.read(MIB), usedforsecurity=False).hexdigest()


def processes(needle: str) -> dict[int, str]:
    """The processes whose command line has ``needle``, by number, with their command lines."""
    found: dict[int, str] = {}
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            line = (process / "cmdline").read_bytes().decode(errors="replace").replace("\0", " ")
            if needle in line and int(process.name) != os.getpid():
                found[int(process.name)] = line
    return found


def nbdkit_of(socket: str) -> list[int]:
    """The nbdkit that listens at ``socket``."""
    return [number for number, line in processes(socket).items() if line.startswith("nbdkit")]


def terminal_of(domain: Any) -> Terminal:
    """The terminal of libvirt's ``domain``, which runs."""
    return Terminal(domain.XMLDesc(0))
