"""A machine booted from a restore point.

::

    refuse ─► directory, record ─► server ─► overlays, firmware, TPM ─► define ─► start paused ─► wait ─► run
                                      └───────────── starts meanwhile ────────────────┘

Whatever fails, all of it is removed again; after a kill, the record says what there is to remove.
"""

from __future__ import annotations

import platform
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from puller.errors import (
    DomainExists,
    HypervisorError,
    KeyNotHeld,
    NoSuchPoint,
    OutputRefused,
    PullerError,
)
from puller.events import Notice, Observer
from puller.host.qemu import Failure, qemu_img
from puller.host.runtime import runtime_directory
from puller.hypervisor.connection import Host
from puller.hypervisor.domain import lifecycle
from puller.hypervisor.domain.definition.memory import with_memory
from puller.hypervisor.domain.definition.reconnect import wait_for_server, waits_by_itself
from puller.hypervisor.domain.definition.restoredxml import (
    Copy,
    DiskSource,
    NbdExport,
    Networks,
    RestoredDomain,
    adapt,
    networks_of,
)
from puller.hypervisor.domain.domain import Domain
from puller.hypervisor.uri import configuration_directory, state_directory
from puller.recovery import definition, firmware_files
from puller.recovery.attachments import read_attachment
from puller.recovery.booting import image_server, record
from puller.recovery.booting.discard import remove_after_failure
from puller.recovery.booting.held import machine_held
from puller.recovery.booting.networks import require_active
from puller.recovery.booting.qemu_socket import socket_in
from puller.recovery.booting.record import Booted, BootedDisk
from puller.recovery.booting.wholeness import server_behind
from puller.recovery.firmware_files import NVRAM, TPM, VARSTORE, FirmwarePlaces
from puller.recovery.targets import outputs
from puller.repository.points import Point
from puller.repository.records.kept import Keep, new_name
from puller.repository.repository import Repository

_IMAGE_SECONDS = 60.0
_INTERFACES = Path("/sys/class/net")


@dataclass(frozen=True, slots=True)
class BootRequest:
    """How to boot a point.

    ``network`` is the libvirt network to connect to; without it the cables are out. ``memory`` is in bytes.
    ``environment`` has the variables that lead the server to the store.
    """

    connect: str
    name: str | None = None
    network: str | None = None
    memory: int | None = None
    storage: Path | None = None
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BootedMachine:
    """A machine that runs: its record, and the seconds until its guest began to run."""

    record: Booted
    seconds: float


def boot(repository: Repository, point: Point, wanted: BootRequest, observer: Observer) -> BootedMachine:
    """Boot ``point``. If that fails, nothing is left.

    Raises DomainExists, OutputRefused, HypervisorError, ServeFailed, DamagedData, StoreError.
    """
    began = time.monotonic()
    if not repository.keys.can_read_data:
        raise KeyNotHeld("cannot read stored guest data with this key: its role is backup-only")
    held = _attachments(repository, point)
    with Host.connect(wanted.connect, repository.scope) as host:
        booted = _Booting(repository, point, held, wanted, host, observer).run()
    return BootedMachine(booted, time.monotonic() - began)


