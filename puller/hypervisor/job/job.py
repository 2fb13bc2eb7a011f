"""A pull backup job: libvirt freezes the disks at a point in time and QEMU exports them over NBD.

See https://libvirt.org/kbase/live_full_disk_backup.html and https://libvirt.org/formatbackup.html.
"""

from __future__ import annotations

import os
import xml.etree.ElementTree as ET
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from puller.errors import HypervisorError, PullerError
from puller.host.runtime import SOCKET_PATH
from puller.hypervisor.domain import checkpoint as checkpoints
from puller.hypervisor.domain.domain import Domain
from puller.hypervisor.faults import translate
from puller.hypervisor.job.backupjob import BackupJob, add_disks, add_encryption
from puller.hypervisor.job.export import parse_exports
from puller.hypervisor.job.listener import Listener
from puller.hypervisor.job.openjob import OpenJob, job_xml
from puller.hypervisor.space.scratch import scratch_path
from puller.hypervisor.space.scratchwatch import ScratchWatch
from puller.hypervisor.space.seal import Seal

_SHORTER = "Give the domain a shorter name, or take a push backup with --mode push."


def socket_path(domain: Domain, checkpoint: str) -> Path:
    """Return the socket of the job that creates ``checkpoint``, in the domain's runtime directory.

    The path of a socket must be short, so the name keeps only the ends of the checkpoint's name: the owner
    and the random part.
    """
    return domain.runtime_directory() / f"{checkpoint[: checkpoints.PREFIX_LENGTH]}{checkpoint[-8:]}.sock"


def require_short(socket: Path, advice: str = _SHORTER) -> None:
    """Raise HypervisorError if ``socket`` is too long a path: QEMU would fail while the job starts."""
    if len(os.fsencode(socket)) > SOCKET_PATH:
        raise HypervisorError(
            f"cannot create the socket {socket}: the path is too long",
            advice=advice,
        )


class PullJob(BackupJob):
    """An open pull job. Its exports can be read at once, and show the frozen moment until it ends."""

    def __init__(  # noqa: PLR0913, PLR0917 - the parts of a job
        self,
        domain: Domain,
        bases: Mapping[str, str | None],
        checkpoint: str,
        scratch_directory: Path,
        listener: Listener,
        untracked: Collection[str] = (),
        seal: Seal | None = None,
    ) -> None:
        super().__init__(domain, bases, checkpoint, untracked, seal)
        self._listener = listener
        self._folder = scratch_directory.absolute()
        self._scratch = {
            target: scratch_path(self._folder, checkpoint, domain.uuid, target) for target in self._bases
        }

    @contextmanager
    def prepared(self) -> Iterator[None]:
        """See FrozenDisks: open the way to the exports, too."""
        with self._listener.opened(), super().prepared():
            yield

    def guarded(self, alarm: Callable[[PullerError], None]) -> ScratchWatch:
        """See FrozenDisks: a full scratch would harm the guest."""
        return ScratchWatch(self._folder, alarm, self._domain.host)

    def scratch_used(self) -> int:
        """See FrozenDisks. Raises :class:`HypervisorError` if the job has ended.

        Call it seldom: before libvirt 10.8, frequent queries during a backup could crash the daemon.
        """
        with translate(f"cannot read the job statistics of domain {self._domain.name}"):
            statistics = self._domain.handle.jobStats()
        if "disk_temp_used" not in statistics:
            raise HypervisorError(f"the backup job of domain {self._domain.name} ended too early")
        return int(statistics["disk_temp_used"])

    def end(self) -> None:
        """See BackupJob. A client that stays while QEMU stops its server can crash QEMU (CVE-2024-7409)."""
        self._listener.await_disconnection()
        super().end()

    def _begin(self) -> None:
        while not self._begun():
            self._undo()
        self.exports = parse_exports(job_xml(self._domain) or "<domainbackup/>", self._listener.uri)
        if {export.target for export in self.exports} != self._bases.keys():
            raise HypervisorError(f"the backup job of domain {self._domain.name} ended as soon as it began")

    def _begun(self) -> bool:
        """Begin the job. False if QEMU could not listen, and is to try elsewhere."""
        try:
            super()._begin()
        except HypervisorError as error:
            if not self._listener.elsewhere(error):
                raise
            return False
        return True

    def _files(self) -> Mapping[str, Path]:
        return self._scratch

    def _xml(self) -> str:
        return backup_xml(self._bases, self._scratch, self._listener.element(), self.seal)

    def _as_opened(self) -> OpenJob:
        return OpenJob(self._listener.socket, frozenset(self._scratch.values()))


def backup_xml(
    bases: Mapping[str, str | None],
    scratch: Mapping[str, Path],
    server: ET.Element,
    seal: Seal | None = None,
) -> str:
    """Return the ``<domainbackup>`` of a pull job; disks that are not named take no part in it."""
    root = ET.Element("domainbackup", mode="pull")
    root.append(server)
    for target, disk in add_disks(root, bases).items():
        add_encryption(ET.SubElement(disk, "scratch", file=str(scratch[target])), seal, target)
    return ET.tostring(root, encoding="unicode")
