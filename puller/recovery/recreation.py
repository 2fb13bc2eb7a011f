"""Recreation: a point's disks restored, and its domain defined on them, as itself or as a copy beside it.

::

    refuse what cannot be ─► volumes, if a pool is named ─► disks ─► firmware, TPM ─► define ─► start

Nothing is defined before all of the disks are whole. What was restored stays if libvirt then refuses the
definition; volumes that were made are deleted if the disks fail.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import urlsplit

from puller.errors import DomainExists, NoSuchDisk, OutputRefused, UsageError
from puller.events import Notice, Observer
from puller.hypervisor.connection import Host
from puller.hypervisor.domain.definition.restoredxml import (
    Copy,
    DiskSource,
    Networks,
    RestoredDomain,
    adapt,
    networks_of,
)
from puller.hypervisor.domain.disks.pool import Pool
from puller.hypervisor.uri import configuration_directory, state_directory
from puller.recovery import definition, firmware_files
from puller.recovery.attachments import read_attachment, write_file
from puller.recovery.boot_files import BootFiles, names_in
from puller.recovery.firmware_files import ENTERED, NVRAM, TPM, VARSTORE
from puller.recovery.plan import Placement, Plan
from puller.recovery.restore import Request, Restored, RestoredDisk, restore_and
from puller.recovery.targets import outputs
from puller.recovery.targets.overwriting import Domains
from puller.repository.points import Point
from puller.repository.repository import Repository


@dataclass(frozen=True, slots=True)
class Recreation:
    """What is to be defined, and how.

    ``disks`` says where the disks go; ``pool`` makes volumes for those that it names no place for. ``name``
    is that of a copy, None for the domain itself.
    """

    connect: str
    disks: Request
    name: str | None = None
    pool: str | None = None
    networks: Networks = field(default_factory=Networks)
    start: bool = False
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class Recreated:
    """The domain that was defined, or with ``dry_run`` would be, and its ``restored`` disks (None then)."""

    point: str
    name: str
    uuid: str
    xml: str
    restored: Restored | None


def recreate(repository: Repository, point: Point, wanted: Recreation, observer: Observer) -> Recreated:
    """Restore and define. Raises DomainExists, HypervisorError, and as ``restore``."""
    _refuse_name(wanted.name)
    with Host.connect(wanted.connect, repository.scope) as host:
        _refuse_known(host, point, wanted)
        return _Recreating(repository, point, wanted, host, observer).run()


def _refuse_name(name: str | None) -> None:
    """Libvirt refuses it too, but only when the disks are restored."""
    if name is not None and (not name.strip() or set(name) & set("/\n")):
        raise UsageError(
            f"'{name}' cannot be the name of a domain", advice="Give --name a name without '/' and line ends."
        )


def _refuse_known(host: Host, point: Point, wanted: Recreation) -> None:
    known = host.uuids()
    if wanted.name is not None:
        if wanted.name in known:
            raise DomainExists(
                f"domain {wanted.name} exists at {wanted.connect}", advice="Choose another --name."
            )
        return
    for name, identity in known.items():
        if point.domain == name or point.uuid == identity:
            raise DomainExists(f"domain {name} exists at {wanted.connect}")


def _refuse_known_by_now(host: Host, point: Point, wanted: Recreation) -> None:
    """Raise DomainExists if the domain was made during the restore: defining it would change that one."""
    try:
        _refuse_known(host, point, wanted)
    except DomainExists as error:
        raise DomainExists(
            f"{error.message}: it was made during the restore",
            advice="The disks are restored. Look whose domain that is before you define another on them.",
        ) from error


class _Recreating:
    def __init__(
        self, repository: Repository, point: Point, wanted: Recreation, host: Host, observer: Observer
    ) -> None:
        self._repository = repository
        self._point = point
        self._wanted = wanted
        self._host = host
        self._observer = observer
        self._held = self._attachments()
        self._copy = None if wanted.name is None else Copy(wanted.name, str(uuid.uuid4()))
        name, identity = (
            (point.domain, point.uuid) if self._copy is None else (self._copy.name, self._copy.uuid)
        )
        self._uuid = str(identity)
        self._firmware = firmware_files.places(
            self._held[definition.SOURCE].decode(),
            state_directory(wanted.connect),
            name=name,
            uuid=self._uuid,
            copied=self._copy is not None,
        )
        self._boot_files = BootFiles(self._held[definition.SOURCE].decode(), self._held)
        self._refuse_unknown_networks()
        if not wanted.disks.force:
            self._firmware.refuse_existing(self._held)
        self._refuse_used_firmware()

    def run(self) -> Recreated:
        """Do it all."""
        with self._volumes() as request:
            plan = request.plan(self._point)
            domain = self._domain(plan.disks)
            if self._wanted.dry_run:
                return Recreated(self._point.point, domain.name, self._uuid, domain.xml, None)

            self._make_folders(plan)

            def define(xml: bytes, directory: Path, disks: Sequence[RestoredDisk]) -> None:
                write_file(directory / definition.NAME, domain.xml.encode(), request.force)

            restored = restore_and(define, self._repository, self._point, request, self._observer)
        _refuse_known_by_now(self._host, self._point, self._wanted)
        self._refuse_used_firmware()
        self._firmware.write(self._held, configuration_directory(self._wanted.connect))
        self._boot_files.write(self._tell, force=self._wanted.disks.force)
        defined = self._host.define(domain.xml, self._after_refusal(plan))
        self._tell_rest(domain)
        closed = self._tell_closed(plan)
        if self._wanted.start:
            enter = (
                f"Run 'chmod a+x {closed}', then"
                if closed is not None
                else "Correct the cause that libvirt names, then run"
            )
            defined.start(f"{enter} 'virsh start {defined.name}': the domain is defined.")
        return Recreated(self._point.point, defined.name, defined.uuid, domain.xml, restored)

    def _refuse_used_firmware(self) -> None:
        libvirts, scope = self._wanted.disks.libvirts, self._repository.scope
        domains = Domains(libvirts, self._point.point, self._observer, scope)
        self._firmware.refuse_used(self._held, domains)
        self._boot_files.refuse_used(domains, force=self._wanted.disks.force)

    def _refuse_unknown_networks(self) -> None:
        """A name that is misspelt would leave the domain on the network that it was on."""
        known = networks_of(self._held[definition.SOURCE].decode())
        for name in self._wanted.networks.mapped:
            if name not in known:
                raise UsageError(
                    f"domain {self._point.domain} is on no network or bridge {name}",
                    advice=f"Map one of these: {', '.join(sorted(known))}."
                    if known
                    else "Leave --map-network out.",
                )
        self._refuse_missing_network()

    def _refuse_missing_network(self) -> None:
        """libvirt would define the domain, and refuse its start once the disks are restored."""
        wanted = self._wanted.networks.all
        if wanted is not None and wanted not in self._host.networks():
            raise UsageError(
                f"libvirt at {self._wanted.connect} has no network {wanted}",
                advice="List its networks with 'virsh net-list --all', or define it.",
            )

    def _make_folders(self, plan: Plan) -> None:
        """New directories are such that QEMU's user can enter them; the files are for nobody else."""
        folders = {Path(disk.name).parent for disk in plan.disks if disk.is_file}
        for folder in folders | ({plan.directory} if plan.directory is not None else set()):
            with outputs.translated(str(folder)):
                outputs.make_folder(folder, ENTERED)

    def _after_refusal(self, plan: Plan) -> str:
        if plan.directory is None:
            return (
                "The disks are restored. Correct the XML that --dry-run prints, and run 'virsh define' on it."
            )
        path = plan.directory / definition.NAME
        return f"The disks are restored. Correct {path}, then run 'virsh define {path}'."

    def _tell_closed(self, plan: Plan) -> Path | None:
        """Say which directory QEMU's user cannot enter, if QEMU runs as another user."""
        if urlsplit(self._wanted.connect).path != "/system":
            return None
        for disk in plan.disks:
            if disk.is_file and (closed := outputs.closed_to_others(Path(disk.name))) is not None:
                self._tell(f"QEMU's user may not be able to enter {closed}: if so, run 'chmod a+x {closed}'")
                return closed
        return None

    def _attachments(self) -> dict[str, bytes]:
        held = self._read({definition.SOURCE, NVRAM, VARSTORE, TPM})
        if definition.SOURCE not in held:
            raise OutputRefused(
                f"point {self._point.point} has no {definition.SOURCE}, so its domain cannot be defined",
                advice="Restore the disks without --define, and define a domain by hand.",
            )
        return held | self._read(set(names_in(held[definition.SOURCE].decode())))

    def _read(self, names: Collection[str]) -> dict[str, bytes]:
        return {
            item.name: read_attachment(self._repository, item)
            for item in self._point.attachments
            if item.name in names
        }

    @contextmanager
    def _volumes(self) -> Iterator[Request]:
        """The request for the disks, with the places of volumes that are made for it."""
        request = self._wanted.disks
        if self._wanted.pool is None:
            yield request
            return
        pool = self._host.pool(self._wanted.pool)
        placed = {disk.target: disk for disk in self._placed(pool)}
        names = {target: disk.name for target, disk in placed.items()}
        request = replace(request, places={**names, **request.places}, made=frozenset(names.values()))
        made: list[str] = []
        try:
            for disk in () if self._wanted.dry_run else placed.values():
                pool.make(Path(disk.name).name, disk.record.size, disk.format)
                made.append(Path(disk.name).name)
            yield request
        except BaseException:
            for volume in made:
                pool.remove(volume)
            raise
        if made:
            pool.refresh()

    def _placed(self, pool: Pool) -> Iterator[Placement]:
        """The volumes of disks that have no place. Raises OutputRefused if one exists."""
        request, name = self._wanted.disks, self._wanted.name or self._point.domain
        for record in self._point.disks:
            if record.disk in request.places or (request.disks and record.disk not in request.disks):
                continue
            chosen = (request.format or record.format) if pool.holds_files else "raw"
            chosen = chosen if chosen in outputs.FORMATS else "raw"
            volume = f"{name}-{record.disk}.{chosen}" if pool.holds_files else f"{name}-{record.disk}"
            if pool.has(volume):
                raise OutputRefused(
                    f"storage pool {pool.name} has a volume {volume}",
                    advice="Choose another --pool or --name.",
                )
            yield Placement(record, str(pool.directory / volume), chosen)

    def _domain(self, disks: Sequence[Placement]) -> RestoredDomain:
        sources = {}
        for disk in disks:
            if outputs.is_uri(disk.name):
                raise NoSuchDisk(
                    f"disk {disk.target} goes to {disk.name}, which the domain cannot use",
                    advice="Give a file or a block device, or leave --define out.",
                )
            sources[disk.target] = DiskSource(Path(disk.name).absolute(), disk.format)
        return adapt(
            self._held[definition.SOURCE].decode(),
            sources,
            self._firmware.nvram if NVRAM in self._held else None,
            self._copy,
            varstore=self._firmware.varstore if VARSTORE in self._held else None,
            networks=self._wanted.networks,
        )

    def _tell_rest(self, domain: RestoredDomain) -> None:
        for text in definition.differences(domain):
            self._tell(f"domain {domain.name} is defined {text}")

    def _tell(self, text: str) -> None:
        self._observer(Notice(self._point.point, text))
