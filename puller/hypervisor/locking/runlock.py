"""A lock that shows that a run is alive, for runs with another lock directory.

The lock of a domain (``puller.hypervisor.locking.lock``) is in a directory of this host and user. A run in a
container, or of another user, has another directory, yet it reaches the same domain and its job; to it a
living job looks like one that a dead run left open. So each run also locks a file in the directory of its
temporary files, which every user who can end the job can read.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path
from typing import Protocol, Self

from puller.errors import Locked
from puller.hypervisor.domain.checkpoint import owner_prefix

SUFFIX = ".lock"


class Owner(Protocol):
    """The domain that a run is over."""

    @property
    def name(self) -> str:
        """Its name."""
        ...

    @property
    def uuid(self) -> str:
        """Its UUID."""
        ...


class RunLock:
    """Held while the context lasts by the run over ``domain`` that creates ``checkpoint``.

    It is omitted in a directory where this user may not write: then only the domain's lock protects the run.
    """

    def __init__(self, directory: Path, checkpoint: str, domain: Owner) -> None:
        self._path = directory / f"{checkpoint}-{domain.uuid}-run{SUFFIX}"
        self._descriptor = -1

    def __enter__(self) -> Self:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        with suppress(OSError):
            self._descriptor = os.open(self._path, flags, 0o600)
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)
            # Readable by all whatever the umask, so that other users can see the lock.
            os.fchmod(self._descriptor, 0o644)
        return self

    def __exit__(self, *_: object) -> None:
        if self._descriptor >= 0:
            with suppress(OSError):
                self._path.unlink()
            os.close(self._descriptor)


def require_dead(domain: Owner, repository_id: str, directory: Path) -> None:
    """Raise :class:`Locked` if a living run of ours over ``domain`` has its files in ``directory``."""
    for path in directory.glob(f"{owner_prefix(repository_id)}*-{domain.uuid}-*{SUFFIX}"):
        with suppress(OSError):
            holder = _holder(path)
            if holder is not None:
                other = f"process {holder} of another user or container"
                raise Locked(f"domain {domain.name} is being backed up by {other}")


def _holder(path: Path) -> str | None:
    """Return the process named in the file at ``path`` if it is locked; None if it is not."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
    finally:
        os.close(descriptor)
    return None
