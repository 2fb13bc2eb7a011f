"""Virtual machines without a guest system, run by an embedded libvirt: real QEMU, real checkpoints.

``qemu:///embed?root=DIR`` runs libvirt's QEMU driver inside this process, with all its state below DIR. A
process can open one such root only, and another process cannot open it at the same time. The machines
stand still before their firmware's first instruction; their disks are written through their own devices
by ``qemu-io`` in QEMU's monitor, so dirty bitmaps and copy-before-write see these writes like a guest's.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import signal
import subprocess
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple, Self

# libvirt reads these when its library is loaded; cgroup and security-label warnings would fill stderr.
os.environ.setdefault("LIBVIRT_LOG_OUTPUTS", "4:file:/dev/null")

import libvirt
import libvirt_qemu

from puller.hypervisor.connection import prepare_library
from tests.lab import capabilities

QEMU = "/usr/bin/qemu-system-x86_64"

_CONFIGURATION = f"""\
user = "+{os.getuid()}"
group = "+{os.getgid()}"
namespaces = []
cgroup_controllers = []
dynamic_ownership = 0
remember_owner = 0
security_driver = "none"
stdio_handler = "file"
"""

DONE = re.compile(r"^(?:wrote|discard) (\d+)/\1 bytes at offset \d+$", re.MULTILINE)


_NOTICE_SECONDS = 30.0

_PIDFD_GETFD = 438
"""The number of the system call, which Python does not have."""

_SLEEP_PORTS = (0x604, 0xB004)
"""Where firmware puts ACPI's sleep control of a q35 machine: SeaBIOS and others, by version."""


class MachineError(Exception):
    """A machine did not do what the test asked for."""


class DiskSpec(NamedTuple):
    """A disk to make: ``size`` in bytes; ``format`` is ``qcow2``, ``qcow2-v2`` (compat 0.10) or ``raw``.

    ``qcow2-falloc`` is one whose clusters are all there, so that a full copy takes its time.
    """

    target: str
    size: int
    format: str = "qcow2"


