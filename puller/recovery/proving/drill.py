"""One restore drill: serve, start, wait for evidence, take a picture, throw everything away."""

from __future__ import annotations

import platform
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from puller.configuration.evidence import AGENT, FILESYSTEMS, LOGIN, Evidence
from puller.errors import (
    ApplianceFailed,
    CannotDrill,
    DamagedData,
    HypervisorError,
    NotStartable,
    OutputFailed,
    UsageError,
)
from puller.events import Event, Notice, Observer, Step
from puller.host.priority import lower
from puller.host.qemu import Failure, qemu_img
from puller.hypervisor.connection import Host
from puller.hypervisor.domain.definition.drill_xml import (
    DrillMachine,
    emulated,
    for_drill,
    macs_of,
    memory_of,
    offers_of,
)
from puller.hypervisor.domain.definition.restoredxml import Copy, DiskSource, NbdExport, adapt
from puller.hypervisor.domain.domain import Domain
from puller.hypervisor.domain.lifecycle import destroy, resume
from puller.hypervisor.guest.ending import yield_to_others
from puller.hypervisor.guest.screen import screenshot
from puller.hypervisor.uri import configuration_directory
from puller.recovery import definition
from puller.recovery.attachments import read_attachment
from puller.recovery.booting.qemu_socket import give_to_qemu, socket_in
from puller.recovery.firmware_files import NVRAM, TPM, VARSTORE, FirmwarePlaces
from puller.recovery.proving.consoles import Consoles
from puller.recovery.proving.examining import examine
from puller.recovery.proving.picture import png_of
from puller.recovery.proving.waiting import Seen, wait_for, waiter_for
from puller.recovery.proving.workplace import machine_name, require_space, tpm_directory, workplace
from puller.recovery.serving.server import Server, Service
from puller.repository.points import Point
from puller.repository.records.proofs import LONGEST_LOG, Proof, fitted
from puller.repository.repository import Repository
from puller.units import MIB

TIMEOUT = 300.0
"""Default for the seconds within which a guest has to give its evidence."""

RESERVED_MEMORY = 512 * MIB
"""Bytes that a drill leaves to the host."""

_OUTAGES = ("the store does not answer", "cannot read disk")
"""Beginnings of the server's notices that the guest waits for its disk, or has got an error from it."""

_IMAGE_SECONDS = 60.0
_START_ADVICE = "Read libvirt's message: this host may lack what the machine needs, such as its firmware."


@dataclass(frozen=True, slots=True)
class Conditions:
    """Conditions of a drill.

    Attributes:
        connect: Connection URI of libvirt.
        directory: Directory for what the drill writes on this host.
        evidence: What to wait for; None for the first that the guest offers.
        timeout: Seconds to wait.
        memory: Most memory of the machine in KiB; None for that of the domain.
        emulate: Whether QEMU may emulate the processor of a machine that wants KVM.
    """

    connect: str
    directory: Path
    evidence: Evidence | None = None
    timeout: float = TIMEOUT
    memory: int | None = None
    emulate: bool = False


def drill(
    repository: Repository, point: Point, conditions: Conditions, host: Host, observer: Observer
) -> Proof:
    """Hold a drill of ``point`` and return its verdict; nothing is left of it, and nothing is stored yet.

    A machine that cannot be started here is proven in part: by its file systems. Raises CannotDrill,
    UsageError, HypervisorError, OutputFailed, StoreError: these say nothing about the point.
    """
    found = _Drill(repository, point, conditions, host, observer)
    try:
        return found.run()
    except DamagedData as error:
        return found.verdict(Seen(None, 0.0, f"the point is damaged: {error.message}"))
    except NotStartable as error:
        observer(
            Notice(point.point, f"the machine is not started, its file systems are checked: {error.message}")
        )
        return _examined(repository, point, error, observer)