class _Booting:
    def __init__(  # noqa: PLR0913, PLR0917 - what a boot is made of
        self,
        repository: Repository,
        point: Point,
        held: dict[str, bytes],
        wanted: BootRequest,
        host: Host,
        observer: Observer,
    ) -> None:
        self._repository = repository
        self._point = point
        self._wanted = wanted
        self._host = host
        self._observer = observer
        self._held = held
        self._name = self._free_name()
        self._uuid = str(uuid.uuid4())
        self._firmware = self._firmware_places()
        self._firmware.refuse_existing(self._held)

    def run(self) -> Booted:
        self._booted = self._record(record.folder_for(self._wanted.storage, self._name))
        with machine_held(self._booted):
            record.make_folder(self._wanted.storage, self._name)
            try:
                record.write(self._booted)
                self._boot()
            except BaseException:
                remove_after_failure(self._booted, self._host, self._repository, self._observer)
                raise
        return self._booted

    def _boot(self) -> None:
        booted = self._booted
        xml = self._domain(booted)  # whatever is refused is refused before anything is started
        require_active(xml, self._host)
        image_server.start(booted, self._repository, self._point, self._wanted.environment)
        self._keep()
        for disk in booted.disks:
            make_overlay(booted, disk)
        self._firmware.write(self._held, configuration_directory(self._wanted.connect))
        domain = self._host.define(xml, "Correct what it names, then boot the point again.")
        self._tell_closed(booted)
        image_server.wait_ready(booted, self._repository.scope)
        run_guest(domain)
        self._note(state="running")

    def _note(self, **changes: Any) -> None:
        self._booted = msgspec.structs.replace(self._booted, **changes)
        record.write(self._booted)

    def _free_name(self) -> str:
        """The name that was asked for, or one made of the domain's; it must be free."""
        known = self._host.uuids()
        name = self._wanted.name or f"{self._point.domain}-boot"
        if name in known:
            raise DomainExists(
                f"domain {name} exists at {self._wanted.connect}",
                advice="Choose another --name. 'puller boot --list' shows whether it was booted before.",
            )
        return name

    def _firmware_places(self) -> FirmwarePlaces:
        return firmware_files.places(
            self._held[definition.SOURCE].decode(),
            state_directory(self._wanted.connect),
            name=self._name,
            uuid=self._uuid,
            copied=True,
        )

    def _record(self, folder: Path) -> Booted:
        disks = tuple(
            BootedDisk(disk.disk, disk.size, str(folder / f"{disk.disk}.qcow2")) for disk in self._point.disks
        )
        made = {NVRAM: self._firmware.nvram, VARSTORE: self._firmware.varstore, TPM: self._firmware.tpm}
        return Booted(
            name=self._name,
            uuid=self._uuid,
            state="booting",
            point=self._point.point,
            domain=self._point.domain,
            repository=self._repository.store.url,
            connect=self._wanted.connect,
            created=datetime.now(UTC).replace(microsecond=0),
            storage=str(folder),
            runtime=str(runtime_directory() / "booted" / self._uuid),
            socket=str(socket_in(folder, self._name)),
            disks=disks,
            keep=new_name((self._point.uuid, self._point.point)),
            firmware=tuple(
                str(path) for name, path in made.items() if name in self._held and path is not None
            ),
        )

    def _keep(self) -> None:
        """Protect the point as long as the machine needs it. The record has the protection's name already."""
        note = f"booted as {self._name} on {platform.node()}, which reads from it"
        try:
            self._repository.keeps.put_as(self._booted.keep, Keep(None, note))
        except PullerError as error:
            self._tell(f"cannot keep point {self._point.point} from being pruned: {error.message}")
            self._note(keep="")
        if not self._repository.points.stands((self._point.uuid, self._point.point)):
            raise NoSuchPoint(f"restore point {self._point.point} has just been deleted")

    def _domain(self, booted: Booted) -> str:
        sources = {
            disk.disk: DiskSource(Path(disk.overlay), "qcow2", NbdExport(Path(booted.socket), disk.disk))
            for disk in booted.disks
        }
        original, network = self._held[definition.SOURCE].decode(), self._wanted.network
        absent = self._absent_networks(original) if network is None else frozenset[str]()
        domain = adapt(
            original,
            sources,
            self._firmware.nvram if NVRAM in self._held else None,
            Copy(self._name, self._uuid),
            varstore=self._firmware.varstore if VARSTORE in self._held else None,
            networks=Networks(disconnect=network is None, all=network, absent=absent),
        )
        self._tell_rest(domain)
        return domain.xml if self._wanted.memory is None else with_memory(domain.xml, self._wanted.memory)

    def _absent_networks(self, xml: str) -> frozenset[str]:
        """Return the networks and bridges that do not work here; a machine with its cables out needs none."""
        used = networks_of(xml)
        here = frozenset[str]()
        if used:
            with suppress(HypervisorError):  # a libvirt without networks
                here = self._host.networks() - self._host.inactive_networks()
        absent = frozenset(name for name in used - here if not (_INTERFACES / name).exists())
        for name in sorted(absent):
            self._tell(
                f"this host has no active network {name}: {self._name} gets an interface that leads nowhere"
            )
        return absent

    def _tell_rest(self, domain: RestoredDomain) -> None:
        for text in definition.differences(domain):
            self._tell(f"domain {domain.name} is defined {text}")

    def _tell_closed(self, booted: Booted) -> None:
        if (closed := outputs.closed_to_others(booted.folder / "image")) is not None and self._is_system():
            self._tell(f"QEMU's user may not be able to enter {closed}: if so, run 'chmod a+x {closed}'")

    def _is_system(self) -> bool:
        return self._wanted.connect.partition("?")[0].endswith("/system")

    def _tell(self, text: str) -> None:
        self._observer(Notice(self._point.point, text))


def _attachments(repository: Repository, point: Point) -> dict[str, bytes]:
    wanted = {definition.SOURCE, NVRAM, VARSTORE, TPM}
    held = {item.name: read_attachment(repository, item) for item in point.attachments if item.name in wanted}
    if definition.SOURCE not in held:
        raise OutputRefused(
            f"point {point.point} has no {definition.SOURCE}, so its domain cannot be defined",
            advice="Restore the disks, and define a domain by hand.",
        )
    if not point.disks:
        raise OutputRefused(
            f"point {point.point} has no disks to boot from",
            advice="Define its domain with 'puller restore --define'.",
        )
    return held


def make_overlay(booted: Booted, disk: BootedDisk) -> None:
    """Make the empty image that takes the guest's writes. What is behind it is not opened.

    Its header names the export too, so that other tools than libvirt find it.
    """
    words = ["create", "-q", "-u", "-f", "qcow2", "-o", "compat=1.1", "-F", "raw"]
    words += ["-b", server_behind(booted, disk), "--", disk.overlay, str(disk.size)]
    failure = Failure(HypervisorError, f"cannot create {disk.overlay}", "Check the directory of --storage.")
    qemu_img(words, _IMAGE_SECONDS, failure, umask=0o077)


def run_guest(domain: Domain) -> None:
    """Start the domain, and let its guest run once QEMU waits for the server whatever becomes of it."""
    waits = waits_by_itself(domain.inactive_xml())
    lifecycle.start_paused(domain, "Correct the cause that libvirt's message names, then try again.")
    if not waits:
        wait_for_server(domain)
    lifecycle.resume(domain)