class EmbeddedLibvirt:
    """libvirt's QEMU driver in this process, with its state in ``root``, which should have a short path.

    The monitor socket of a machine is in ``root/lib/qemu/domain-<id>-<name>`` and must stay below 108 bytes.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "etc").mkdir(parents=True, exist_ok=True)
        (root / "etc" / "qemu.conf").write_text(_CONFIGURATION)
        self.uri = f"qemu:///embed?root={root}"
        capabilities.lend(root / "cache")
        prepare_library()
        self._connection = libvirt.open(self.uri)

    def close(self) -> None:
        self._connection.close()
        capabilities.keep(self.root / "cache")

    def machine(self, name: str, directory: Path, disks: Sequence[DiskSpec]) -> Machine:
        """Make the images in ``directory``, define the machine and start it, standing still."""
        for spec in disks:
            make_image(image_path(directory, name, spec.target), spec)
        handle = self._connection.defineXML(domain_xml(name, directory, disks))
        machine = Machine(handle, self.root, directory)
        machine.start()
        return machine


class Machine:
    """A defined domain; ``handle`` is libvirt's. Disks have stable ids made of their targets."""

    def __init__(self, handle: Any, root: Path, directory: Path) -> None:
        self.handle = handle
        self.name: str = handle.name()
        self.uuid: str = handle.UUIDString()
        self._root = root
        self._directory = directory

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *unused: object) -> None:
        self.destroy()

    def start(self) -> None:
        with _adopting():
            self.handle.createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED)

    def define(self, xml: str) -> None:
        """Replace the definition, which counts from the next start on."""
        self.handle = self.handle.connect().defineXML(xml)

    def resume(self) -> None:
        """Let the processor run: the firmware looks for something to boot and finds nothing."""
        self.handle.resume()

    def stop(self) -> None:
        """End QEMU in order: it stores the dirty bitmaps in the images."""
        with _reaping(self.pid()):
            self._power_off()

    def save(self) -> None:
        """End QEMU with all its state saved, so that the next start goes on from it."""
        with _reaping(self.pid()):
            self.handle.managedSave()

    def kill(self) -> None:
        """End QEMU at once, as a crash does, and wait until libvirt has seen it by itself.

        A ``destroy`` here would race with that: libvirt 9.0 may come to the end of the old QEMU only after
        the next one has started, and then ends that.
        """
        self.crash()
        deadline = time.monotonic() + _NOTICE_SECONDS
        while self.handle.isActive():
            if time.monotonic() > deadline:
                raise MachineError(f"{self.name}: libvirt has not noticed that QEMU was killed")
            time.sleep(0.005)

    def crash(self) -> None:
        """End QEMU at once; libvirt may have to notice it still."""
        pid = self.pid()
        with _holding_sockets(pid):
            os.kill(pid, signal.SIGKILL)
            _reap(pid)

    def shut_down_from_inside(self) -> None:
        """Let the guest switch the machine off, and wait until libvirt has seen it.

        That is a write to the port of ACPI's power management, which the firmware has to set up before.
        """
        Thread(target=_reap, args=(self.pid(),), daemon=True).start()  # now, or when its job has ended
        self.resume()
        deadline = time.monotonic() + _NOTICE_SECONDS
        while self._runs():
            if time.monotonic() > deadline:
                raise MachineError(f"{self.name} does not shut down")
            human = libvirt_qemu.VIR_DOMAIN_QEMU_MONITOR_COMMAND_HMP
            for port in _SLEEP_PORTS:
                with suppress(libvirt.libvirtError):  # it has just gone
                    libvirt_qemu.qemuMonitorCommand(self.handle, f"o /h {port:#x} 0x2000", human)
            time.sleep(0.01)

    def _runs(self) -> bool:
        try:
            return bool(self.handle.state()[0] == libvirt.VIR_DOMAIN_RUNNING)
        except libvirt.libvirtError:
            return False

    def destroy(self) -> None:
        """Take the machine away, with all that libvirt knows of it."""
        if self.handle.isActive():
            self.kill()
        self.handle.undefineFlags(
            libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA | libvirt.VIR_DOMAIN_UNDEFINE_KEEP_NVRAM
        )

    def image(self, target: str) -> Path:
        return image_path(self._directory, self.name, target)

    def write(self, target: str, pattern: int, offset: int, length: int) -> None:
        """Fill a range with the byte ``pattern``."""
        self._qemu_io(target, f"write -P {pattern} {offset} {length}")

    def copy_in(self, target: str, source: Path, offset: int, length: int) -> None:
        """Fill a range with what the file ``source`` begins with."""
        self._qemu_io(target, f"write -s {source} {offset} {length}")

    def write_zeroes(self, target: str, offset: int, length: int) -> None:
        """Write zeroes by the command that needs no data; the blocks stay allocated."""
        self._qemu_io(target, f"write -z {offset} {length}")

    def unmap_zeroes(self, target: str, offset: int, length: int) -> None:
        """Write zeroes by the command that needs no data, and let the blocks go."""
        self._qemu_io(target, f"write -z -u {offset} {length}")

    def discard(self, target: str, offset: int, length: int) -> None:
        """Trim a range, which reads as zeroes from then on."""
        self._qemu_io(target, f"discard {offset} {length}")

    def flush(self) -> None:
        """What a guest does every few seconds: the images on the host's file system are whole then."""
        for disk in ET.fromstring(self.handle.XMLDesc()).findall("./devices/disk/target"):
            self._tell_device(disk.attrib["dev"], "flush")

    @contextmanager
    def exported(self, socket: Path) -> Iterator[dict[str, str]]:
        """The disks as they are now, each at an NBD URI, by target: a pull job without a checkpoint."""
        xml = f"<domainbackup mode='pull'><server transport='unix' socket='{socket}'/></domainbackup>"
        self.handle.backupBegin(xml, None, 0)
        try:
            disks = ET.fromstring(self.handle.backupGetXMLDesc()).findall("./disks/disk[@backup='yes']")
            yield {
                disk.attrib["name"]: f"nbd+unix:///{disk.attrib['name']}?socket={socket}" for disk in disks
            }
        finally:
            self.handle.abortJob()
            with suppress(libvirt.libvirtError):  # until there is none
                while self.handle.backupGetXMLDesc():
                    time.sleep(0.005)
            socket.unlink(missing_ok=True)

    def brake(self, target: str) -> None:
        """Let QEMU read no more than 128 MiB/s of a qcow2 disk, so that a push of 1 GiB is not over at once.

        What :meth:`slow_push` asks for can only be asked of a job that runs.
        """
        node = self._format_node(target)["node-name"]
        group, limits = f"brake-{target}", {"bps-read": 128 << 20}
        self.monitor("object-add", **{"qom-type": "throttle-group", "id": group, "limits": limits})
        storage = node.replace("-format", "-storage")
        throttle = {"driver": "throttle", "node-name": group, "throttle-group": group, "file": storage}
        self.monitor("blockdev-add", **throttle)
        reopened = {"driver": "qcow2", "node-name": node, "discard": "unmap", "file": group}
        self.monitor("blockdev-reopen", options=[reopened])

    def slow_push(self) -> None:
        """Let the push job that runs copy next to nothing any more; disks that it is done with stay so."""
        jobs = [job["device"] for job in self.monitor("query-block-jobs") if job["status"] == "running"]
        if not [job for job in jobs if self._slow_down(job)]:
            raise MachineError(f"{self.name} runs no block job")

    def _slow_down(self, job: str) -> bool:
        try:
            self.monitor("block-job-set-speed", device=job, speed=1)
        except MachineError as error:
            if "DeviceNotActive" in str(error) or "'concluded'" in str(error):  # it has ended just now
                return False
            raise
        return True

    def bitmaps(self, target: str) -> set[str]:
        """Names of the dirty bitmaps of a disk that QEMU knows now, broken ones too."""
        bitmaps = self._format_node(target).get("dirty-bitmaps", [])
        return {bitmap["name"] for bitmap in bitmaps if "name" in bitmap}  # a job's own has none

    def lose_bitmap(self, target: str, name: str) -> None:
        """Remove a dirty bitmap behind libvirt's back."""
        self.monitor("block-dirty-bitmap-remove", node=self.node(target), name=name)

    def forget_checkpoints(self) -> None:
        """Remove libvirt's records of all checkpoints; the bitmaps stay."""
        for checkpoint in self.handle.listAllCheckpoints():
            checkpoint.delete(libvirt.VIR_DOMAIN_CHECKPOINT_DELETE_METADATA_ONLY)

    def occupy_exports(self, directory: Path) -> None:
        """Take the names that libvirt gives the next NBD exports: a begin fails at its last step then."""
        node = self.monitor("query-named-block-nodes")[0]["node-name"]
        for number in range(1, 30):
            self.monitor(
                "block-export-add",
                **{
                    "type": "vhost-user-blk",
                    "id": f"libvirt-nbd-libvirt-{number}-format",
                    "node-name": node,
                    "addr": {"type": "unix", "path": str(directory / f"vhost-{number}")},
                },
            )

    def node(self, target: str) -> str:
        """QEMU's name of the block node that is the disk's image."""
        return str(self._format_node(target)["node-name"])

    def monitor(self, command: str, **arguments: Any) -> Any:
        """What QEMU's monitor answers to a QMP command. Raises :class:`MachineError` if it refuses."""
        request = json.dumps({"execute": command, "arguments": arguments})
        answer = json.loads(libvirt_qemu.qemuMonitorCommand(self.handle, request, 0))
        if "return" not in answer:
            raise MachineError(f"{command}: {answer}")
        return answer["return"]

    def _format_node(self, target: str) -> dict[str, Any]:
        image = str(self.image(target))
        nodes = [node for node in self.monitor("query-named-block-nodes") if node["file"] == image]
        # libvirt 11 puts no raw node above the file of a raw image.
        return dict(next((node for node in nodes if node["drv"] in ("qcow2", "raw")), nodes[0]))

    def _power_off(self) -> None:
        with suppress(libvirt.libvirtError):  # "not running": libvirt saw the end of QEMU by itself
            self.handle.destroy()
        if self.handle.isActive():
            raise MachineError(f"{self.name} does not stop")

    def _qemu_io(self, target: str, command: str) -> None:
        """Run a ``qemu-io`` command on the device, as the guest's driver would reach it.

        QEMU answers such a command with nothing and prints the outcome to its stdout, which is the
        domain's log; it is line-buffered (see domain_xml), so it is there when the answer is.
        """
        log = self._root / "log" / "qemu" / f"{self.name}.log"
        before = log.stat().st_size
        answer = self._tell_device(target, command)
        said = log.read_bytes()[before:].decode(errors="replace")
        if answer or not DONE.search(said):
            raise MachineError(f"{self.name}: {command} on {target}: {answer} {said}".strip())

    def _tell_device(self, target: str, command: str) -> str:
        line = f'qemu-io -d /machine/peripheral/ua-{target}/virtio-backend "{command}"'
        human = libvirt_qemu.VIR_DOMAIN_QEMU_MONITOR_COMMAND_HMP
        return str(libvirt_qemu.qemuMonitorCommand(self.handle, line, human))

    def pid(self) -> int:
        """Of QEMU."""
        return int((self._root / "run" / "qemu" / f"{self.name}.pid").read_text())


