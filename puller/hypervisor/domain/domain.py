"""A virtual machine of libvirt."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import libvirt

from puller.cancelling import CancelScope
from puller.errors import DomainNotRunning, HypervisorError
from puller.host.access import LOCAL, HostAccess
from puller.hypervisor.domain.disks.disk import Disk, parse_disks, select
from puller.hypervisor.domain.disks.volume import located
from puller.hypervisor.faults import translate


class Domain:
    """One domain. ``handle`` is libvirt's and private to this package; waits for it belong to ``scope``.

    Its images and temporary files are on ``host``.
    """

    def __init__(
        self,
        handle: Any,
        state_directory: Path,
        scope: CancelScope | None = None,
        host: HostAccess = LOCAL,
    ) -> None:
        self.handle = handle
        self.host = host
        self.scope = scope or CancelScope()
        self.state_directory = state_directory
        self.name: str = handle.name()
        self.uuid: str = handle.UUIDString()

    def is_active(self) -> bool:
        """Return whether the domain has a QEMU process, running or paused, as a backup job needs."""
        with translate(f"cannot ask for the state of domain {self.name}"):
            return bool(self.handle.isActive())

    def start(self, advice: str) -> None:
        """Start the domain. Raises HypervisorError with ``advice`` if libvirt or QEMU refuses."""
        with translate(f"cannot start domain {self.name}", advice):
            self.handle.create()

    def start_id(self) -> str | None:
        """Return libvirt's id of this run of the domain, new after each start; None if it is shut off."""
        return ET.fromstring(self.xml()).get(
            "id"
        )  # the handle's own id is that of the start in which the handle was obtained

    def is_running(self) -> bool:
        """Return whether the guest's processors run: neither paused nor shut off."""
        with translate(f"cannot ask for the state of domain {self.name}"):
            state, _ = self.handle.state()
        return bool(state == libvirt.VIR_DOMAIN_RUNNING)

    def has_ended(self) -> bool:
        """Return whether the guest has shut down, even if libvirt has not yet ended QEMU."""
        with translate(f"cannot ask for the state of domain {self.name}"):
            state, _ = self.handle.state()
        return state in (libvirt.VIR_DOMAIN_SHUTDOWN, libvirt.VIR_DOMAIN_SHUTOFF)

    def is_persistent(self) -> bool:
        """Return whether libvirt keeps the domain and its checkpoints when it is shut off."""
        with translate(f"cannot ask whether domain {self.name} is persistent"):
            return bool(self.handle.isPersistent())

    def snapshots(self) -> tuple[str, ...]:
        """Return the names of the domain's snapshots in libvirt."""
        with translate(f"cannot list the snapshots of domain {self.name}"):
            return tuple(sorted(snapshot.getName() for snapshot in self.handle.listAllSnapshots()))

    def has_block_job(self, target: str) -> bool:
        """Return whether a copy, commit, pull or backup job of the disk ``target`` runs."""
        with translate(f"cannot read the block job of disk {target} of domain {self.name}"):
            return bool(self.handle.blockJobInfo(target))

    def is_saved(self) -> bool:
        """Return whether the domain, shut off now, will resume from a saved state with its disks in use."""
        with translate(f"cannot read the saved state of domain {self.name}"):
            return bool(self.handle.hasManagedSaveImage())

    def require_active(self) -> None:
        """Raise :class:`DomainNotRunning` unless the domain is active."""
        if not self.is_active():
            raise DomainNotRunning(f"domain {self.name} is not running")

    def xml(self) -> str:
        """Return the current XML, live if the domain runs, without secrets."""
        return self._describe(0)

    def inactive_xml(self) -> str:
        """Return the XML for the next start, without secrets."""
        return self._describe(libvirt.VIR_DOMAIN_XML_INACTIVE)

    def secure_xml(self) -> str:
        """Return the XML for the next start, with passwords, so that the domain can be defined again."""
        return self._describe(libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE)

    def disks(self) -> tuple[Disk, ...]:
        """Return the current disks, in the order of the XML."""
        return tuple(located(self.handle.connect(), disk) for disk in parse_disks(self.xml()))

    def select_disks(
        self, include: Sequence[str], exclude: Sequence[str], exclude_if_present: Sequence[str] = ()
    ) -> tuple[Disk, ...]:
        """Return the disks that a backup takes: see :func:`~puller.hypervisor.domain.disks.disk.select`."""
        return select(self.name, self.disks(), include, exclude, exclude_if_present)

    def disk_size(self, target: str) -> int:
        """Return the size of the disk ``target`` in bytes, as the guest sees it."""
        with translate(f"cannot read the size of disk {target} of domain {self.name}"):
            return int(self.handle.blockInfo(target)[0])

    def runtime_directory(self) -> Path:
        """Return libvirt's directory for this run of the domain, ``domain-<id>-<short name>``.

        QEMU's own monitor socket is there, so QEMU's user may write to it, SELinux labels it for the
        domain, and the AppArmor profile that virt-aa-helper creates for each domain allows
        ``/var/lib/libvirt/qemu/domain-<id>-<name>/* rw``. Few other places have all three, so the socket of
        a pull job is created here.
        """
        for path in self.host.matching(self.state_directory, f"domain-{self.start_id()}-*"):
            return path
        raise HypervisorError(
            f"cannot find libvirt's directory of domain {self.name} in {self.state_directory}",
            advice="Run puller as a user who may read that directory, such as root.",
        )

    def _describe(self, flags: int) -> str:
        with translate(f"cannot read the XML of domain {self.name}"):
            return str(self.handle.XMLDesc(flags))
