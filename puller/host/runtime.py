"""Directories for files that last until the host's next start: locks and puller's own sockets.

A Unix socket's path has at most 107 bytes (``sun_path``, unix(7)), so ``TMPDIR``, which may name any
directory, is not suitable for sockets.
"""

from __future__ import annotations

import os
import tempfile
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


def socket_folder(prefix: str, socket: str) -> tempfile.TemporaryDirectory[str]:
    """Create a directory that only this user can enter, for a socket named ``socket``.

    Raises PullerError if the path would be too long everywhere, or no directory is writable.
    """
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
