"""A push backup job: QEMU itself copies the disks, as they were at its start, into qcow2 images.

The job ends by itself, with an event; nobody connects to QEMU. See https://libvirt.org/formatbackup.html.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import libvirt

from puller.errors import DomainNotRunning, HypervisorError, StagingFull
from puller.hypervisor.domain.domain import Domain
from puller.hypervisor.faults import translate
from puller.hypervisor.job.backupjob import BackupJob, add_disks, add_encryption
from puller.hypervisor.job.events import JobEnd, JobEvents, parse_end
from puller.hypervisor.job.openjob import OpenJob, open_job
from puller.hypervisor.space.seal import Seal
from puller.hypervisor.space.staging import reserve, staging_path

_LOOK = 2.0
"""Seconds between two checks of the job without an event. Before libvirt 10.8, frequent queries during a
backup could crash the daemon."""

_NO_SPACE = "No space left on device"
"""QEMU's words for ENOSPC; libvirt starts it with ``LC_ALL=C``."""

Watch = Callable[[int, int], None]
"""Called with (bytes copied, bytes to copy) of all disks together while a push job runs."""


class PushJob(BackupJob):
    """A push job while it lasts; ``images`` are the files that QEMU writes, by target.

    They are complete once :meth:`wait` has returned, and until the context ends. In an image of a disk with
    a base, a cluster is allocated if and only if it was written since the base: zeroes are allocated too, as
    zero clusters. The image names the running disk as its backing file, unless a seal created it; open it
    without backing file. ``room`` is the number of bytes to reserve for the image of each disk.

    Entering also raises :class:`StagingFull`.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - the parts of a job
        self,
        domain: Domain,
        bases: Mapping[str, str | None],
        checkpoint: str,
        staging_directory: Path,
        room: Mapping[str, int],
        untracked: Collection[str] = (),
        seal: Seal | None = None,
    ) -> None:
        super().__init__(domain, bases, checkpoint, untracked, seal)
        self.images = {
            target: staging_path(staging_directory.absolute(), checkpoint, domain.uuid, target)
            for target in self._bases
        }
        self._room = room
        self.domain_name = domain.name
        self.scope = domain.scope
        self.host = domain.host
        self._events = JobEvents(domain)
        self._listening = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self._events)  # before the start: a small job ends during it
            super().__enter__()
            self._listening = stack.pop_all()
        return self

    def __exit__(self, *failure: Any) -> None:
        with self._listening:
            super().__exit__(*failure)

    def wait(self, watch: Watch) -> None:
        """Wait until QEMU has written all images.

        libvirt's event ends the wait at once. If it is missed because the daemon was restarted, a check
        every two seconds finds that the job is gone. Raises :class:`DomainNotRunning` if the guest was
        powered off, :class:`StagingFull`, and :class:`HypervisorError` if the job failed in another way,
        was cancelled, or ended without a report, or if the connection is lost.
        """
        while open_job(self._domain) == self._as_opened():
            self._events.wait(_LOOK)
            self._tell(watch)
        end = self._completed() or self._events.last
        if end is None or not end.success:
            self._fail(end)

    def _tell(self, watch: Watch) -> None:
        with translate(f"cannot read the job statistics of domain {self._domain.name}"):
            statistics = self._domain.handle.jobStats() if self._domain.is_active() else {}
        if libvirt.VIR_DOMAIN_JOB_DISK_TOTAL in statistics:
            total = int(statistics[libvirt.VIR_DOMAIN_JOB_DISK_TOTAL])
            watch(int(statistics[libvirt.VIR_DOMAIN_JOB_DISK_PROCESSED]), total)

    def _completed(self) -> JobEnd | None:
        """Return libvirt's statistics of the last job, which it gives once; None if it has none.

        They are of this job; an event may be of an earlier one.
        """
        try:
            return parse_end(self._domain.handle.jobStats(libvirt.VIR_DOMAIN_JOB_STATS_COMPLETED))
        except libvirt.libvirtError:  # the domain is shut off or gone, which _fail detects
            return None

    def _fail(self, end: JobEnd | None) -> None:
        name = self._domain.name
        if self._domain.has_ended():
            raise DomainNotRunning(f"domain {name} was shut off before QEMU had written all images")
        if end is None:
            raise HypervisorError(f"the push job of domain {name} has ended, and libvirt does not report how")
        if end.reason == _NO_SPACE:
            folder = next(iter(self.images.values())).parent
            raise StagingFull(f"staging directory {folder} is full: the push job of domain {name} failed")
        raise HypervisorError(f"the push job of domain {name} failed: {end.reason or 'it was cancelled'}")

    def _begin(self) -> None:
        self._events.forget()  # the end of an earlier job
        super()._begin()
        for target, length in self._room.items():
            reserve(self.images[target], length, self.host)

    def _files(self) -> Mapping[str, Path]:
        return self.images

    def _xml(self) -> str:
        return push_xml(self._bases, self.images, self.seal)

    def _as_opened(self) -> OpenJob:
        return OpenJob(None, frozenset(), frozenset(self.images.values()))


def push_xml(bases: Mapping[str, str | None], images: Mapping[str, Path], seal: Seal | None = None) -> str:
    """Return the ``<domainbackup>`` of a push job into qcow2 ``images``, created by libvirt or ``seal``."""
    root = ET.Element("domainbackup", mode="push")
    for target, disk in add_disks(root, bases).items():
        ET.SubElement(disk, "driver", type="qcow2")
        add_encryption(ET.SubElement(disk, "target", file=str(images[target])), seal, target)
    return ET.tostring(root, encoding="unicode")
