"""The backup job that a domain has open, whoever began it.

libvirt runs one backup job a domain, and it stays open when the client that began it is gone. So the
next run has to tell its own dead job from another tool's living one. The names of its files and of the
socket tell: ours begin with ``puller-`` and the repository's id.
"""

from __future__ import annotations

import time
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

import libvirt

from puller.cancelling import CancelScope
from puller.errors import HypervisorError, JobRunning
from puller.hypervisor.domain.checkpoint import owner_prefix
from puller.hypervisor.domain.domain import Domain
from puller.hypervisor.faults import code_of, translate
from puller.hypervisor.locking import runlock
from puller.hypervisor.space import scratch, staging

_STEP = 0.02
"""Seconds between two looks whether a job has ended. It takes 10 to 50 ms; there is no event for it."""

_LIMIT = 60.0
"""Seconds to wait for a cancelled job before giving up."""


@dataclass(frozen=True, slots=True)
class OpenJob:
    """An open backup job: its socket and scratch files if it is a pull job, its images if a push job."""

    socket: Path | None
    scratch: frozenset[Path]
    staging: frozenset[Path] = frozenset()

    @property
    def files(self) -> frozenset[Path]:
        """All files that the job made for itself."""
        images = self.scratch | self.staging
        return images if self.socket is None else images | {self.socket}


def parse_job(xml: str) -> OpenJob:
    """The job in the XML of ``virDomainBackupGetXMLDesc``."""
    root = ET.fromstring(xml)
    socket = None if (server := root.find("server")) is None else server.get("socket")
    return OpenJob(Path(socket) if socket else None, _files(root, "scratch"), _files(root, "target"))


def _files(root: ET.Element, name: str) -> frozenset[Path]:
    files = [element.get("file") for element in root.findall(f"./disks/disk/{name}")]
    return frozenset(Path(file) for file in files if file)


def job_xml(domain: Domain) -> str | None:
    """The XML of the backup job that is open, or None if there is none."""
    with translate(f"cannot ask for the backup job of domain {domain.name}"):
        try:
            return str(domain.handle.backupGetXMLDesc())
        except libvirt.libvirtError as error:
            # A transient domain that was shut off is gone, and its job with it.
            if code_of(error) in (libvirt.VIR_ERR_NO_DOMAIN_BACKUP, libvirt.VIR_ERR_NO_DOMAIN):
                return None
            raise


def open_job(domain: Domain) -> OpenJob | None:
    """The backup job that is open, or None if there is none."""
    xml = job_xml(domain)
    return None if xml is None else parse_job(xml)


def is_ours(job: OpenJob, repository_id: str) -> bool:
    """Whether a run for this repository began ``job``."""
    prefix = owner_prefix(repository_id)
    return bool(job.files) and all(path.name.startswith(prefix) for path in job.files)


def end_stale(domain: Domain, repository_id: str) -> bool:
    """End the job that a dead run of ours left open; whether there was one.

    Call it with the domain's lock held, else the job may be that of a living run. Raises
    :class:`JobRunning` if a job is open that is not ours, :class:`Locked` if it is that of a run that lives
    and has its locks elsewhere.
    """
    job = open_job(domain)
    if job is None:
        return False
    if not is_ours(job, repository_id):
        raise JobRunning(
            f"domain {domain.name} has a backup job open that this repository's runs did not begin"
        )
    for folder in {path.parent for path in job.scratch | job.staging}:
        runlock.require_dead(domain, repository_id, folder)
    end(domain, job)
    return True


def end(domain: Domain, job: OpenJob) -> None:
    """End ``job`` if it is still the one that is open, wait until libvirt has none, remove its files.

    Close all NBD connections before: a client that stays connected while QEMU stops its server can crash
    QEMU (CVE-2024-7409). Raises :class:`HypervisorError` if the job does not end within a minute.
    """
    if open_job(domain) == job:
        _cancel(domain)
    deadline = time.monotonic() + _LIMIT
    waiting = CancelScope()  # the end of a run is what asks for this
    while open_job(domain) == job:
        if time.monotonic() > deadline:
            raise HypervisorError(f"the backup job of domain {domain.name} did not end in {_LIMIT:.0f} s")
        waiting.pause(_STEP)
    for path in job.files:
        scratch.discard(path)


def sweep_scratch(domain: Domain, directory: Path, repository_id: str) -> tuple[Path, ...]:
    """Delete what dead runs of ours left of ``domain`` in ``directory``; returns the files.

    That is scratch files, images of push jobs, and what told that the runs lived.

    Call it with the domain's lock held. Raises :class:`Locked` if a run that lives has its files there.
    """
    runlock.require_dead(domain, repository_id, directory)
    job = open_job(domain)
    in_use = frozenset[Path]() if job is None else job.files
    return tuple(
        path
        for suffix in (scratch.SUFFIX, staging.SUFFIX, runlock.SUFFIX)
        for path in scratch.sweep(directory, repository_id, domain.uuid, in_use, suffix)
    )


def _cancel(domain: Domain) -> None:
    """Ask for the end; the job may have ended by itself since it was seen, as when the guest powers off."""
    with translate(f"cannot end the backup job of domain {domain.name}"):
        try:
            domain.handle.abortJob()
        except libvirt.libvirtError as error:
            if code_of(error) not in (libvirt.VIR_ERR_OPERATION_INVALID, libvirt.VIR_ERR_NO_DOMAIN):
                raise