def _examined(repository: Repository, point: Point, why: CannotDrill, observer: Observer) -> Proof:
    """Return the verdict on the file systems of a machine that could not be started. Raises CannotDrill."""
    try:
        found = examine(repository, point, observer)
    except ApplianceFailed as error:
        text = f"{why.message}; and its file systems cannot be checked: {error.message.rstrip('.')}"
        raise CannotDrill(text, advice=error.advice) from error
    if found.encrypted:
        devices = ", ".join(found.encrypted)
        raise CannotDrill(f"{why.message}; and its file systems cannot be checked: {devices} is encrypted")
    reason = found.fault or f"not started: {why.message}"
    return fitted(
        Proof(
            datetime.now(UTC),
            "failed" if found.fault else "partial",
            point.domain,
            platform.node(),
            FILESYSTEMS,
            None,
            reason,
            found.log,
        )
    )


class _Drill:
    def __init__(
        self, repository: Repository, point: Point, conditions: Conditions, host: Host, observer: Observer
    ) -> None:
        self._repository = repository
        self._point = point
        self._conditions = conditions
        self._host = host
        self._observer = observer
        self._wanted: tuple[Evidence, ...] = ()
        self._damage = ""
        self._outage = ""

    def run(self) -> Proof:
        """Hold it."""
        held = self._attachments()
        original = held[definition.SOURCE].decode()
        self._wanted = _evidence(original, self._conditions.evidence, self._point.domain)
        is_emulated = self._require_host(original)
        self._require_memory(original)
        with workplace(self._conditions.directory, self._host) as (identity, folder):
            require_space(folder)
            firmware = FirmwarePlaces(
                folder / NVRAM if NVRAM in held else None,
                folder / VARSTORE if VARSTORE in held else None,
                tpm_directory(identity, self._host) if TPM in held else None,
            )
            self._step("serve")
            socket = socket_in(folder, folder.name)
            with Server(self._repository, self._point, Service(socket=socket), self._hear) as server:
                lower(server.pid)
                give_to_qemu(socket, self._host.uri)
                xml = self._xml(original, identity, folder, firmware, is_emulated)
                firmware.write(held, configuration_directory(self._host.uri))
                return self._hold(xml, folder, server)

    def _attachments(self) -> dict[str, bytes]:
        needed = {definition.SOURCE, NVRAM, VARSTORE, TPM}
        items = [item for item in self._point.attachments if item.name in needed]
        held = {item.name: read_attachment(self._repository, item) for item in items}
        if definition.SOURCE not in held:
            raise CannotDrill(
                f"point {self._point.point} has no {definition.SOURCE}, so its machine cannot be started",
                advice="Restore the disks, and start a domain on them by hand.",
            )
        return held

    def _require_memory(self, xml: str) -> None:
        wanted = memory_of(xml, self._conditions.memory) * 1024
        free = _available_memory()
        if free is not None and wanted + RESERVED_MEMORY > free:
            raise CannotDrill(
                f"cannot drill {self._point.domain}: it wants {wanted // MIB} MiB of memory, and the "
                f"host has {free // MIB} MiB free, of which it keeps 512 MiB",
                advice="Choose less with --memory, or drill when the host has more.",
            )

    def _require_host(self, xml: str) -> bool:
        """Return whether QEMU has to emulate the processor. Raises CannotDrill."""
        why = self._host.why_it_cannot_run(xml)
        if why is None:
            return False
        if self._conditions.emulate and self._host.why_it_cannot_run(emulated(xml)) is None:
            return True
        raise NotStartable(f"this host cannot run {self._point.domain}: {why}")

    def _xml(
        self, original: str, identity: str, folder: Path, firmware: FirmwarePlaces, is_emulated: bool
    ) -> str:
        socket = socket_in(folder, folder.name)
        sources = {}
        for disk in self._point.disks:
            overlay = folder / f"{disk.disk}.qcow2"
            failure = Failure(OutputFailed, f"cannot make the overlay {overlay}")
            words = ["create", "-q", "-f", "qcow2", str(overlay), str(disk.size)]
            qemu_img(words, _IMAGE_SECONDS, failure, umask=0o077)
            sources[disk.disk] = DiskSource(overlay, "qcow2", NbdExport(socket, disk.disk))
        copy = Copy(machine_name(self._point.domain, identity), identity)
        adapted = adapt(original, sources, firmware.nvram, copy, varstore=firmware.varstore)
        ports = [evidence.port for evidence in self._wanted if evidence.port is not None]
        memory, port = self._conditions.memory, ports[0] if ports else None
        machine = DrillMachine(folder, frozenset(sources), macs_of(original), memory, port)
        return for_drill(emulated(adapted.xml) if is_emulated else adapted.xml, machine)

    def _hold(self, xml: str, folder: Path, server: Server) -> Proof:
        self._step("start")
        try:
            domain = self._host.start_transient(xml, _START_ADVICE)
        except HypervisorError as error:
            raise NotStartable(error.message, advice=error.advice) from error
        consoles = Consoles(folder)
        try:
            yield_to_others(domain)
            facts = {
                "PULLER_DOMAIN": self._point.domain,
                "PULLER_POINT": self._point.point,
                "PULLER_CONNECT": self._conditions.connect,
            }
            waiters = [(item, waiter_for(item, domain, consoles, facts)) for item in self._wanted]
            resume(domain)
            self._step("wait")

            def check() -> None:
                require_space(folder)
                server.require_running()

            seen = wait_for(waiters, domain, consoles, self._conditions.timeout, check)
            consoles.read()
            return self.verdict(seen, consoles.log(LONGEST_LOG), _picture(domain))
        finally:
            destroy(domain)

    def verdict(self, seen: Seen, log: str = "", picture: bytes | None = None) -> Proof:
        """Return what was found out. Raises CannotDrill if the guest had to wait for the store."""
        given = seen.evidence
        if given is None and self._outage:
            raise CannotDrill(
                f"cannot tell whether {self._point.domain} starts ({seen.reason}), because the store failed "
                f"meanwhile: {self._outage}",
                advice="Check that the store runs and can be reached, then drill again.",
            )
        reason = "" if given else "; ".join(filter(None, (seen.reason, self._damage)))
        return fitted(
            Proof(
                datetime.now(UTC),
                "proven" if given else "failed",
                self._point.domain,
                platform.node(),
                str(given) if given else " or ".join(map(str, self._wanted)),
                seen.seconds if given else None,
                reason,
                log,
                picture,
            )
        )

    def _hear(self, event: Event) -> None:
        """Remember what the server says about damage and outages: it explains why the guest did not start."""
        if isinstance(event, Notice):
            if "damage" in event.text:
                self._damage = event.text
            elif event.text.startswith(_OUTAGES):
                self._outage = event.text
        self._observer(event)

    def _step(self, name: str) -> None:
        self._observer(Step(self._point.point, name))


def _evidence(xml: str, chosen: Evidence | None, domain: str) -> tuple[Evidence, ...]:
    """Return what to wait for: what was chosen, or all that the guest offers."""
    if chosen is not None:
        return (chosen,)
    offers = offers_of(xml)
    found = [Evidence(AGENT)] * offers.agent + [LOGIN] * offers.console
    if not found:
        raise UsageError(
            f"cannot drill {domain}: it has neither a channel for the guest agent nor a serial console",
            advice="Choose the evidence with --evidence, or in [prove.evidence].",
        )
    return tuple(found)


def _picture(domain: Domain) -> bytes | None:
    try:
        return png_of(screenshot(domain))
    except HypervisorError:
        return None  # the machine has ended


def _available_memory() -> int | None:
    """Return how many bytes of memory the host can give without swapping; None if it does not say."""
    try:
        text = Path("/proc/meminfo").read_text()
    except OSError:
        return None
    found = re.search(r"^MemAvailable:\s+(\d+) kB$", text, re.MULTILINE)
    return None if found is None else int(found[1]) * 1024
