"""nbdkit as a process of puller's: started with a session, watched, and ended in order.

Neither this module nor what it imports loads the libraries that read a repository: the process of
``puller serve`` lives for days and only waits.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self
from urllib.parse import quote

from puller.cancelling import CancelScope
from puller.errors import NoSuchDisk, PullerError, ServeFailed, UsageError
from puller.events import Notice, Observer, ignore
from puller.host.runtime import SOCKET_PATH, SocketFolder, remove_abandoned
from puller.recovery.serving import session as sessions
from puller.recovery.serving.session import Ready, Report, Session
from puller.units import GIB, MIB

SOCKET_FOLDER = "puller-serve-"
"""What the names of the folders of private sockets begin with."""

MEMORY = 48 * MIB
"""Default for the decrypted chunks in memory."""

LEAST_MEMORY = 16 * MIB
"""Below that, what is read ahead is dropped before it is read."""

FOLDER_SIZE = 4 * GIB
"""Default for the fetched data in a directory."""

INSTALL = (
    "Install nbdkit and its Python plugin: packages nbdkit and nbdkit-plugin-python on Debian and Ubuntu, "
    "nbdkit and nbdkit-python-plugin on Fedora and RHEL."
)

_START_SECONDS = 180.0
"""How long a start may take: the store may be silent for most of that."""

_END_SECONDS = 10.0
"""How long the end may take. All waits for the store are cancelled, so it takes milliseconds."""

_NO_REASON = "error running this script"
"""What nbdkit says behind the error of a plugin that it cannot load."""

_LINES = 20
"""Last lines of nbdkit's own messages that are kept for an error."""


@dataclass(frozen=True, slots=True)
class Service:
    """How to serve a point.

    Attributes:
        disks: Targets of the only disks to serve. Empty: all.
        socket: Path of the Unix socket. Without it and ``port``: in a private folder.
        owner: User who may connect to the socket. Without it: this user.
        port: TCP port to listen at instead: on loopback, or with ``certificates`` on all addresses.
        certificates: Folder with the server's certificate and key and the CA's certificate, as nbdkit wants
            them. Clients need TLS then, and a certificate of the same CA.
        memory: Bytes of decrypted chunks that are kept in memory.
        writable: Let clients write, to temporary files that are gone with the server.
        folder: Directory for what was fetched, as it is stored; ``folder_size`` is the most bytes in it.
    """

    disks: tuple[str, ...] = ()
    socket: Path | None = None
    owner: str | None = None
    port: int | None = None
    certificates: Path | None = None
    memory: int = MEMORY
    writable: bool = False
    folder: Path | None = None
    folder_size: int = FOLDER_SIZE

    def cached(self, size: int | None, folder: str | None) -> Service:
        """Return the same with a cache of ``size`` bytes: in ``folder``, or in memory."""
        if folder is None:
            return self if size is None else replace(self, memory=size)
        path = Path(folder).absolute()
        return replace(self, folder=path, folder_size=FOLDER_SIZE if size is None else size)

    def check(self) -> None:
        """Raise UsageError for what cannot be carried out."""
        if self.socket is not None and self.port is not None:
            raise UsageError("cannot listen at a socket and at a port", advice="Choose one of the two.")
        if self.owner is not None and self.socket is None:
            raise UsageError("an owner needs a socket", advice="Name the socket, or leave the owner out.")
        if self.port is not None and not 0 < self.port < 65536:
            raise UsageError(f"invalid port {self.port}", advice="Use a port from 1 to 65535.")
        if self.memory < LEAST_MEMORY:
            raise UsageError(f"a cache of {self.memory} bytes is too small", advice="Use 16M or more.")
        if self.certificates is not None:
            self._check_certificates(self.certificates)

    def _check_certificates(self, folder: Path) -> None:
        if self.port is None:
            raise UsageError("TLS needs a port", advice="Add a port, or leave the certificates out.")
        for name in ("ca-cert.pem", "server-cert.pem", "server-key.pem"):
            if not (folder / name).is_file():
                raise UsageError(
                    f"cannot use TLS: {folder} has no {name}",
                    advice="Create the certificates as nbdkit-tls(1) describes.",
                )


@dataclass(frozen=True, slots=True)
class Export:
    """A served disk, its size in bytes, and the URI for NBD clients."""

    disk: str
    uri: str
    size: int


