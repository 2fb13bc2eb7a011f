"""A pull backup job: libvirt freezes the disks at a point in time and QEMU exports them over NBD.

One call makes the new checkpoint and opens the job, so that the checkpoint and what the exports show are the
same moment. See https://libvirt.org/kbase/live_full_disk_backup.html and
https://libvirt.org/formatbackup.html.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from puller.errors import HypervisorError, JobRunning
from puller.hypervisor import checkpoint as checkpoints
from puller.hypervisor.domain import Domain
from puller.hypervisor.export import parse_exports
from puller.hypervisor.faults import translate
from puller.hypervisor.frozen import DiskExport
from puller.hypervisor.openjob import OpenJob, end, job_xml, open_job
from puller.hypervisor.scratch import scratch_path


def socket_path(domain: Domain, checkpoint: str) -> Path:
    """Where the exports of the job that makes ``checkpoint`` listen: in the domain's runtime folder.

    A socket's path has 107 bytes at most, so the name keeps only the ends of the checkpoint's: whose it
    is, and the random part.
    """
    return domain.runtime_directory() / f"{checkpoint[: checkpoints.PREFIX_LENGTH]}{checkpoint[-8:]}.sock"


class PullJob:
    """An open pull job: :class:`~puller.hypervisor.frozen.FrozenDisks` while it lasts.

    ``bases`` names the disks of the job by target, each with the checkpoint that it is to be incremental
    from, or None to read all of it. ``checkpoint`` is the new one, for exactly these disks but the
    ``untracked`` ones, which cannot have a dirty bitmap; if all are such, there is no checkpoint.

    Beginning raises :class:`DomainNotRunning`, :class:`JobRunning` if any backup job is open,
    :class:`CheckpointUnusable` if a base is gone or broken, else :class:`HypervisorError`.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - what a job is made of
        self,
        domain: Domain,
        bases: Mapping[str, str | None],
        checkpoint: str,
        scratch_directory: Path,
        socket: Path,
        untracked: Collection[str] = (),
    ) -> None:
        if not bases:
            raise ValueError("a pull job needs a disk: libvirt takes an empty list for all disks")
        self._domain = domain
        self._bases = dict(bases)
        self.checkpoint = checkpoint
        self._socket = socket
        self._tracked = [target for target in self._bases if target not in untracked]
        self._scratch = {
            target: scratch_path(scratch_directory.absolute(), checkpoint, domain.uuid, target)
            for target in self._bases
        }
        self.exports: tuple[DiskExport, ...] = ()

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

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.end()
        except BaseException:
            # A signal that comes just now must not leave the job open: an open job costs the guest.
            self.end()
            raise

    def end(self) -> None:
        """End the job and wait until libvirt has none; no scratch file and no socket is left then.

        Fine if it has ended already. Raises :class:`HypervisorError`.
        """
        end(self._domain, self._as_opened())

    @property
    def consistency(self) -> str:
        """As after a power cut."""
        return "crash"

    def confirm(self) -> None:
        """QEMU's exports show the frozen moment as long as they show anything."""

    def scratch_usage(self) -> tuple[int, int]:
        """Bytes that the guest's writes have taken of the scratch so far, and the most that they can take.

        Poll it every few seconds at most: before libvirt 10.8 frequent questions during a backup could
        crash the daemon. Raises :class:`HypervisorError` if the job is no more.
        """
        with translate(f"cannot ask for the statistics of domain {self._domain.name}"):
            statistics = self._domain.handle.jobStats()
        if "disk_temp_used" not in statistics:
            raise HypervisorError(f"the backup job of domain {self._domain.name} has ended before its time")
        return int(statistics["disk_temp_used"]), int(statistics["disk_temp_total"])

    def _begin(self) -> None:
        backup = backup_xml(self._bases, self._scratch, self._socket)
        record = checkpoint_xml(self.checkpoint, self._tracked) if self._tracked else None
        with translate(f"cannot begin a backup of domain {self._domain.name}"):
            self._domain.handle.backupBegin(backup, record, 0)
        self.exports = parse_exports(job_xml(self._domain) or "<domainbackup/>", self._socket)
        if {export.target for export in self.exports} != self._bases.keys():
            raise HypervisorError(f"the backup job of domain {self._domain.name} ended as soon as it began")

    def _undo(self) -> None:
        """Take back what a begin that failed has done: libvirt can fail after it made the checkpoint.

        What fails here is for the next run to reconcile; the first error says more.
        """
        with suppress(HypervisorError):
            self.end()
        with suppress(HypervisorError):
            checkpoints.delete(self._domain, self.checkpoint)

    def _as_opened(self) -> OpenJob:
        """The job as libvirt describes it while it is open."""
        return OpenJob(self._socket, frozenset(self._scratch.values()))


def backup_xml(bases: Mapping[str, str | None], scratch: Mapping[str, Path], socket: Path) -> str:
    """The ``<domainbackup>`` of a pull job; disks that are not named take no part in it."""
    root = ET.Element("domainbackup", mode="pull")
    ET.SubElement(root, "server", transport="unix", socket=str(socket))
    disks = ET.SubElement(root, "disks")
    for target, base in bases.items():
        disk = ET.SubElement(disks, "disk", name=target, backup="yes", type="file")
        disk.set("backupmode", "full" if base is None else "incremental")
        if base is not None:
            disk.set("incremental", base)
        ET.SubElement(disk, "scratch", file=str(scratch[target]))
    return ET.tostring(root, encoding="unicode")


def checkpoint_xml(name: str, targets: Iterable[str]) -> str:
    """The ``<domaincheckpoint>`` with a bitmap for these disks; disks that are not named get none."""
    root = ET.Element("domaincheckpoint")
    ET.SubElement(root, "name").text = name
    disks = ET.SubElement(root, "disks")
    for target in targets:
        ET.SubElement(disks, "disk", name=target, checkpoint="bitmap")
    return ET.tostring(root, encoding="unicode")
