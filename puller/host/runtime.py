"""Where this process keeps what lasts no longer than the host is up: locks, and sockets of its own.

A Unix socket's path has 107 bytes at most (``sun_path``, unix(7)), so ``TMPDIR``, which may name any folder,
is no place for one.
"""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path

from puller.errors import PullerError
from puller.host.privatefolder import require_kept

RUNTIME = Path("/run/user")
"""Where systemd makes the runtime folders of users, each by its number; see pam_systemd(8)."""

SOCKET_PATH = 107
"""Bytes that the path of a Unix socket has at most, without the final zero."""

_RANDOM = 8
"""Characters that ``tempfile`` adds to a prefix."""


def runtime_directory() -> Path:
    """Where the locks of this user are: ``/run/puller`` for root, else below the user's runtime folder.

    ``XDG_RUNTIME_DIR`` names that; cron and su do not set it, so the usual place is looked at. Where there is
    none it is a folder of this user's own among the temporary files.
    """
    if os.geteuid() == 0:
        return Path("/run/puller")
    runtime = Path(os.environ.get("XDG_RUNTIME_DIR") or RUNTIME / str(os.geteuid()))
    if runtime.is_dir():
        return runtime / "puller"
    return Path(tempfile.gettempdir()) / f"puller-{os.geteuid()}"


def socket_folder(prefix: str, socket: str) -> tempfile.TemporaryDirectory[str]:
    """Make a folder that only this user can enter, in which a socket of the name ``socket`` can be.

    Raises PullerError if no folder of this host has room for it.
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
        f"cannot make a socket in any of {', '.join(dict.fromkeys(map(str, tried)))}",
        advice="Make one of these directories writable for this user, or set TMPDIR to a short path.",
    )
