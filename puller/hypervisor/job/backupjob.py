"""What pull and push jobs share: a begin that makes the checkpoint too, and an end that leaves nothing.

One call makes the new checkpoint and opens the job, so that the checkpoint and what the job shows or copies
are the same moment. See https://libvirt.org/formatbackup.html and https://libvirt.org/formatcheckpoint.html.
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
from puller.hypervisor.domain.domain import Domain
from puller.hypervisor.domain.encryption import encryption_element
from puller.hypervisor.faults import translate
from puller.hypervisor.job.frozen import FrozenDisks
from puller.hypervisor.job.openjob import OpenJob, end, open_job
from puller.hypervisor.space.seal import Seal

_READY = libvirt.VIR_DOMAIN_BACKUP_BEGIN_REUSE_EXTERNAL
"""The files of the job are there already."""


class BackupJob(FrozenDisks):
    """A backup job of one domain while its context lasts.

    ``bases`` names the disks of the job by target, each with the checkpoint that it is to be incremental
    from, or None for all of it. ``checkpoint`` is the new one, for exactly these disks but the ``untracked``
    ones, which cannot have a dirty bitmap; if all are such, there is no checkpoint. ``seal`` makes the files
    of the job, where some are to be encrypted; else libvirt does.

    Beginning raises :class:`DomainNotRunning`, :class:`JobRunning` if any backup job is open,
    :class:`CheckpointUnusable` if a base is gone or broken, else :class:`HypervisorError`.
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
        """See FrozenDisks: the files that libvirt is not to make."""
        return nullcontext() if self.seal is None else self.seal.made(self._files())

    def __enter__(self) -> Self:
        self._domain.require_active()
        if open_job(self._domain) is not None:
            raise JobRunning(f"domain {self._domain.name} has a backup job open")
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
            # A signal that comes just now must not leave the job open: an open job costs the guest.
            self.end()
            raise

    @property
    def consistency(self) -> str:
        """See FrozenDisks."""
        return "crash"

    def end(self) -> None:
        """End the job and wait until libvirt has none; none of its files is left then.

        Fine if it has ended already. Raises :class:`HypervisorError`.
        """
        end(self._domain, self._as_opened())

    def _begin(self) -> None:
        record = checkpoint_xml(self.checkpoint, self._tracked) if self._tracked else None
        with translate(f"cannot begin a backup of domain {self._domain.name}"):
            self._domain.handle.backupBegin(self._xml(), record, 0 if self.seal is None else _READY)

    def _undo(self) -> None:
        """Take back what a begin that failed has done: libvirt can fail after it made the checkpoint.

        What fails here is for the next run to reconcile; the first error says more.
        """
        with suppress(HypervisorError):
            self.end()
        with suppress(HypervisorError):
            checkpoints.delete(self._domain, self.checkpoint)

    def _files(self) -> Mapping[str, Path]:
        """The file of each disk that the job writes to, by target."""
        raise NotImplementedError

    def _xml(self) -> str:
        """The ``<domainbackup>`` to begin with."""
        raise NotImplementedError

    def _as_opened(self) -> OpenJob:
        """The job as libvirt describes it while it is open."""
        raise NotImplementedError


def add_disks(root: ET.Element, bases: Mapping[str, str | None]) -> dict[str, ET.Element]:
    """Name the disks of a job in its ``<domainbackup>``; those that are not named take no part in it."""
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
    """Tell libvirt how the ``<scratch>`` or ``<target>`` of the disk is encrypted, if it is."""
    secret = None if seal is None else seal.secret(target)
    if secret is not None:
        file.append(encryption_element(secret))


def checkpoint_xml(name: str, targets: Iterable[str]) -> str:
    """The ``<domaincheckpoint>`` with a bitmap for these disks; disks that are not named get none."""
    root = ET.Element("domaincheckpoint")
    ET.SubElement(root, "name").text = name
    disks = ET.SubElement(root, "disks")
    for target in targets:
        ET.SubElement(disks, "disk", name=target, checkpoint="bitmap")
    return ET.tostring(root, encoding="unicode")
