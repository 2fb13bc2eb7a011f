"""A host of which puller reaches only libvirt: none of its files and programs."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from subprocess import CompletedProcess
from typing import NoReturn

from puller.cancelling import CancelScope
from puller.host.access import FileStatus, HostAccess
from puller.host.passphrases import NOTHING, Handed


class ClosedHost(HostAccess):
    """The host ``name``, which calls itself ``node``. Questions about its files raise PermissionError."""

    has_files = False

    def __init__(self, name: str, node: str) -> None:
        self.name = name
        self._node = node

    def _refuse(self) -> NoReturn:
        raise PermissionError(errno.EACCES, f"puller has no way to the files of host {self.name}")

    def node_name(self) -> str:
        """See HostAccess."""
        return self._node

    def run(
        self,
        words: Sequence[str],
        seconds: float,
        scope: CancelScope | None = None,
        *,
        handed: Handed = NOTHING,
        umask: int = -1,
    ) -> CompletedProcess[bytes]:
        """See HostAccess."""
        self._refuse()

    def handing(self, passphrases: Sequence[bytes | None]) -> AbstractContextManager[Handed]:
        """See HostAccess."""
        self._refuse()

    def status(self, path: Path) -> FileStatus | None:
        """See HostAccess."""
        self._refuse()

    def read(self, path: Path, limit: int) -> bytes:
        """See HostAccess."""
        self._refuse()

    def matching(self, folder: Path, pattern: str) -> tuple[Path, ...]:
        """See HostAccess."""
        return ()

    def files_below(self, folder: Path) -> tuple[Path, ...]:
        """See HostAccess."""
        self._refuse()

    def remove(self, path: Path) -> None:
        """See HostAccess."""
        self._refuse()

    def free_bytes(self, folder: Path) -> int:
        """See HostAccess."""
        self._refuse()

    def create(self, path: Path) -> None:
        """See HostAccess."""
        self._refuse()

    def allocate(self, path: Path, length: int) -> None:
        """See HostAccess."""
        self._refuse()

    def keep(self, path: Path, name: Path) -> None:
        """See HostAccess."""
        self._refuse()

    def resolved(self, path: Path) -> Path:
        """See HostAccess."""
        self._refuse()

    def runtime_directory(self) -> Path:
        """See HostAccess."""
        self._refuse()

    def held(self, path: Path, mode: int, *, remove: bool) -> AbstractContextManager[None]:
        """See HostAccess."""
        self._refuse()

    def holder(self, path: Path) -> str | None:
        """See HostAccess."""
        self._refuse()

    def socket(self, path: Path) -> AbstractContextManager[Path]:
        """See HostAccess."""
        self._refuse()
