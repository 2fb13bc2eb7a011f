"""The host where QEMU runs, seen from puller: its files and its programs.

Mostly that is this host. ``puller.host.sshhost`` is another one. Methods that take a path raise OSError as
Python's own do, and HostUnreachable if there is no way to the host.
"""

from __future__ import annotations

import fcntl
import os
import platform
import stat
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess

from puller.cancelling import CancelScope
from puller.host import programs
from puller.host.allocation import allocate
from puller.host.passphrases import NOTHING, Handed, handed_over
from puller.host.runtime import runtime_directory


@dataclass(frozen=True, slots=True)
class FileStatus:
    """``kind`` is ``file``, ``directory``, ``block`` or ``other``.

    ``identity`` is the same for each name of a file; ``modified`` is in nanoseconds since 1970.
    """

    kind: str
    identity: tuple[int, ...]
    size: int
    modified: int


LOCK_TEXT = 100
"""Most bytes that a lock file says of its holder."""


class LockHeld(Exception):
    """A lock of the host is held; the argument names the holder."""


class HostAccess(ABC):
    """Files and programs of one host."""

    name: str | None = None
    """The host's name for messages; None for this host."""

    has_files = True
    """Whether puller has a way to the files of the host."""

    watch_interval = 0.0
    """The least seconds between two questions for the free space while a job is open."""

    def close(self) -> None:  # noqa: B027 - this host needs none
        """End the way to the host."""

    @abstractmethod
    def node_name(self) -> str:
        """Return the name that the host gives itself, as ``uname -n`` prints it."""

    @abstractmethod
    def run(
        self,
        words: Sequence[str],
        seconds: float,
        scope: CancelScope | None = None,
        *,
        handed: Handed = NOTHING,
        umask: int = -1,
    ) -> CompletedProcess[bytes]:
        """Run a program to its end; see ``programs.run``. ``handed`` are passphrases for it."""

    @abstractmethod
    def handing(self, passphrases: Sequence[bytes | None]) -> AbstractContextManager[Handed]:
        """Return passphrases in the form in which ``run`` takes them."""

    @abstractmethod
    def status(self, path: Path) -> FileStatus | None:
        """Return the status of what ``path`` leads to; None if there is nothing."""

    @abstractmethod
    def read(self, path: Path, limit: int) -> bytes:
        """Return the content of a file or device, at most ``limit`` bytes."""

    @abstractmethod
    def matching(self, folder: Path, pattern: str) -> tuple[Path, ...]:
        """Return the entries of ``folder`` that match, sorted; none if it cannot be listed."""

    @abstractmethod
    def files_below(self, folder: Path) -> tuple[Path, ...]:
        """Return all files below ``folder``, sorted."""

    @abstractmethod
    def remove(self, path: Path) -> None:
        """Delete a file."""

    @abstractmethod
    def free_bytes(self, folder: Path) -> int:
        """Return the bytes that an ordinary user may still write in ``folder``."""

    @abstractmethod
    def create(self, path: Path) -> None:
        """Create an empty file that did not exist, which only this user may open."""

    @abstractmethod
    def allocate(self, path: Path, length: int) -> None:
        """Allocate space for the first ``length`` bytes of a file, if its file system can."""

    @abstractmethod
    def keep(self, path: Path, name: Path) -> None:
        """Release the space of a file beyond its size, and rename it."""

    @abstractmethod
    def resolved(self, path: Path) -> Path:
        """Return the path without symbolic links; it need not exist."""

    @abstractmethod
    def runtime_directory(self) -> Path:
        """Return the directory of this user's locks on the host: see ``puller.host.runtime``."""

    @abstractmethod
    def held(self, path: Path, mode: int, *, remove: bool) -> AbstractContextManager[None]:
        """Hold the lock file ``path`` while the context lasts, against pullers of any host.

        The file gets ``mode``, and goes with the lock if ``remove``. Raises LockHeld.
        """

    @abstractmethod
    def holder(self, path: Path) -> str | None:
        """Return the holder of the lock file ``path``, such as ``process 4711``, or None."""

    @abstractmethod
    def socket(self, path: Path) -> AbstractContextManager[Path]:
        """Return a socket of this host that leads to the Unix socket ``path`` while the context lasts."""

    def await_disconnection(self, path: Path) -> None:  # noqa: B027 - this host's kernel closes at once
        """Wait a few seconds for the server at the Unix socket ``path`` to have no connection any more."""