@contextmanager
def _adopting() -> Iterator[None]:
    """Become the parent of processes that leave their own meanwhile (``PR_SET_CHILD_SUBREAPER``, prctl(2)).

    libvirt waits until a QEMU that it ended is no more, zombies included, and looks each 200 ms. Where
    process 1 is slow to bury its orphans, that would cost every test a second or two.
    """
    prctl, subreaper = ctypes.CDLL(None).prctl, 36
    prctl(subreaper, 1, 0, 0, 0)
    try:
        yield
    finally:
        prctl(subreaper, 0, 0, 0, 0)


def _reap(pid: int) -> None:
    """Wait for the end of a QEMU; fine if it is not a child of this process."""
    with suppress(ChildProcessError):
        os.waitpid(pid, 0)


@contextmanager
def _holding_sockets(pid: int) -> Iterator[None]:
    """Keep a QEMU's sockets open meanwhile, so that libvirt learns of its end once it is buried.

    libvirt looks for the process as soon as the monitor's socket is closed, and if there is a zombie still,
    again after 200 ms. Where the kernel has no ``pidfd_getfd`` (5.6) or denies it, libvirt does that.
    """
    process = os.pidfd_open(pid)
    with ExitStack() as stack:
        stack.callback(os.close, process)
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            if entry.is_socket():
                held = ctypes.CDLL(None).syscall(_PIDFD_GETFD, process, int(entry.name), 0)
                if held >= 0:
                    stack.callback(os.close, held)
        yield


