"""Common part of pull and push jobs: a start that also creates the checkpoint, and an end without remains.

One call creates the new checkpoint and opens the job, so that the checkpoint and the data that the job
exports or copies are of the same moment. See https://libvirt.org/formatbackup.html and https://libvirt.org/formatcheckpoint.html.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Collection, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Self

import libvirt

from puller.errors import HypervisorError, JobRunning
from puller.hypervisor.domain import checkpoint as checkpoints
from puller.hypervisor.domain.disks.encryption import encryption_element
from puller.hypervisor.domain.domain import Domain
from puller.hypervisor.faults import translate
from puller.hypervisor.job.frozen import FrozenDisks
from puller.hypervisor.job.openjob import OpenJob, end, open_job
from puller.hypervisor.space.seal import Seal

_READY = libvirt.VIR_DOMAIN_BACKUP_BEGIN_REUSE_EXTERNAL
"""The files of the job exist already."""

_PRESERVE = 1 << 1
"""``VIR_DOMAIN_BACKUP_BEGIN_PRESERVE_SHUTDOWN_DOMAIN``, which a library before 11.10 does not name."""

_PULLED = "Wait until it is pulled: 'puller boot --list' shows when a booted machine stands alone."

_PRESERVES = 11_010_000
"""The first version of libvirt's daemon that accepts it; earlier ones refuse flags that they do not know."""


class BackupJob(FrozenDisks):
    """A backup job of one domain while its context lasts.

    ``bases`` names the disks of the job by target, each with the checkpoint that it is incremental from, or
    None to read all of it. ``checkpoint`` is the new checkpoint, for exactly these disks without the
    ``untracked`` ones, which cannot have a dirty bitmap; without a tracked disk there is no checkpoint.
    ``seal`` creates the files of the job if some are encrypted; otherwise libvirt does.

    Entering raises :class:`DomainNotRunning`, :class:`JobRunning` if a backup job is open,
    :class:`CheckpointUnusable` if a base is gone or inconsistent, else :class:`HypervisorError`.
    """

    def __init__(
        self,
        domain: Domain,
        bases: Mapping[str, str | None],
        checkpoint: str,
        untracked: Collection[str],
        seal: Seal | None,
    ) -> None:
        if not bases:
            raise ValueError("a backup job needs a disk: libvirt takes an empty list for all disks")
        self._domain = domain
        self._bases = dict(bases)
        self.checkpoint = checkpoint
        self.seal = seal
        self._tracked = [target for target in bases if target not in untracked]

    def prepared(self) -> AbstractContextManager[object]:
        """See FrozenDisks: create the files that libvirt must not create."""
        return nullcontext() if self.seal is None else self.seal.made(self._files())

    def __enter__(self) -> Self:
        self._domain.require_active()
        if open_job(self._domain) is not None:
            raise JobRunning(f"domain {self._domain.name} already has an open backup job")
        try:
            self._begin()
        except BaseException:
            self._undo()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.end()
        except BaseException:
            # A signal at this moment must not leave the job open, because it slows the guest.
            self.end()
            raise

    @property
    def consistency(self) -> str:
        """See FrozenDisks."""
        return "crash"

    def end(self) -> None:
        """End the job, wait until libvirt has none, and remove its files.

        Does nothing if it has ended already. Raises :class:`HypervisorError`.
        """
        end(self._domain, self._as_opened())

    def _begin(self) -> None:
        record = checkpoint_xml(self.checkpoint, self._tracked) if self._tracked else None
        doing = f"cannot begin a backup of domain {self._domain.name}"
        with translate(doing):
            try:
                self._domain.handle.backupBegin(self._xml(), record, self._flags())
            except libvirt.libvirtError as error:
                if (target := self._pulled()) is None:
                    raise
                raise JobRunning(
                    f"{doing}: the data of disk {target} is being pulled", advice=_PULLED
                ) from error

    def _pulled(self) -> str | None:
        """Return the disk with a job of ``virDomainBlockPull``, which libvirt allows no backup beside."""
        for target in self._bases:
            with suppress(libvirt.libvirtError):
                job = self._domain.handle.blockJobInfo(target, 0)
                if job and job["type"] == libvirt.VIR_DOMAIN_BLOCK_JOB_TYPE_PULL:
                    return target
        return None

    def _flags(self) -> int:
        """Return the flags of the start.

        When a guest shuts down, QEMU normally ends, and with it the job. A newer libvirt can keep both: it
        resets and pauses the guest, and ends QEMU once the job has ended. puller asks the daemon, because its
        version may differ from that of the library in this process.
        """
        preserve = self._domain.handle.connect().getLibVersion() >= _PRESERVES
        return (_PRESERVE if preserve else 0) | (0 if self.seal is None else _READY)

    def _undo(self) -> None:
        """Undo a failed start: libvirt can fail after it created the checkpoint.

        If this fails too, the next run cleans up; the first error is the one to report.
        """
        with suppress(HypervisorError):
            self.end()
        with suppress(HypervisorError):
            checkpoints.delete(self._domain, self.checkpoint)

    def _files(self) -> Mapping[str, Path]:
        """Return the file that the job writes for each disk, by target."""
        raise NotImplementedError

    def _xml(self) -> str:
        """Return the ``<domainbackup>`` of the start."""
        raise NotImplementedError

    def _as_opened(self) -> OpenJob:
        """Return the job as libvirt describes it while it is open."""
        raise NotImplementedError


def add_disks(root: ET.Element, bases: Mapping[str, str | None]) -> dict[str, ET.Element]:
    """Name the disks of a job in its ``<domainbackup>``; the others take no part in it."""
    disks = ET.SubElement(root, "disks")
    added = {}
    for target, base in bases.items():
        disk = ET.SubElement(disks, "disk", name=target, backup="yes", type="file")
        disk.set("backupmode", "full" if base is None else "incremental")
        if base is not None:
            disk.set("incremental", base)
        added[target] = disk
    return added


def add_encryption(file: ET.Element, seal: Seal | None, target: str) -> None:
    """Add the encryption of the disk's ``<scratch>`` or ``<target>``, if it is encrypted."""
    secret = None if seal is None else seal.secret(target)
    if secret is not None:
        file.append(encryption_element(secret))


def checkpoint_xml(name: str, targets: Iterable[str]) -> str:
    """Return the ``<domaincheckpoint>`` with a bitmap for these disks; the others get none."""
    root = ET.Element("domaincheckpoint")
    ET.SubElement(root, "name").text = name
    disks = ET.SubElement(root, "disks")
    for target in targets:
        ET.SubElement(disks, "disk", name=target, checkpoint="bitmap")
    return ET.tostring(root, encoding="unicode")
