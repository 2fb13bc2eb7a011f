"""Locks on this host: one puller for each domain, and one run for each job."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Self

from puller.errors import Locked, PullerError
from puller.host.access import LOCAL, LOCK_TEXT, LockHeld
from puller.host.privatefolder import make_private
from puller.host.runtime import runtime_directory
from puller.hypervisor.locking.runlock import Owner
from puller.units import MIB


class HostLock:
    """Holds the lock file ``path`` against other pullers on this host while the context lasts.

    It is a ``flock`` on a small file, so the kernel releases it when the process dies. The file stays:
    deleting it would let two processes hold locks on two files of one name. Entering raises :class:`Locked`
    at once if another process holds it; ``what`` begins the message.
    """

    def __init__(self, path: Path, what: str) -> None:
        self._path = path
        self._what = what
        self._descriptor = -1

    def __enter__(self) -> Self:
        self._descriptor = _open(self._path)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(self._descriptor, LOCK_TEXT, 0).decode("ascii", "replace").strip()
            os.close(self._descriptor)
            raise Locked(f"{self._what} by {_named(holder)}") from error
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)


class DomainLock(HostLock):
    """Holds the domain ``uuid`` against other pullers on this host."""

    def __init__(self, uuid: str, name: str, directory: Path) -> None:
        super().__init__(directory / f"{uuid}.lock", f"domain {name} is being backed up")


class JobLock(HostLock):
    """Holds one ``step`` (such as ``backup``) of the job ``name`` against other pullers on this host."""

    def __init__(self, name: str, step: str, directory: Path) -> None:
        super().__init__(directory / f"job-{name}-{step}.lock", f"the {step} of job {name} is being run")


@contextmanager
def domain_held(domain: Owner) -> Iterator[None]:
    """Hold the domain against pullers of any host, by a lock on the host where it runs. Raises Locked."""
    held = DomainLock(domain.uuid, domain.name, lock_directory()) if _is_held_here(domain) else _there(domain)
    with held:
        yield


def _is_held_here(domain: Owner) -> bool:
    """Whether the lock is on this host. Without a way to another, it stops only the pullers of this one."""
    return domain.host is LOCAL or not domain.host.has_files


@contextmanager
def _there(domain: Owner) -> Iterator[None]:
    path = domain.host.runtime_directory() / f"{domain.uuid}.lock"
    with ExitStack() as stack:
        try:
            stack.enter_context(domain.host.held(path, 0o600, remove=False))
        except LockHeld as error:
            raise Locked(f"domain {domain.name} is being backed up by {_named(str(error))}") from error
        except OSError as error:
            raise PullerError(
                f"cannot use the lock file {path} of host {domain.host.name}: {error.strerror}",
                advice="Let only this user own and write to its directory, or remove the directory.",
            ) from error
        yield


def lock_directory() -> Path:
    """Return the directory of this user's locks."""
    return runtime_directory()


def holder(domain: Owner) -> int | None:
    """Return the process that holds the lock of the domain, or None, without touching the lock.

    A test by ``flock`` could make a backup fail that starts at the same moment.
    """
    host = LOCAL if _is_held_here(domain) else domain.host
    directory = lock_directory() if host is LOCAL else host.runtime_directory()
    try:
        found = host.status(directory / f"{domain.uuid}.lock")
        held = host.read(Path("/proc/locks"), _LOCKS)
    except OSError:
        return None
    if found is None:
        return None
    inode = found.identity[-1]
    for line in held.decode(errors="replace").splitlines():
        fields = line.split()  # 1: FLOCK ADVISORY WRITE <pid> <major>:<minor>:<inode> 0 EOF
        if fields[1] == "FLOCK" and fields[5].rpartition(":")[2] == str(inode):
            return int(fields[4])
    return None


_LOCKS = MIB
"""Bytes of the kernel's list of locks that are read."""


def _named(holder: str) -> str:
    """Return the holder in words. A puller of another host writes words, one of this host a number."""
    return holder if holder.startswith("process") else f"process {holder or 'unknown'}"


def _open(path: Path) -> int:
    """Return a descriptor of the lock file, which no child process inherits."""
    try:
        make_private(path.parent)  # another user who can write there could hold or remove our locks
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise PullerError(
            f"cannot use the lock file {path}: {error.strerror or error}",
            advice="Let only this user own and write to its directory, or remove the directory.",
        ) from error
