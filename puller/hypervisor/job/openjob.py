"""The open backup job of a domain, of any client.

libvirt runs one backup job for each domain, and it stays open when the client that began it is gone. So the
next run has to distinguish a dead job of puller from a living job of another tool. It does so by the names
of the job's files and socket: ours begin with ``puller-`` and the repository's id.
"""

from __future__ import annotations

import time
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

import libvirt

from puller.cancelling import CancelScope, growing_pauses
from puller.errors import HypervisorError, JobRunning
from puller.hypervisor.domain import checkpoint as checkpoints
from puller.hypervisor.domain.checkpoint import THIRD_PARTIES, owner_prefix
from puller.hypervisor.domain.domain import Domain
from puller.hypervisor.faults import code_of, translate
from puller.hypervisor.locking import runlock
from puller.hypervisor.space import scratch, staging

_STEP = 0.02
"""Most seconds between two checks whether a cancelled job has ended; there is no event for it."""

_LIMIT = 60.0
"""Seconds to wait for the end of a cancelled job."""


@dataclass(frozen=True, slots=True)
class OpenJob:
    """An open backup job: its socket and scratch files if it is a pull job, its images if a push job."""

    socket: Path | None
    scratch: frozenset[Path]
    staging: frozenset[Path] = frozenset()

    @property
    def files(self) -> frozenset[Path]:
        """Return all files that the job created."""
        images = self.scratch | self.staging
        return images if self.socket is None else images | {self.socket}


def parse_job(xml: str) -> OpenJob:
    """Return the job in the XML of ``virDomainBackupGetXMLDesc``."""
    root = ET.fromstring(xml)
    socket = None if (server := root.find("server")) is None else server.get("socket")
    return OpenJob(Path(socket) if socket else None, _files(root, "scratch"), _files(root, "target"))


def _files(root: ET.Element, name: str) -> frozenset[Path]:
    files = [element.get("file") for element in root.findall(f"./disks/disk/{name}")]
    return frozenset(Path(file) for file in files if file)


def job_xml(domain: Domain) -> str | None:
    """Return the XML of the open backup job, or None."""
    with translate(f"cannot read the backup job of domain {domain.name}"):
        try:
            return str(domain.handle.backupGetXMLDesc())
        except libvirt.libvirtError as error:
            # A transient domain disappears with its job when it is shut off.
            if code_of(error) in (libvirt.VIR_ERR_NO_DOMAIN_BACKUP, libvirt.VIR_ERR_NO_DOMAIN):
                return None
            raise


def open_job(domain: Domain) -> OpenJob | None:
    """Return the open backup job, or None."""
    xml = job_xml(domain)
    return None if xml is None else parse_job(xml)


def is_ours(job: OpenJob, repository_id: str) -> bool:
    """Return whether a run for this repository began ``job``."""
    prefix = owner_prefix(repository_id)
    return bool(job.files) and all(path.name.startswith(prefix) for path in job.files)


def end_stale(domain: Domain, repository_id: str) -> bool:
    """End the job that a dead run of ours, or a dead freeze, left open; return whether there was one.

    Call it with the domain's lock held, else the job may belong to a living run. Raises
    :class:`JobRunning` if the open job is not ours, :class:`Locked` if it belongs to a living run that has
    its locks in another directory.
    """
    job = open_job(domain)
    if job is None:
        return False
    owner = next((each for each in (repository_id, THIRD_PARTIES) if is_ours(job, each)), None)
    if owner is None:
        raise JobRunning(
            f"domain {domain.name} has an open backup job that puller did not begin for this repository"
        )
    for folder in {path.parent for path in job.scratch | job.staging}:
        runlock.require_dead(domain, owner, folder)
    end(domain, job)
    if owner == THIRD_PARTIES:
        _delete_unread(domain, job)
    return True


def _delete_unread(domain: Domain, job: OpenJob) -> None:
    """Delete the checkpoint of a dead freeze, whose command did not end: the job was still open."""
    for name in {scratch.checkpoint_of(path, domain.uuid) for path in job.scratch}:
        checkpoints.delete(domain, name)


def end(domain: Domain, job: OpenJob) -> None:
    """End ``job`` if it is still open, wait until libvirt has no job, and remove its files.

    Close all NBD connections first: a client that stays connected while QEMU stops its server can crash QEMU
    (CVE-2024-7409). Raises :class:`HypervisorError` if the job does not end in time.
    """
    if open_job(domain) == job:
        _cancel(domain)
    deadline = time.monotonic() + _LIMIT
    waiting = CancelScope()  # called at the end of a run, whose scope may be cancelled
    pauses = growing_pauses(_STEP)
    while open_job(domain) == job:
        if time.monotonic() > deadline:
            raise HypervisorError(f"the backup job of domain {domain.name} did not end within {_LIMIT:.0f} s")
        waiting.pause(next(pauses))
    for path in job.files:
        scratch.discard(path, domain.host)


def sweep_scratch(domain: Domain, directory: Path, repository_id: str) -> tuple[Path, ...]:
    """Delete the files that dead runs of ours left for ``domain`` in ``directory``; return them.

    These are scratch files, images of push jobs, and run locks.

    Call it with the domain's lock held. Raises :class:`Locked` if a living run has its files there.
    """
    runlock.require_dead(domain, repository_id, directory)
    job = open_job(domain)
    in_use = frozenset[Path]() if job is None else job.files
    return tuple(
        path
        for suffix in (scratch.SUFFIX, staging.SUFFIX, runlock.SUFFIX)
        for path in scratch.sweep(directory, repository_id, domain.uuid, in_use, suffix, domain.host)
    )


def _cancel(domain: Domain) -> None:
    """Cancel the job, which may have ended by itself meanwhile, for example by a power-off of the guest."""
    with translate(f"cannot end the backup job of domain {domain.name}"):
        try:
            domain.handle.abortJob()
        except libvirt.libvirtError as error:
            if code_of(error) not in (libvirt.VIR_ERR_OPERATION_INVALID, libvirt.VIR_ERR_NO_DOMAIN):
                raise
