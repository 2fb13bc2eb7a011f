"""One connection to another host by the ``ssh`` program, which is shared by all that puller does there.

The first program is the *master* (``ControlMaster``, ssh_config(5)): it logs in and opens a control socket,
through which others start programs and forward sockets without another login. The user's own configuration
counts: aliases, jump hosts, agents. The master runs ``cat`` on the other host, whose input ends with this
process. So nothing stays behind when puller is killed.
"""

from __future__ import annotations

import shlex
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from puller.cancelling import CancelScope
from puller.errors import HostUnreachable
from puller.host import programs
from puller.host.runtime import SocketFolder, remove_abandoned

SOCKET_FOLDER = "puller-ssh-"

_LOGIN_SECONDS = 60.0
"""Seconds that a login may take: jump hosts, DNS, and slow authentication."""

_COMMAND_SECONDS = 30.0
"""Seconds for a command to the master itself. It answers at once, unless the line is broken."""

_ALIVE = ("ServerAliveInterval=5", "ServerAliveCountMax=5", "ConnectTimeout=10")
"""ssh gives up a line that is silent for 30 s. TCP survives an outage of that length."""

_MASTER = (
    "ControlMaster=yes",
    "ControlPersist=no",
    "BatchMode=yes",
    "ClearAllForwardings=yes",
    "ForwardAgent=no",
    "ForwardX11=no",
    "PermitLocalCommand=no",
    "RemoteCommand=none",
    "LogLevel=ERROR",
)
"""Options against what the user's configuration may hold for work at a terminal."""

_STEP = 0.01

_TEMPORARY = ".0123456789abcdef"
"""What ssh appends to the name of its control socket while it makes it."""


@dataclass(frozen=True, slots=True)
class SshTarget:
    """A host as ssh is told of it: the program, its options, and the destination."""

    destination: str
    options: tuple[str, ...] = ()
    program: str = "ssh"


class SshConnection:
    """A connection that is opened when it is first used, and again after it was lost. Safe for threads."""

    def __init__(self, target: SshTarget) -> None:
        self.target = target
        self._lock = threading.Lock()
        self._master: subprocess.Popen[bytes] | None = None
        self._folder: SocketFolder | None = None
        self._numbers = count(1)

    @property
    def destination(self) -> str:
        """The host, for messages."""
        return self.target.destination.rpartition("@")[2]

    @property
    def is_open(self) -> bool:
        """Whether there is a connection, as far as this host knows."""
        master = self._master
        return master is not None and master.poll() is None

    def run(
        self, script: str, arguments: Sequence[str], seconds: float, scope: CancelScope | None, content: bytes
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a script of sh(1) there; ``content`` is its input.

        Raises HostUnreachable, TimeoutExpired, Interrupted.
        """
        command = self._command(script, arguments, scope)
        done = programs.run(command, seconds, scope, content, start_new_session=True)
        if done.returncode == 255:  # of ssh itself
            raise self._unreachable(done.stderr)
        return done

    def start(
        self, script: str, arguments: Sequence[str], scope: CancelScope | None
    ) -> subprocess.Popen[bytes]:
        """Start a script of sh(1) there. Raises HostUnreachable."""
        pipe = subprocess.PIPE
        command = self._command(script, arguments, scope)
        return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True)

    @contextmanager
    def forwarded(self, socket: Path, scope: CancelScope | None = None) -> Iterator[Path]:
        """Return a socket of this host that leads to ``socket`` there. Raises HostUnreachable."""
        folder = self._connected(scope)
        local = folder / str(next(self._numbers))
        pair = f"{_escaped(local)}:{_escaped(socket)}"
        self._order(folder, "forward", pair, scope)
        try:
            yield local
        finally:
            with suppress(HostUnreachable, subprocess.TimeoutExpired):
                self._order(folder, "cancel", pair, CancelScope())
            local.unlink(missing_ok=True)

    def close(self) -> None:
        """End the connection and all that runs over it."""
        with self._lock:
            self._end()

    def _order(self, folder: Path, order: str, pair: str, scope: CancelScope | None) -> None:
        command = [*self._through(folder), "-O", order, "-L", pair, self.target.destination]
        done = programs.run(command, _COMMAND_SECONDS, scope, start_new_session=True)
        if done.returncode:
            raise self._unreachable(done.stderr)

    def _command(self, script: str, arguments: Sequence[str], scope: CancelScope | None) -> list[str]:
        folder = self._connected(scope)
        words = shlex.join(["sh", "-c", script, "puller", *arguments])
        return [*self._through(folder), "-T", self.target.destination, words]

    def _through(self, folder: Path) -> list[str]:
        """Return the beginning of a command that goes through the master, and nowhere if there is none.

        The user's configuration is the master's: its forwards and the like must not be set up again.
        """
        options = ("-oControlMaster=no", "-oProxyCommand=false", "-oLogLevel=ERROR")
        return [self.target.program, "-F", "none", *options, "-S", str(folder / "c")]

    def _connected(self, scope: CancelScope | None) -> Path:
        with self._lock:
            if self._folder is None or self._master is None or self._master.poll() is not None:
                self._end()
                self._log_in(scope or CancelScope())
            assert self._folder is not None
            return self._folder.path

    def _log_in(self, scope: CancelScope) -> None:
        remove_abandoned(SOCKET_FOLDER)
        self._folder = SocketFolder(SOCKET_FOLDER, f"c{_TEMPORARY}")
        folder = self._folder.path
        options = [f"-o{option}" for option in (*_MASTER, *_ALIVE)]
        command = [self.target.program, *options, *self.target.options, "-S", str(folder / "c")]
        command += ["-T", self.target.destination, "exec cat"]
        log = folder / "log"
        try:
            with log.open("wb") as errors:
                self._master = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=errors,
                    start_new_session=True,
                )
            self._await(self._master, folder / "c", scope)
        except FileNotFoundError as error:
            self._end()
            raise HostUnreachable(
                f"cannot reach host {self.destination}: {self.target.program} is not installed",
                advice="Install the OpenSSH client: package openssh-client or openssh-clients.",
            ) from error
        except BaseException:
            self._end()
            raise

    def _await(self, master: subprocess.Popen[bytes], control: Path, scope: CancelScope) -> None:
        deadline = time.monotonic() + _LOGIN_SECONDS
        while not control.exists():
            if master.poll() is not None:
                raise self._unreachable((control.parent / "log").read_bytes())
            if time.monotonic() > deadline:
                raise self._unreachable(f"no login within {_LOGIN_SECONDS:.0f} s".encode())
            scope.check()
            scope.pause(_STEP)

    def _end(self) -> None:
        if self._master is not None:
            self._master.kill()
            self._master.wait()
            assert self._master.stdin is not None
            self._master.stdin.close()
            self._master = None
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def _unreachable(self, said: bytes) -> HostUnreachable:
        lines = said.decode(errors="replace").strip().splitlines()
        why = lines[-1].strip().rstrip(".") if lines else "the connection was lost"
        return HostUnreachable(
            f"cannot reach host {self.destination} by ssh: {why}",
            advice=f"Check that the network is up and that '{self._by_hand()}' works without a prompt.",
        )

    def _by_hand(self) -> str:
        """The command with which a user can try the login."""
        return shlex.join([self.target.program, *self.target.options, self.target.destination, "true"])


def _escaped(path: Path) -> str:
    """Return a path for ``-L``, whose parts are separated by colons, and in which ssh replaces its tokens.

    It does so since OpenSSH 8.4; a domain's name, which is in the path, may have a percent sign.
    """
    return str(path).replace("\\", "\\\\").replace(":", "\\:").replace("%", "%%")
