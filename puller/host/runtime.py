"""Directories for files that last until the host's next start: locks and puller's own sockets.

A Unix socket's path has at most 107 bytes (``sun_path``, unix(7)), so ``TMPDIR``, which may name any
directory, is not suitable for sockets.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from puller.errors import PullerError
from puller.host.privatefolder import require_kept

RUNTIME = Path("/run/user")
"""Parent of the runtime directories that systemd creates for users; see pam_systemd(8)."""

SOCKET_PATH = 107
"""Most bytes of the path of a Unix socket, without the final zero."""

_RANDOM = 8
"""Characters that ``tempfile`` adds to a prefix."""


def runtime_directory() -> Path:
    """Return the directory of this user's locks: ``/run/puller`` for root, else in the runtime directory.

    ``XDG_RUNTIME_DIR`` names that; cron and su do not set it, so the usual path is tried too. Without a
    runtime directory, it is this user's directory among the temporary files.
    """
    if os.geteuid() == 0:
        return Path("/run/puller")
    runtime = Path(os.environ.get("XDG_RUNTIME_DIR") or RUNTIME / str(os.geteuid()))
    if runtime.is_dir():
        return runtime / "puller"
    return Path(tempfile.gettempdir()) / f"puller-{os.geteuid()}"


class SocketFolder:
    """A folder that only this user can enter, in which a socket of the name ``socket`` can be.

    A lock of the kernel's on the folder says that its process lives, whatever the namespaces of processes.
    Raises PullerError if no folder of this host has room for it.
    """

    def __init__(self, prefix: str, socket: str) -> None:
        self._temporary = _make(prefix, socket)
        self.path = Path(self._temporary.name)
        self._lock = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        # Another run may look at the folder in this moment, whether it is abandoned; that takes milliseconds.
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def cleanup(self) -> None:
        """Remove the folder; fine if that is done."""
        self._temporary.cleanup()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def abandoned(prefix: str) -> Iterator[Path]:
    """The folders of sockets of this user whose process has ended without removing them."""
    for folder in runtime_directory().glob(f"{prefix}*"):
        with suppress(OSError):  # removed just now, or locked by its process
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                yield folder
            finally:
                os.close(lock)


def remove_abandoned(prefix: str) -> None:
    """Remove the folders of sockets that nothing serves once its process has ended."""
    for folder in abandoned(prefix):
        shutil.rmtree(folder, ignore_errors=True)


def _make(prefix: str, socket: str) -> tempfile.TemporaryDirectory[str]:
    tried = (runtime_directory(), Path(tempfile.gettempdir()), Path("/tmp"))
    for parent in tried:
        length = len(os.fsencode(parent / prefix)) + _RANDOM + len(os.fsencode(f"/{socket}"))
        if length > SOCKET_PATH:
            continue
        with suppress(OSError):
            parent.mkdir(mode=0o700, exist_ok=True)
            require_kept(parent)
            return tempfile.TemporaryDirectory(prefix=prefix, dir=parent)
    raise PullerError(
        f"cannot create a socket in any of {', '.join(dict.fromkeys(map(str, tried)))}",
        advice="Make one of these directories writable by this user, or set TMPDIR to a short path.",
    )
