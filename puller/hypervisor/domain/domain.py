"""A virtual machine that libvirt knows."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import libvirt

from puller.cancelling import CancelScope
from puller.errors import DomainNotRunning, HypervisorError
from puller.hypervisor.domain.disk import Disk, parse_disks, select
from puller.hypervisor.domain.volume import located
from puller.hypervisor.faults import translate


class Domain:
    """One domain. ``handle`` is libvirt's, for this package only; waits for it belong to ``scope``."""

    def __init__(self, handle: Any, state_directory: Path, scope: CancelScope | None = None) -> None:
        self.handle = handle
        self.scope = scope or CancelScope()
        self.state_directory = state_directory
        self.name: str = handle.name()
        self.uuid: str = handle.UUIDString()

    def is_active(self) -> bool:
        """Whether there is a QEMU process, running or paused: what a backup needs."""
        with translate(f"cannot ask for the state of domain {self.name}"):
            return bool(self.handle.isActive())

    def start_id(self) -> str | None:
        """What libvirt calls this run of the domain, another after each start; None if it is shut off."""
        return ET.fromstring(self.xml()).get("id")  # the handle's own is that of the start it was made in

    def is_running(self) -> bool:
        """Whether the guest's processors run: not paused, not shut off."""
        with translate(f"cannot ask for the state of domain {self.name}"):
            state, _ = self.handle.state()
        return bool(state == libvirt.VIR_DOMAIN_RUNNING)

    def is_persistent(self) -> bool:
        """Whether libvirt keeps the domain, and its checkpoints, when it is shut off."""
        with translate(f"cannot ask whether domain {self.name} is persistent"):
            return bool(self.handle.isPersistent())

    def snapshots(self) -> tuple[str, ...]:
        """Names of the snapshots that libvirt knows of the domain."""
        with translate(f"cannot list the snapshots of domain {self.name}"):
            return tuple(sorted(snapshot.getName() for snapshot in self.handle.listAllSnapshots()))

    def has_block_job(self, target: str) -> bool:
        """Whether a copy, commit, pull or backup of the disk ``target`` is going on."""
        with translate(f"cannot ask for the block job of disk {target} of domain {self.name}"):
            return bool(self.handle.blockJobInfo(target))

    def is_saved(self) -> bool:
        """Whether the domain, shut off now, will go on from a saved state, its disks in the midst of use."""
        with translate(f"cannot ask for the saved state of domain {self.name}"):
            return bool(self.handle.hasManagedSaveImage())

    def require_active(self) -> None:
        """Raise :class:`DomainNotRunning` unless the domain is active."""
        if not self.is_active():
            raise DomainNotRunning(f"domain {self.name} is not running")

    def xml(self) -> str:
        """What the domain is now: of a running one its live XML, secrets left out."""
        return self._describe(0)

    def inactive_xml(self) -> str:
        """What the domain will be at its next start, secrets left out."""
        return self._describe(libvirt.VIR_DOMAIN_XML_INACTIVE)

    def secure_xml(self) -> str:
        """What the domain will be at its next start, passwords included: enough to define it again."""
        return self._describe(libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE)

    def disks(self) -> tuple[Disk, ...]:
        """The disks that the domain has now, in the order of its XML."""
        return tuple(located(self.handle.connect(), disk) for disk in parse_disks(self.xml()))

    def select_disks(
        self, include: Sequence[str], exclude: Sequence[str], exclude_if_present: Sequence[str] = ()
    ) -> tuple[Disk, ...]:
        """The disks that a backup takes: see :func:`~puller.hypervisor.domain.disk.select`."""
        return select(self.name, self.disks(), include, exclude, exclude_if_present)

    def disk_size(self, target: str) -> int:
        """Size in bytes that the guest sees of the disk ``target``."""
        with translate(f"cannot ask for the size of disk {target} of domain {self.name}"):
            return int(self.handle.blockInfo(target)[0])

    def runtime_directory(self) -> Path:
        """The folder that libvirt made for this run of the domain, ``domain-<id>-<short name>``.

        QEMU's own monitor socket is there, so QEMU's user may write to it, SELinux labels it for the
        domain, and the AppArmor profile that virt-aa-helper makes for each domain allows
        ``/var/lib/libvirt/qemu/domain-<id>-<name>/* rw``. Few other places have all three, which is why
        the socket of a pull job goes here.
        """
        for path in self.state_directory.glob(f"domain-{self.start_id()}-*"):
            return path
        raise HypervisorError(
            f"libvirt's directory of domain {self.name} is not found in {self.state_directory}",
            advice="Run puller as a user who may read that directory, such as root.",
        )

    def _describe(self, flags: int) -> str:
        with translate(f"cannot read the XML of domain {self.name}"):
            return str(self.handle.XMLDesc(flags))
