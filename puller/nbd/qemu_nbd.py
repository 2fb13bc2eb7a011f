"""The process ``qemu-nbd``, on this host or on another, and its first client."""

from __future__ import annotations

import subprocess
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from puller.cancelling import CancelScope
from puller.errors import HostUnreachable, NbdError
from puller.host.access import HostAccess
from puller.host.passphrases import handed_over
from puller.host.qemu import INSTALL, complaint
from puller.host.runtime import SocketFolder
from puller.nbd.connection import Connection

SOCKET_FOLDER = "puller-nbd-"
"""What the names of the servers' directories begin with."""

DISTANT_FOLDER = "puller-image-"
"""The same on another host, where no lock of the kernel's says that the process lives."""

_START_SECONDS = 30.0
"""Seconds for ``qemu-nbd`` to open an image. A large dirty qcow2 is checked first."""

_CLOSE_SECONDS = 120.0
"""How long it may take to close one. What was written to it is flushed by then, so that takes milliseconds,
unless the storage hangs."""

SEE = "Correct the cause that QEMU's message names, then run the command again."

_FIXED = ("--shared=0",)
"""Any number of clients; QEMU then lets several connections write (multi-conn)."""


@dataclass(frozen=True, slots=True)
class Task:
    """What to serve: the image at ``path``, as ``image`` describes it to ``qemu-nbd`` after ``options``."""

    path: object
    options: tuple[str, ...]
    image: tuple[str, ...]
    passphrases: tuple[bytes | None, ...] = field(repr=False)


def socket_uri(socket: Path) -> str:
    """The URI of the server that listens at ``socket``."""
    return f"nbd+unix:///?socket={quote(str(socket), safe='/')}"


class LocalServer:
    """A server of this host, at ``uri``."""

    def __init__(self, task: Task, scope: CancelScope) -> None:
        self._task = task
        self._scope = scope
        self._folder = SocketFolder(SOCKET_FOLDER, "socket")
        home = self._folder.path
        self.uri = socket_uri(home / "socket")
        self._ready, self._log = home / "pid", home / "log"
        try:
            self._process = self._run(home / "socket")
            self._await()
        except BaseException:
            self._folder.cleanup()
            raise

    def _run(self, socket: Path) -> subprocess.Popen[bytes]:
        fixed = [*_FIXED, f"--socket={socket}", f"--pid-file={self._ready}"]
        try:
            with self._log.open("wb") as log, handed_over(self._task.passphrases) as handed:
                # Its own session, so that Ctrl-C at a terminal ends puller, and puller ends the server.
                return subprocess.Popen(
                    ["qemu-nbd", *fixed, *self._task.options, *handed.options, *self._task.image],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    pass_fds=handed.descriptors,
                )
        except FileNotFoundError as error:
            raise NbdError("qemu-nbd is not installed", advice=INSTALL) from error

    def _await(self) -> None:
        """Connect as the first client as soon as the server has written its pid file."""
        try:
            deadline = time.monotonic() + _START_SECONDS
            while not self._ready.exists():
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise NbdError(f"qemu-nbd cannot serve {self._task.path}: {self._said()}", advice=SEE)
                self._scope.check()
                self._scope.pause(0.002)
            self._lifeline = Connection(self.uri, scope=self._scope)
        except BaseException:
            self._process.kill()
            self._process.wait()
            raise

    def _said(self) -> str:
        return complaint(self._log.read_bytes())

    def close(self) -> None:
        """End the server and wait until it has flushed its caches and closed the image."""
        if self._process.returncode is not None:
            return
        self._lifeline.drop()  # a server that hangs would not answer a disconnect
        self._process.terminate()
        try:
            code = self._process.wait(_CLOSE_SECONDS)
        except subprocess.TimeoutExpired as error:
            self._process.kill()  # no wait: a process that hangs in its storage does not die either
            self._folder.cleanup()
            raise NbdError(
                f"qemu-nbd of {self._task.path} did not end within {_CLOSE_SECONDS:.0f} s"
            ) from error
        said = self._said()
        self._folder.cleanup()
        if code:
            raise NbdError(f"qemu-nbd of {self._task.path} ended with code {code}: {said}", advice=SEE)


_START = """\
mkdir -p -m 700 -- "$1" && home=$(mktemp -d "$1/$2XXXXXXXX") || exit 1
shift 2
printf "%s\\n" "$home"
# The log and not this channel: a server that has it open would keep ssh from ending.
qemu-nbd --fork --socket="$home/socket" --pid-file="$home/pid" "$@" </dev/null >/dev/null 2>"$home/log"
code=$?
test $code = 0 || { cat "$home/log" >&2; rm -rf "$home"; }
exit $code
"""

_END = """\
pid=$(cat "$1/pid") || exit 0
tries=600
while test "$(cat /proc/$pid/comm 2>/dev/null)" = qemu-nbd && test $tries != 0; do
  kill $pid; sleep 0.05; tries=$((tries - 1))
done
rm -rf "$1"
test $tries != 0
"""


class DistantServer:
    """A server of another host, at ``uri``, whose socket is reached from this one."""

    def __init__(self, task: Task, scope: CancelScope, host: HostAccess) -> None:
        self._task = task
        self._host = host
        self._open = ExitStack()
        self._folder = self._start(scope)
        try:
            socket = self._open.enter_context(host.socket(self._folder / "socket"))
            self.uri = socket_uri(socket)
            self._lifeline = Connection(self.uri, scope=scope)
        except BaseException:
            self._end()
            raise

    def _start(self, scope: CancelScope) -> Path:
        """Start the server, which goes to the background once it listens. Return its folder."""
        folder = str(self._host.runtime_directory())
        words = ["sh", "-c", _START, "puller", folder, DISTANT_FOLDER, *_FIXED, *self._task.options]
        try:
            with self._host.handing(self._task.passphrases) as handed:
                command = [*words, *handed.options, *self._task.image]
                done = self._host.run(command, _START_SECONDS, scope, handed=handed)
        except FileNotFoundError as error:
            raise NbdError(f"qemu-nbd is not installed on host {self._host.name}", advice=INSTALL) from error
        except subprocess.TimeoutExpired as error:
            raise NbdError(f"qemu-nbd cannot serve {self._task.path}: no answer", advice=SEE) from error
        if done.returncode:
            raise NbdError(f"qemu-nbd cannot serve {self._task.path}: {complaint(done.stderr)}", advice=SEE)
        return Path(done.stdout.decode().strip())

    def close(self) -> None:
        """End the server and wait until it has closed the image. If the line is broken, it ends by itself."""
        self._lifeline.drop()
        self._open.close()
        if not self._end():
            raise NbdError(f"qemu-nbd of {self._task.path} on host {self._host.name} does not end")

    def _end(self) -> bool:
        with suppress(HostUnreachable, subprocess.TimeoutExpired):
            done = self._host.run(["sh", "-c", _END, "puller", str(self._folder)], _CLOSE_SECONDS)
            return done.returncode == 0
        return True
