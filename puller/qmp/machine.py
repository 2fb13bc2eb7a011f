"""A virtual machine of a QEMU without libvirt: who it is, and what it has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from puller.cancelling import CancelScope, Scoped
from puller.errors import HypervisorError, MonitorRefused, NoSuchDomain, UnsupportedDisk
from puller.host.access import LOCAL, HostAccess
from puller.hypervisor.domain.checkpoint import OWN
from puller.hypervisor.domain.disks.disk import Disk, select
from puller.hypervisor.domain.facts import disk_facts
from puller.qmp.address import parse
from puller.qmp.drives import Drive, parse_drives
from puller.qmp.monitor import Monitor

OLDEST = (5, 2)
"""The first QEMU with ``block-export-add``."""

_NO_UUID = "00000000-0000-0000-0000-000000000000"


class QemuHost(Scoped):
    """The connection to one QEMU. A context that closes it."""

    def __init__(self, monitor: Monitor, uri: str) -> None:
        self.monitor = monitor
        self.uri = uri
        self.scope = monitor.scope

    @classmethod
    def connect(cls, uri: str, scope: CancelScope | None = None) -> Self:
        """Open ``uri``. Raises UsageError, DomainNotRunning if nothing listens there, HypervisorError."""
        return cls(Monitor.connect(parse(uri), scope), uri)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.monitor.close()

    def is_alive(self) -> bool:
        """Return whether the connection is open, as far as is known."""
        return self.monitor.is_alive()

    def machine(self) -> QemuMachine:
        """Return the machine of this QEMU. Raises HypervisorError if it has no name or UUID."""
        name = self.monitor.ask("query-name").get("name")
        uuid = self.monitor.ask("query-uuid")["UUID"]
        if not name or uuid == _NO_UUID:
            what = "UUID" if name else "name"
            raise HypervisorError(
                f"QEMU at {self.monitor.address} has no {what}, by which puller could know it again",
                advice="Start it with -name NAME and -uuid UUID, the same at each start.",
            )
        return QemuMachine(self.monitor, name, uuid)

    def named(self, name: str) -> QemuMachine:
        """Return the machine if it has this name or UUID. Raises NoSuchDomain."""
        machine = self.machine()
        if name not in (machine.name, machine.uuid):
            raise NoSuchDomain(
                f"QEMU at {self.monitor.address} is domain {machine.name}, not {name}",
                advice=f"Name it {machine.name}, or give the socket of {name} with --connect.",
            )
        return machine


@dataclass(frozen=True, slots=True)
class QemuMachine:
    """The machine behind a monitor."""

    monitor: Monitor
    name: str
    uuid: str

    @property
    def host(self) -> HostAccess:
        """The host where it runs: this one."""
        return LOCAL

    @property
    def scope(self) -> CancelScope:
        """The scope of its waits."""
        return self.monitor.scope

    def version(self) -> tuple[int, int, int]:
        """Return the version of QEMU."""
        found = self.monitor.ask("query-version")["qemu"]
        return found["major"], found["minor"], found["micro"]

    def require_version(self) -> None:
        """Raise HypervisorError if this QEMU is too old."""
        version = self.version()
        if version[:2] < OLDEST:
            text = ".".join(map(str, version))
            raise HypervisorError(
                f"QEMU {text} of domain {self.name} is too old for backups without libvirt",
                advice=f"Start the machine with QEMU {OLDEST[0]}.{OLDEST[1]} or later.",
            )

    def is_running(self) -> bool:
        """Return whether the guest's processors run."""
        return bool(self.monitor.ask("query-status")["running"])

    def run_id(self) -> str:
        """Return a text that is new after each start of this QEMU."""
        process = self.monitor.process
        number = process.pid if process is not None and _is_qemu(process.pid) else self._thread()
        return f"{number} {_started(number)}"

    def _thread(self) -> int:
        """Return the thread of the first processor, where the monitor does not tell QEMU's own process."""
        return int(self.monitor.ask("query-cpus-fast")[0]["thread-id"])

    def user(self) -> tuple[int, int] | None:
        """Return the user and group that QEMU runs as, by number; None if the monitor does not tell."""
        process = self.monitor.process
        if process is None:
            return None
        with suppress(OSError):  # since it created the socket, it may have become another user (-runas)
            if _is_qemu(process.pid):
                found = Path(f"/proc/{process.pid}").stat()
                return found.st_uid, found.st_gid
        return process.uid, process.gid

    def takes(self, command: str, argument: str) -> bool:
        """Return whether a command of this QEMU has the argument, by QEMU's own schema."""
        schema = {item["name"]: item for item in self.monitor.ask("query-qmp-schema")}
        members = schema[schema[command]["arg-type"]]["members"]
        return any(member["name"] == argument for member in members)

    def command_line(self) -> tuple[str, ...] | None:
        """Return the words with which QEMU was started; None if its process cannot be read."""
        process = self.monitor.process
        if process is None or not _is_qemu(process.pid):
            return None
        try:
            words = Path(f"/proc/{process.pid}/cmdline").read_bytes().split(b"\0")[:-1]
        except OSError:
            return None
        return tuple(word.decode(errors="replace") for word in words)

    def has_tpm(self) -> bool:
        """Return whether the machine has a TPM, whose state QEMU does not show."""
        try:
            return bool(self.monitor.ask("query-tpm"))
        except MonitorRefused:  # a QEMU that was built without any
            return False

    def drives(self) -> tuple[Drive, ...]:
        """Return all block devices as they are now. Raises HypervisorError, UnsupportedDisk."""
        blocks = self.monitor.ask("query-block")
        kinds = {block["qdev"]: self._kind(block["qdev"]) for block in blocks if _may_pass_through(block)}
        nodes = self.monitor.ask("query-named-block-nodes", {"flat": True})
        return parse_drives(blocks, nodes, kinds)

    def open_files(self) -> tuple[str, ...]:
        """Return the paths of all files and devices that QEMU has open as images."""
        nodes = self.monitor.ask("query-named-block-nodes", {"flat": True})
        return tuple(dict.fromkeys(node["file"] for node in nodes if node["file"].startswith("/")))

    def select_disks(
        self, include: Sequence[str], exclude: Sequence[str], exclude_if_present: Sequence[str] = ()
    ) -> tuple[Disk, ...]:
        """Return the disks that a backup takes, with facts about their images; see ``select``."""
        drives = {drive.disk.target: drive for drive in self.drives()}
        disks = [drive.disk for drive in drives.values()]
        chosen = select(self.name, disks, include, exclude, exclude_if_present)
        for disk in chosen:
            if drives[disk.target].encrypted:
                raise UnsupportedDisk(
                    f"cannot back up disk {disk.target} of domain {self.name}: its image is encrypted, and "
                    "without libvirt the scratch is not",
                    advice=f"Leave it out with --exclude-disk {disk.target}, or run the machine by libvirt.",
                )
        run = self.run_id()
        return tuple(replace(disk, facts=replace(disk_facts(disk, self), qemu=run)) for disk in chosen)

    def bitmaps(self, prefix: str = OWN) -> Iterator[tuple[Drive, str]]:
        """Yield each disk with the name of each of its bitmaps that begins with ``prefix``."""
        for drive in self.drives():
            yield from ((drive, bitmap.name) for bitmap in drive.bitmaps if bitmap.name.startswith(prefix))

    def remove_bitmap(self, drive: Drive, name: str) -> None:
        """Remove a bitmap. Raises MonitorRefused."""
        doing = f"cannot remove bitmap {name} of disk {drive.disk.target} of domain {self.name}"
        self.monitor.ask("block-dirty-bitmap-remove", {"node": drive.node, "name": name}, doing)

    def _kind(self, device: str) -> str:
        try:
            return str(self.monitor.ask("qom-get", {"path": device, "property": "type"}))
        except MonitorRefused:
            return ""


def _may_pass_through(block: Any) -> bool:
    return "qdev" in block and (block.get("inserted") or {}).get("file", "").startswith(("/dev/", "json:"))


def _started(pid: int) -> str:
    """Return when a process was started, in the kernel's ticks; empty if that cannot be read."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def _is_qemu(pid: int) -> bool:
    """Whoever created the socket may have handed it to QEMU, or be in another namespace of processes."""
    try:
        return "qemu" in Path(f"/proc/{pid}/exe").readlink().name
    except OSError:
        return False
