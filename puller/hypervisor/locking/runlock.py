"""A lock that shows that a run is alive, for runs with another lock directory.

The lock of a domain (``puller.hypervisor.locking.lock``) is in a directory of this host and user. A run in a
container, or of another user, has another directory, yet it reaches the same domain and its job; to it a
living job looks like one that a dead run left open. So each run also locks a file in the directory of its
temporary files, which every user who can end the job can read.
"""

from __future__ import annotations

from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Protocol, Self

from puller.errors import Locked
from puller.host.access import HostAccess, LockHeld
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

    @property
    def host(self) -> HostAccess:
        """The host where it runs."""
        ...


class RunLock:
    """Held while the context lasts by the run over ``domain`` that creates ``checkpoint``.

    It is omitted in a directory where this user may not write: then only the domain's lock protects the run.
    """

    def __init__(self, directory: Path, checkpoint: str, domain: Owner) -> None:
        self._path = directory / f"{checkpoint}-{domain.uuid}-run{SUFFIX}"
        self._host = domain.host
        self._held = ExitStack()

    def __enter__(self) -> Self:
        with suppress(OSError, LockHeld):
            # Readable by all, so that other users can see the lock.
            self._held.enter_context(self._host.held(self._path, 0o644, remove=True))
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()


def require_dead(domain: Owner, repository_id: str, directory: Path) -> None:
    """Raise :class:`Locked` if a living run of ours over ``domain`` has its files in ``directory``."""
    for path in domain.host.matching(directory, f"{owner_prefix(repository_id)}*-{domain.uuid}-*{SUFFIX}"):
        with suppress(OSError):
            holder = domain.host.holder(path)
            if holder is not None:
                raise Locked(
                    f"domain {domain.name} is being backed up by {holder}, of another user, container or host"
                )
