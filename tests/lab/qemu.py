"""Virtual machines of a QEMU without libvirt, standing still: see ``tests.lab.machine`` for their writes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from qemu.qmp import QMPError
from qemu.qmp.legacy import QEMUMonitorProtocol

from tests.lab.guest import (
    AGENT_CHANNEL,
    BARE_DISK,
    FILLED,
    SYSTEM_DISK,
    Agent,
    Console,
    build_initramfs,
    make_bare_disk,
    make_system_disk,
)
from tests.lab.kernel import Kernel
from tests.lab.machine import (
    DONE,
    QEMU,
    DiskSpec,
    MachineError,
    image_path,
    line_buffering,
    make_image,
)

_START = 30.0


class BareMachine:
    """A QEMU with two monitors: ``uri`` leads to puller's, the tests have the other.

    ``options`` are further words of the command line. ``port`` makes puller's monitor one behind TCP.
    """

    def __init__(
        self, name: str, folder: Path, disks: Sequence[DiskSpec], *options: str, port: int | None = None
    ) -> None:
        self.name = name
        self.uuid = str(uuid.uuid4())
        self.folder = folder
        self.socket = folder / f"{name}.qmp"
        self.uri = f"qmp://{self.socket}" if port is None else f"qmp+tcp://127.0.0.1:{port}"
        self._place = f"unix:{self.socket}" if port is None else f"tcp:127.0.0.1:{port}"
        self._disks = disks
        self._options = options
        self._log = folder / f"{name}.log"
        self._make_images()
        self.start()

    def _make_images(self) -> None:
        for spec in self._disks:
            make_image(self.image(spec.target), spec)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        own = self.folder / f"{self.name}.own"
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self._words(), "-qmp", f"unix:{own},server=on,wait=off"],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env={**os.environ, **dict(line_buffering())},
            )
        self._monitor = QEMUMonitorProtocol(str(own))
        deadline = time.monotonic() + _START
        while True:
            try:
                self._monitor.connect()
                break
            except (QMPError, OSError):
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise MachineError(self._log.read_text()) from None
                time.sleep(0.02)

    def _words(self) -> list[str]:
        words = [QEMU, "-S", "-nodefaults", "-display", "none", "-m", "32", "-machine", "q35,accel=tcg"]
        words += ["-name", self.name, "-uuid", self.uuid, "-qmp", f"{self._place},server=on,wait=off"]
        for spec in self._disks:
            driver, target = spec.format.partition("-")[0], spec.target
            storage = f"file.driver=file,file.filename={self.image(target)},file.discard=unmap"
            words += ["-blockdev", f"driver={driver},node-name=n-{target},discard=unmap,{storage}"]
            words += ["-device", f"virtio-blk-pci,id={target},drive=n-{target}"]
        return [*words, *self._options]

    def image(self, target: str) -> Path:
        return image_path(self.folder, self.name, target)

    @property
    def pid(self) -> int:
        return self._process.pid

    def stop(self) -> None:
        """End QEMU in order: it stores the dirty bitmaps in the images."""
        with suppress(QMPError, OSError, EOFError):  # it may close the monitor before it answers
            self.monitor("quit")
        self._end()

    def kill(self) -> None:
        """End QEMU at once, as a crash does."""
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGKILL)
        self._end()

    def _end(self) -> None:
        self._process.wait(60)
        with suppress(QMPError, OSError, EOFError):
            self._monitor.close()

    def monitor(self, command: str, **arguments: Any) -> Any:
        """What QEMU answers to a QMP command; ``_`` in the names of arguments stands for ``-``."""
        named = {name.replace("_", "-"): value for name, value in arguments.items()}
        answer = self._monitor.cmd_raw(command, named or None)
        if "return" not in answer:
            raise MachineError(f"{command}: {answer}")
        return answer["return"]

    def write(self, target: str, pattern: int, offset: int, length: int) -> None:
        self._qemu_io(target, f"write -P {pattern} {offset} {length}")

    def copy_in(self, target: str, source: Path, offset: int, length: int) -> None:
        self._qemu_io(target, f"write -s {source} {offset} {length}")

    def write_zeroes(self, target: str, offset: int, length: int) -> None:
        self._qemu_io(target, f"write -z {offset} {length}")

    def unmap_zeroes(self, target: str, offset: int, length: int) -> None:
        self._qemu_io(target, f"write -z -u {offset} {length}")

    def discard(self, target: str, offset: int, length: int) -> None:
        self._qemu_io(target, f"discard {offset} {length}")

    def _qemu_io(self, target: str, command: str) -> None:
        before = self._log.stat().st_size
        line = f'qemu-io -d /machine/peripheral/{target}/virtio-backend "{command}"'
        answer = self.monitor("human-monitor-command", command_line=line)
        said = self._log.read_bytes()[before:].decode(errors="replace")
        if answer or not DONE.search(said):
            raise MachineError(f"{self.name}: {command} on {target}: {answer} {said}".strip())

    def bitmaps(self) -> dict[str, set[str]]:
        """Names of all dirty bitmaps by disk."""
        nodes = {node["node-name"]: node for node in self.monitor("query-named-block-nodes", flat=True)}
        return {
            spec.target: {
                item["name"] for item in nodes[f"n-{spec.target}"].get("dirty-bitmaps", []) if "name" in item
            }
            for spec in self._disks
        }

    def remains(self) -> list[str]:
        """Names of what a run has set up in QEMU, and of its files, but for the bitmaps of checkpoints."""
        nodes = [node["node-name"] for node in self.monitor("query-named-block-nodes", flat=True)]
        found = [
            *(item["id"] for item in self.monitor("query-block-exports")),
            *(item["id"] for item in self.monitor("query-jobs")),
            *(name for name in nodes if name.startswith("puller-")),
            *(name for names in self.bitmaps().values() for name in names if name.endswith("-changes")),
            *(path.name for path in self.folder.glob("puller-*")),
        ]
        return [*found, *(["the NBD server"] if self._serves() else [])]

    def _serves(self) -> bool:
        """Whether an NBD server runs: only one can."""
        path = self.folder / "probe.sock"
        try:
            self.monitor("nbd-server-start", addr={"type": "unix", "data": {"path": str(path)}})
        except MachineError:
            return True
        self.monitor("nbd-server-stop")
        return False


class BareGuest(BareMachine):
    """One with a guest that writes, and with its agent behind ``agent``: see ``tests.lab.guest``."""

    def __init__(self, name: str, folder: Path) -> None:
        self.agent = folder / f"{name}.qga"
        self.console = Console(folder / "console")
        kernel = Kernel.find()
        build_initramfs(kernel, folder / "initramfs", Agent.SOUND)
        choices = "console=ttyS0 quiet panic=-1 mitigations=off no_timer_check puller.agent=sound"
        channel = f"socket,path={self.agent},server=on,wait=off,id=qga"
        super().__init__(
            name,
            folder,
            (DiskSpec("vda", SYSTEM_DISK), DiskSpec("vdb", BARE_DISK)),
            *("-kernel", str(kernel.image), "-initrd", str(folder / "initramfs"), "-append", choices),
            *("-cpu", "qemu64,+rdrand", "-m", "128", "-serial", f"file:{self.console.path}"),
            *("-chardev", channel, "-device", "virtio-serial"),
            *("-device", f"virtserialport,chardev=qga,name={AGENT_CHANNEL}"),
        )
        self.uri = f"{self.uri}?agent={self.agent}"
        self.monitor("cont")

    def _make_images(self) -> None:
        make_system_disk(self.image("vda"), SYSTEM_DISK, FILLED)
        make_bare_disk(self.image("vdb"), BARE_DISK)


def free_port() -> int:
    """A port of the loopback address that nobody uses just now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
