"""Encrypted temporary files of a job, for disks that are encrypted themselves.

libvirt can create such files at the start of a job. But QEMU then measures the processor and stretches a
passphrase that needs no stretching, for seconds in its main loop, while the guest's file systems are frozen.
The measurement also fails on hosts that count processor time in ticks (QEMU 7.2). So the files are created
beforehand, and libvirt uses them as they are.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from puller.cancelling import CancelScope
from puller.errors import HypervisorError
from puller.host.access import LOCAL, HostAccess
from puller.host.passphrases import secret_id
from puller.host.qemu import Failure, qemu_img
from puller.hypervisor.domain.disks.disk import Disk
from puller.hypervisor.domain.domain import Domain
from puller.hypervisor.secret import Throwaway, passphrase, uuid_of
from puller.hypervisor.space.scratch import discard

_STRETCH = 10
"""Milliseconds of stretching for a random passphrase, which needs none."""

_TICKS = "Unable to get accurate CPU usage"
"""QEMU's message if no tick fell into its measurement; a retry mostly succeeds."""

_TRIES = 100

_CREATE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class _Lock:
    uuid: str
    passphrase: bytes = field(repr=False)
    stretch: int | None


class Seal:
    """The temporary files of one job on ``disks``, encrypted for encrypted disks.

    Their passphrase is discarded with the job. But images of disks in ``kept``, which the user keeps, get
    the passphrase of the disk itself.
    """

    def __init__(
        self, domain: Domain, disks: Sequence[Disk], checkpoint: str, kept: Collection[str] = ()
    ) -> None:
        self._domain = domain
        self._disks = disks
        self._kept = kept
        self._throwaway = Throwaway(domain, checkpoint)
        self._locks: dict[str, _Lock] = {}

    @contextmanager
    def made(self, files: Mapping[str, Path]) -> Iterator[None]:
        """Create the file of each disk and return them by target; the end of the context removes them.

        Raises HypervisorError, UnsupportedDisk.
        """
        with ExitStack() as stack:
            throwaway = stack.enter_context(self._throwaway)
            for disk in self._disks:
                if disk.lock is not None:
                    self._locks[disk.target] = self._lock(disk, throwaway)
                stack.callback(discard, files[disk.target], self._domain.host)
                self._make(disk, files[disk.target])
            yield

    def _lock(self, disk: Disk, throwaway: Throwaway) -> _Lock:
        if disk.target not in self._kept or disk.lock is None:
            return _Lock(throwaway.uuid, throwaway.passphrase, _STRETCH)
        uuid = uuid_of(self._domain, disk.target, disk.lock)
        return _Lock(uuid, passphrase(self._domain, disk.target, disk.lock), None)

    def secret(self, target: str) -> str | None:
        """Return the UUID of libvirt's secret for the file of the disk; None if it is not encrypted."""
        lock = self._locks.get(target)
        return None if lock is None else lock.uuid

    def passphrase(self, target: str) -> bytes | None:
        """Return the passphrase for the file of the disk; None if it is not encrypted."""
        lock = self._locks.get(target)
        return None if lock is None else lock.passphrase

    def _make(self, disk: Disk, path: Path) -> None:
        try:
            self._domain.host.create(path)
        except OSError as error:
            raise HypervisorError(
                f"cannot create {path}: {error.strerror}",
                advice="Choose another directory with --scratch-dir, or with --staging-dir for a push.",
            ) from error
        lock = self._locks.get(disk.target)
        options = list(_options(lock, disk.cluster))
        named = ["-o", ",".join(options)] if options else []
        size = str(self._domain.disk_size(disk.target))
        key = None if lock is None else lock.passphrase
        create(self._domain.scope, key, *named, "--", str(path), size, host=self._domain.host)


def _options(lock: _Lock | None, cluster: int | None) -> Iterator[str]:
    if cluster is not None:
        yield f"cluster_size={cluster}"
    if lock is not None:
        yield f"encrypt.format=luks,encrypt.key-secret={secret_id(0)}"
        if lock.stretch is not None:
            yield f"encrypt.iter-time={lock.stretch}"


def create(scope: CancelScope, passphrase: bytes | None, *words: str, host: HostAccess = LOCAL) -> None:
    """Create a qcow2 image with ``qemu-img create``. Raises HypervisorError."""
    command = ["create", "-q", "-f", "qcow2", *words]
    failure = Failure(HypervisorError, f"qemu-img cannot create {words[-2]}")
    for left in reversed(range(_TRIES)):
        try:
            # The umask, because a failed try removes the file and the next one creates it.
            qemu_img(
                command,
                _CREATE_SECONDS,
                failure,
                [passphrase],
                host=host,
                scope=scope,
                umask=0o077,
            )
        except HypervisorError as error:
            if _TICKS not in error.message or not left:
                raise
        else:
            return


def seal_of(
    domain: Domain, disks: Sequence[Disk], checkpoint: str, kept: Collection[str] = ()
) -> Seal | None:
    """Return the seal of a job on ``disks``; None if none of them is encrypted."""
    return Seal(domain, disks, checkpoint, kept) if any(disk.lock is not None for disk in disks) else None
