"""The appliance: the virtual machine of libguestfs that opens a guest's file systems."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Self

from puller.cancelling import CancelScope
from puller.errors import ApplianceFailed
from puller.host.folders import temporary_directory

CALL = 600.0
"""Seconds after which a call counts as hung: a silent store alone is waited for 150 s."""

WALK = 4 * 3600.0
"""The same for a call that goes through all directories of a file system."""

KVM = Path("/dev/kvm")

_NO_KVM = "force_tcg"
"""libguestfs's setting with which QEMU emulates the processor."""

ENDLESS = float("inf")

_SLICE = 0.2
"""Seconds between two looks at whether the scope is cancelled."""

_ENDING = 20.0
"""Seconds that the process has for its end, before it is killed."""

INSTALL = (
    "Install libguestfs: packages python3-guestfs and libguestfs-xfs on Debian and Ubuntu, "
    "python3-libguestfs and libguestfs-xfs on Fedora and RHEL."
)


@dataclass(frozen=True, slots=True)
class Drive:
    """A disk for the appliance: the NBD export ``export`` of the server at the Unix socket ``socket``."""

    socket: Path
    export: str


class Refusal(Exception):
    """libguestfs refuses a call. Whoever calls knows what it was about, and says so."""


def require_installed() -> None:
    """Raise ApplianceFailed if libguestfs is not installed."""
    if importlib.util.find_spec("guestfs") is None:
        text = "libguestfs is not installed: there is no Python module 'guestfs'"
        raise ApplianceFailed(text, advice=INSTALL)


class Appliance:
    """A handle of libguestfs in a process of its own, for the waits of ``scope``.

    Raises ApplianceFailed if libguestfs is missing, has ended or does not answer; calls also raise Refusal
    for what it refuses.
    """

    def __init__(self, scope: CancelScope) -> None:
        self._scope = scope
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        require_installed()
        with self._stack as stack:
            self._folder = stack.enter_context(_temporary_folder())
            self._log = stack.enter_context(tempfile.TemporaryFile())
            self._connection, self._process = self._start()
            stack.callback(self._end)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:  # a call may be under way
            self._signal(signal.SIGTERM)
        self._stack.close()

    def launch(self, drives: Sequence[Drive]) -> bool:
        """Start the machine with ``drives``, read-only, in this order; return whether it can use KVM.

        On some hosts, nested ones for instance, there is a KVM that fails. Raises ApplianceFailed.
        """
        try:
            if "LIBGUESTFS_BACKEND" not in os.environ:
                # With libvirt's, QEMU is another user, who reaches neither the socket nor the overlay.
                self.call("set_backend", "direct")
            self.call("set_autosync", False)
            settings = self.call("get_backend_settings")
            may_use_kvm = KVM.exists() and _NO_KVM not in settings
            if may_use_kvm and self._launched(drives):
                return True
            self.call("set_backend_settings", [*settings, _NO_KVM])
            self._launch(drives)
            return not may_use_kvm
        except Refusal as error:
            raise ApplianceFailed(
                f"cannot start libguestfs's appliance: {_first_line(str(error))}"
            ) from error

    def _launched(self, drives: Sequence[Drive]) -> bool:
        try:
            self._launch(drives)
        except Refusal:
            return False
        return True

    def _launch(self, drives: Sequence[Drive]) -> None:
        for drive in drives:
            server = [f"unix:{drive.socket}"]
            self.call(
                "add_drive_opts", drive.export, protocol="nbd", server=server, format="raw", readonly=True
            )
        self.call("launch")

    def call(self, method: str, *arguments: Any, limit: float = CALL, **named: Any) -> Any:
        """Call a method of the handle and return its result, within ``limit`` seconds."""
        try:
            self._connection.send((method, arguments, named))
            self._await(method, limit)
            accepted, result = self._connection.recv()
        except (EOFError, OSError) as error:
            raise ApplianceFailed(f"libguestfs has ended in '{method}'{self._last_words()}") from error
        if not accepted:
            raise Refusal(_without_method(method, result))
        return result

    def temporary_file(self) -> Path:
        """A path for what libguestfs writes to a file."""
        return Path(self._folder) / "answer"

    def _start(self) -> tuple[Connection[Any, Any], subprocess.Popen[bytes]]:
        ours, theirs = socket.socketpair()
        with theirs:
            process = subprocess.Popen(
                _command(theirs.fileno()),
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                pass_fds=(theirs.fileno(),),
                env=_environment(self._folder),
                start_new_session=True,
            )
        return Connection(ours.detach()), process

    def _await(self, method: str, limit: float) -> None:
        deadline = time.monotonic() + limit
        while not self._connection.poll(_SLICE):
            self._scope.check()
            if time.monotonic() > deadline:
                raise ApplianceFailed(f"libguestfs does not answer '{method}' within {limit:.0f} s")

    def _end(self) -> None:
        """Let the process shut the machine down; kill both if that takes long."""
        self._connection.close()
        for number in (signal.SIGTERM, signal.SIGKILL):
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_ENDING)
                return
            self._signal(number)
        self._process.wait()

    def _signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def _last_words(self) -> str:
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        return f": {lines[-1]}" if lines else ""


def _command(descriptor: int) -> list[str]:
    return [sys.executable, "-m", f"{__package__}.appliance_process", str(descriptor)]


def _environment(folder: str) -> dict[str, str]:
    """Without secrets, which are none of libguestfs's business."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PULLER_", "AWS_"))}
    return {**kept, "LIBGUESTFS_TMPDIR": folder, "PYTHONSAFEPATH": "1"}


def _temporary_folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(
        prefix="puller-files-", dir=temporary_directory(), ignore_cleanup_errors=True
    )


def _without_method(method: str, message: str) -> str:
    """libguestfs begins its messages with the name of the method, and ends some with a full stop."""
    return message.removeprefix(f"{method}: ").strip().rstrip(".")


def _first_line(message: str) -> str:
    return message.splitlines()[0].rstrip(".") if message else "no message"