@contextmanager
def _reaping(pid: int) -> Iterator[None]:
    """Bury a QEMU that ends meanwhile, and wait for its end."""
    reaper = Thread(target=_reap, args=(pid,))
    reaper.start()
    yield
    reaper.join()


def reference(uri: str, path: Path) -> Path:
    """Copy all of an NBD export to the raw file ``path``, by a reader that shares no code with puller."""
    subprocess.run(["nbdcopy", uri, str(path)], check=True, capture_output=True)
    return path


def image_path(directory: Path, name: str, target: str) -> Path:
    """Where the image of a machine's disk is."""
    return directory / f"{name}-{target}.img"


_OPTIONS = {"": (), "v2": ("-o", "compat=0.10"), "falloc": ("-o", "preallocation=falloc")}


def make_image(path: Path, spec: DiskSpec) -> None:
    kind, _, version = spec.format.partition("-")
    options = _OPTIONS[version]
    subprocess.run(["qemu-img", "create", "-q", "-f", kind, *options, str(path), str(spec.size)], check=True)


@cache
def line_buffering() -> tuple[tuple[str, str], ...]:
    """The environment in which stdbuf(1) runs a program with line-buffered stdout, ahead of ours."""
    printed = subprocess.run(["stdbuf", "-oL", "env"], check=True, capture_output=True, text=True).stdout
    variables = dict(line.partition("=")[::2] for line in printed.splitlines())
    return tuple((name, variables[name]) for name in ("LD_PRELOAD", "_STDBUF_O"))


def domain_xml(name: str, directory: Path, disks: Sequence[DiskSpec]) -> str:
    """The definition of a machine, whose images are in ``directory``."""
    root = ET.Element("domain", type="qemu")
    ET.SubElement(root, "name").text = name
    ET.SubElement(root, "memory", unit="MiB").text = "32"
    ET.SubElement(ET.SubElement(root, "os"), "type", arch="x86_64", machine="q35").text = "hvm"
    devices = ET.SubElement(root, "devices")
    ET.SubElement(devices, "emulator").text = QEMU
    ET.SubElement(devices, "controller", type="usb", model="none")
    ET.SubElement(devices, "memballoon", model="none")
    for spec in disks:
        disk = ET.SubElement(devices, "disk", type="file", device="disk")
        ET.SubElement(disk, "driver", name="qemu", type=spec.format.partition("-")[0], discard="unmap")
        ET.SubElement(disk, "source", file=str(image_path(directory, name, spec.target)))
        ET.SubElement(disk, "target", dev=spec.target, bus="virtio")
        ET.SubElement(disk, "alias", name=f"ua-{spec.target}")
    command = ET.SubElement(root, "{http://libvirt.org/schemas/domain/qemu/1.0}commandline")
    for variable, value in line_buffering():
        ET.SubElement(command, "{http://libvirt.org/schemas/domain/qemu/1.0}env", name=variable, value=value)
    return ET.tostring(root, encoding="unicode")