class ServerProcess:
    """nbdkit, serving what ``session`` names, until ``end`` or the end of the context that it is.

    ``observer`` receives notices: of damage that a client came across, and of outages of the store. The end
    of ``scope`` ends the wait for the start. Raises what ``opening.open_session`` does; ServeFailed with the
    message of nbdkit if that is missing or does not start; UsageError if the socket cannot be used.
    """

    def __init__(
        self,
        session: Session,
        service: Service,
        observer: Observer = ignore,
        scope: CancelScope | None = None,
    ) -> None:
        service.check()
        self._subject = session.point
        self._service = service
        self._observer = observer
        self._scope = scope or CancelScope()
        self._ended = threading.Event()
        self._ready: Ready | None = None
        self._failed: PullerError | None = None
        self._said: deque[str] = deque(maxlen=_LINES)
        with ExitStack() as stack:
            self.socket = self._place(stack)
            ready = self._start(stack, session)
            self._hand_over()
            self._stack = stack.pop_all()
        self.point = ready.point
        """The id of the point that is served."""
        self.exports = tuple(Export(disk, self._uri(disk), size) for disk, size in ready.sizes.items())

    def uri(self, disk: str | None = None) -> str:
        """Return the URI of a disk, by default of the first one. Raises NoSuchDisk."""
        for export in self.exports:
            if disk in {None, export.disk}:
                return export.uri
        raise NoSuchDisk(f"disk {disk} is not served")

    @property
    def pid(self) -> int:
        """Process id of nbdkit."""
        return self._process.pid

    def require_running(self) -> None:
        """Raise ServeFailed if the server has ended by itself."""
        if self._ended.is_set():
            raise ServeFailed(f"nbdkit has ended: {self._reason()}")

    def wait(self, scope: CancelScope) -> None:
        """Wait until ``scope`` is cancelled. Raises ServeFailed if the server ends before."""
        with scope.calling(self._ended.set):
            self._ended.wait()
        if not scope.cancelled:
            self.require_running()

    def end(self) -> None:
        """End the server; clients that are connected lose their connection. It may be called twice."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def _place(self, stack: ExitStack) -> Path | None:
        """Return the path of the socket, in a new private folder unless there is a path or a port."""
        if self._service.port is not None:
            return None
        path = self._service.socket
        if path is None:
            remove_abandoned(SOCKET_FOLDER)
            folder = SocketFolder(SOCKET_FOLDER, "socket")
            stack.callback(folder.cleanup)
            return folder.path / "socket"
        _free(path)
        return path

    def _hand_over(self) -> None:
        """Give the socket to its owner: only owners may connect."""
        if self.socket is not None and self._service.owner is not None:
            try:
                shutil.chown(self.socket, self._service.owner)
            except (LookupError, OSError) as error:
                text = f"cannot give {self.socket} to user {self._service.owner}: {error}"
                raise UsageError(text, advice="Name a user of this host, and run puller as root.") from error

    def _start(self, stack: ExitStack, session: Session) -> Ready:
        ours, theirs = socket.socketpair()
        stack.callback(ours.close)
        with theirs:
            self._process = self._spawn(ours, theirs)
        stack.callback(self._end)
        stack.callback(lambda: ours.shutdown(socket.SHUT_WR))
        with suppress(OSError):  # nbdkit has ended, which is found out below
            ours.sendall(sessions.encode(session))
        return self._await()

    def _spawn(self, ours: socket.socket, theirs: socket.socket) -> subprocess.Popen[bytes]:
        """Start nbdkit in a thread that lasts as long: it ends with the thread that started it (prctl(2))."""
        born: Future[subprocess.Popen[bytes]] = Future()
        errors, writer = os.pipe()

        def live() -> None:
            try:
                born.set_result(self._run(theirs.fileno(), writer))
            except BaseException as error:  # noqa: BLE001 - the caller raises it
                born.set_exception(error)
            else:
                self._listen(ours)

        threading.Thread(target=self._collect, args=[errors], name="nbdkit", daemon=True).start()
        threading.Thread(target=live, name="serve", daemon=True).start()
        try:
            return born.result()
        except FileNotFoundError as error:
            raise ServeFailed("nbdkit is not installed", advice=INSTALL) from error
        finally:
            os.close(writer)

    def _run(self, channel: int, errors: int) -> subprocess.Popen[bytes]:
        paths = [path for path in sys.path if path]
        environment = os.environ | {
            sessions.PATHS: os.pathsep.join([_root(), *paths]),
            sessions.PYTHON: f"{sys.version_info[0]}.{sys.version_info[1]}",
            "OPENBLAS_NUM_THREADS": "1",
            "MALLOC_ARENA_MAX": "2",
        }
        for secret in (
            "PULLER_PASSWORD",
            "PULLER_PASSWORD_FILE",
            "PULLER_KEY_FILE",
            "PULLER_LUKS_PASSPHRASE",
            "PULLER_LUKS_PASSPHRASE_FILE",
        ):
            environment.pop(secret, None)
        script = Path(__file__).with_name("plugin.py")
        # Its own session, so that Ctrl-C at a terminal ends puller, and puller ends the server.
        return subprocess.Popen(
            ["nbdkit", *self._options(), "python", str(script), f"{sessions.CHANNEL}={channel}"],
            stdin=subprocess.DEVNULL,
            stdout=errors,
            stderr=errors,
            start_new_session=True,
            pass_fds=[channel],
            umask=0o077,
            env=environment,
        )

    def _options(self) -> list[str]:
        rights = [] if self._service.writable else ["--readonly"]
        fixed = ["--foreground", *rights, "--newstyle"]
        if self.socket is not None:
            return [*fixed, "--tls=off", f"--unix={self.socket}"]
        port = f"--port={self._service.port}"
        if self._service.certificates is None:
            return [*fixed, "--tls=off", port, "--ipaddr=127.0.0.1"]
        folder = self._service.certificates
        return [*fixed, port, "--tls=require", f"--tls-certificates={folder}", "--tls-verify-peer"]

    def _await(self) -> Ready:
        """Wait until clients can connect."""
        deadline = time.monotonic() + _START_SECONDS
        while self._ready is None:
            self._scope.check()
            if self._ended.is_set():
                self._process.wait()
                raise self._failure()
            if time.monotonic() > deadline:
                raise ServeFailed(f"nbdkit does not start within {_START_SECONDS:.0f} s: {self._reason()}")
            self._scope.pause(0.005)
        return self._ready

    def _failure(self) -> PullerError:
        if self._failed is not None:
            return self._failed
        return ServeFailed(f"nbdkit does not start: {self._reason()}", advice=_advice(self._said))

    def _reason(self) -> str:
        said = [line for line in self._said if not line.endswith(_NO_REASON)]
        return said[-1].removeprefix("RuntimeError: ") if said else "no message"

    def _listen(self, ours: socket.socket) -> None:
        """Read what the plugin reports, until its process ends."""
        with suppress(OSError), ours.makefile("rb") as lines:
            for line in lines:
                self._hear(sessions.decode_report(line))
        self._ended.set()

    def _hear(self, report: Report) -> None:
        if report.notice:
            self._observer(Notice(self._subject, report.notice))
        if report.failed is not None:
            self._failed = report.failed.error()
        if report.ready is not None:
            self._subject, self._ready = report.ready.point, report.ready

    def _collect(self, errors: int) -> None:
        with open(errors, errors="replace") as lines:
            for line in lines:
                if line.strip():
                    self._said.append(line.strip().removeprefix("nbdkit: "))

    def _end(self) -> None:
        """Wait for the end of the process: the plugin ends it when the pair of sockets is closed."""
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        finally:
            if self._service.socket is not None:
                self._service.socket.unlink(missing_ok=True)

    def _uri(self, disk: str) -> str:
        if self.socket is not None:
            return f"nbd+unix:///{disk}?socket={quote(str(self.socket), safe='/')}"
        if self._service.certificates is None:
            return f"nbd://127.0.0.1:{self._service.port}/{disk}"
        return f"nbds://{socket.getfqdn()}:{self._service.port}/{disk}"


def _root() -> str:
    """The folder that holds the package ``puller``."""
    return str(Path(__file__).parents[3])


def _free(path: Path) -> None:
    """Remove the socket that a killed server has left. Raises UsageError if the path cannot be used."""
    if len(os.fsencode(path.absolute())) > SOCKET_PATH:
        raise UsageError(
            f"{path.absolute()} is too long for a socket", advice=f"Use at most {SOCKET_PATH} bytes."
        )
    if not path.parent.is_dir():
        raise UsageError(
            f"cannot create the socket {path}: no such directory", advice="Create the directory first."
        )
    if not os.path.lexists(path):
        return
    if not path.is_socket():
        raise UsageError(f"{path} exists and is not a socket", advice="Choose another path.")
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except OSError as error:
            raise UsageError(f"cannot use the socket {path}: {error.strerror}") from error
    raise UsageError(f"a server listens at {path}", advice="Choose another path, or end that server.")


def _advice(said: Sequence[str]) -> str | None:
    text = "\n".join(said)
    if "but puller runs" in text:
        return "Install puller with the distribution's Python, /usr/bin/python3."
    return INSTALL if "nbdkit-python-plugin.so" in text else None
