"""A socket of puller's that the QEMU of a domain connects to, wherever libvirt confines that."""

from __future__ import annotations

import os
from pathlib import Path

from puller.errors import ServeFailed, UsageError
from puller.host.runtime import SOCKET_PATH
from puller.hypervisor.confinement import confines_by_apparmor, qemu_user
from puller.hypervisor.uri import configuration_directory
from puller.recovery.booting.record import ENTERED
from puller.recovery.targets import outputs

APPARMOR = Path("/run/libvirt/puller")
"""Where libvirt's AppArmor profiles let a domain reach a socket: ``/run/libvirt/**/NAME.pid``."""


def socket_in(folder: Path, name: str) -> Path:
    """Return where QEMU may reach the socket of the machine ``name``: in ``folder``, unless AppArmor confines
    QEMU.

    Raises UsageError if the path is too long for a socket.
    """
    path = folder / "nbd.sock"
    if confines_by_apparmor():
        with outputs.translated(str(APPARMOR)):
            outputs.make_folder(APPARMOR, ENTERED)
        path = APPARMOR / f"{name}.pid"
    if len(str(path).encode()) > SOCKET_PATH:
        raise UsageError(
            f"the path {path} is too long for a socket",
            advice=f"Choose a shorter directory or name: it may have {SOCKET_PATH} bytes.",
        )
    return path


def give_to_qemu(path: Path, connect: str) -> None:
    """Let QEMU's user, and nobody else, connect to the socket. Raises ServeFailed."""
    user = qemu_user(configuration_directory(connect))
    try:
        path.chmod(0o600)
        if user is not None:
            os.chown(path, user.uid, user.gid)
    except OSError as error:
        raise ServeFailed(f"cannot give the socket {path} to QEMU's user: {error.strerror}") from error