class LocalHost(HostAccess):
    """This host."""

    def node_name(self) -> str:
        """See HostAccess."""
        return platform.node()

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
        return programs.run(words, seconds, scope, pass_fds=handed.descriptors, umask=umask)

    def handing(self, passphrases: Sequence[bytes | None]) -> AbstractContextManager[Handed]:
        """See HostAccess."""
        return handed_over(passphrases)

    def status(self, path: Path) -> FileStatus | None:
        """See HostAccess."""
        try:
            found = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        kind = _KINDS.get(stat.S_IFMT(found.st_mode), "other")
        identity = (found.st_rdev,) if kind == "block" else (found.st_dev, found.st_ino)
        return FileStatus(kind, identity, found.st_size, found.st_mtime_ns)

    def read(self, path: Path, limit: int) -> bytes:
        """See HostAccess."""
        with path.open("rb") as file:
            return file.read(limit)

    def matching(self, folder: Path, pattern: str) -> tuple[Path, ...]:
        """See HostAccess."""
        return tuple(sorted(folder.glob(pattern)))

    def files_below(self, folder: Path) -> tuple[Path, ...]:
        """See HostAccess."""
        return tuple(sorted(path for path in folder.rglob("*") if not path.is_dir()))

    def remove(self, path: Path) -> None:
        """See HostAccess."""
        path.unlink()

    def free_bytes(self, folder: Path) -> int:
        """See HostAccess."""
        found = os.statvfs(folder)
        return found.f_bavail * found.f_frsize

    def create(self, path: Path) -> None:
        """See HostAccess."""
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))

    def allocate(self, path: Path, length: int) -> None:
        """See HostAccess."""
        descriptor = os.open(path, os.O_WRONLY)
        try:
            allocate(descriptor, 0, length)
        finally:
            os.close(descriptor)

    def keep(self, path: Path, name: Path) -> None:
        """See HostAccess."""
        os.truncate(path, path.stat().st_size)
        path.rename(name)

    def resolved(self, path: Path) -> Path:
        """See HostAccess."""
        return path.resolve()

    def runtime_directory(self) -> Path:
        """See HostAccess."""
        return runtime_directory()

    @contextmanager
    def held(self, path: Path, mode: int, *, remove: bool) -> Iterator[None]:
        """See HostAccess."""
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            _lock(descriptor, fcntl.LOCK_EX)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"process {os.getpid()}\n".encode(), 0)
            os.fchmod(descriptor, mode)  # whatever the umask
            try:
                yield
            finally:
                if remove:
                    with suppress(OSError):
                        path.unlink()
        finally:
            os.close(descriptor)

    def holder(self, path: Path) -> str | None:
        """See HostAccess."""
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            _lock(descriptor, fcntl.LOCK_SH)
        except LockHeld as error:
            return str(error)
        finally:
            os.close(descriptor)
        return None

    def socket(self, path: Path) -> AbstractContextManager[Path]:
        """See HostAccess."""
        return nullcontext(path)


def _lock(descriptor: int, kind: int) -> None:
    """Lock the file. Raises LockHeld with what the holder wrote into it."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError as error:
        said = os.pread(descriptor, LOCK_TEXT, 0).decode("ascii", "replace").strip()
        raise LockHeld(said or "an unknown process") from error


LOCAL = LocalHost()

_KINDS = {stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFBLK: "block"}
