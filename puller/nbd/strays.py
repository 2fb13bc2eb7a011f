"""Servers of images that a killed puller has left behind without a client.

``qemu-nbd`` ends when its last client leaves, and a puller that dies leaves. One that is killed while its
server starts has never been a client, so the server waits for one and holds the image's lock for ever. A
signal at puller's death (prctl(2), PR_SET_PDEATHSIG) is no way out: qemu-nbd 7.2 that gets SIGTERM while it
starts neither ends nor answers.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from puller.cancelling import CancelScope
from puller.errors import HostUnreachable, NbdError
from puller.host.access import LOCAL, HostAccess
from puller.host.runtime import abandoned
from puller.nbd.connection import Connection
from puller.nbd.qemu_nbd import DISTANT_FOLDER, SOCKET_FOLDER, socket_uri

_END_SECONDS = 10.0
"""How long a server may take to close its image. It takes milliseconds."""

_STARTING_MINUTES = 2
"""After which no server of another host is still starting."""

_OLD_SECONDS = 3600.0
"""After which no server is still starting: that takes 30 s at most."""


def end_strays(host: HostAccess, scope: CancelScope) -> None:
    """Be for a moment the client of each server whose puller is gone: it closes its image and ends."""
    if host is not LOCAL:
        _end_strays_of(host, scope)
        return
    for folder in abandoned(SOCKET_FOLDER):
        _end(folder, scope)


def _end_strays_of(host: HostAccess, scope: CancelScope) -> None:
    """A server with a living client is not harmed by one more."""
    with suppress(subprocess.TimeoutExpired):  # the next run looks again
        for folder in _started_before(host, scope):
            with suppress(NbdError, OSError, HostUnreachable):
                with host.socket(folder / "socket") as socket:
                    Connection(socket_uri(socket), scope=scope).drop()
                continue
            host.run(["rm", "-rf", "--", str(folder)], _END_SECONDS, scope)


def _started_before(host: HostAccess, scope: CancelScope) -> tuple[Path, ...]:
    """Return the directories of servers that are not starting any more, by the other host's own clock."""
    words = ("find", str(host.runtime_directory()), "-maxdepth", "1", "-name", f"{DISTANT_FOLDER}*")
    done = host.run([*words, "-mmin", f"+{_STARTING_MINUTES}", "-print0"], _END_SECONDS, scope)
    return tuple(Path(os.fsdecode(name)) for name in done.stdout.split(b"\0") if name)


def _end(folder: Path, scope: CancelScope) -> None:
    if not _is_answered(folder, scope):
        if _has_ended(folder) or _is_old(folder):
            shutil.rmtree(folder, ignore_errors=True)
        return
    deadline = time.monotonic() + _END_SECONDS
    while _is_answered(folder, scope):
        if time.monotonic() > deadline or scope.cancelled:
            return  # its image's storage hangs
        scope.pause(0.01)
    shutil.rmtree(folder, ignore_errors=True)


def _has_ended(folder: Path) -> bool:
    """Whether its server has listened and is gone: a server ends with its client, and leaves its files."""
    with suppress(OSError, ValueError):
        process = Path(f"/proc/{int((folder / 'pid').read_text())}")
        return not process.exists() or (process / "comm").read_text() != "qemu-nbd\n"
    return False


def _is_old(folder: Path) -> bool:
    """Whether no server will answer in it again. One that has just started is not listening yet."""
    with suppress(OSError):
        return time.time() - folder.stat().st_mtime > _OLD_SECONDS
    return False


def _is_answered(folder: Path, scope: CancelScope) -> bool:
    """Whether a server answers there; it has had a client then."""
    with suppress(NbdError):
        Connection(socket_uri(folder / "socket"), scope=scope).drop()
        return True
    return False
