"""nbdkit as a process of puller's: started with a session, watched, and ended in order."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from urllib.parse import quote

from puller.cancelling import CancelScope
from puller.errors import KeyNotHeld, NoSuchDisk, ServeFailed, UsageError
from puller.events import Notice, Observer, ignore
from puller.host.runtime import SOCKET_PATH, SocketFolder
from puller.recovery.diskcopy import open_image
from puller.recovery.serving import session as sessions
from puller.recovery.serving.hold import held
from puller.recovery.serving.session import Report, Session
from puller.repository.points import DiskRecord, Point
from puller.repository.repository import Repository
from puller.units import MIB

SOCKET_FOLDER = "puller-serve-"
"""What the names of the folders of private sockets begin with."""

MEMORY = 64 * MIB
"""Default for the decrypted chunks in memory."""

LEAST_MEMORY = 16 * MIB
"""Below that, what is read ahead is dropped before it is read."""

INSTALL = (
    "Install nbdkit and its Python plugin: packages nbdkit and nbdkit-plugin-python on Debian and Ubuntu, "
    "nbdkit and nbdkit-python-plugin on Fedora and RHEL."
)

_START_SECONDS = 180.0
"""How long a start may take: the store may be silent for most of that."""

_END_SECONDS = 10.0
"""How long the end may take. All waits for the store are cancelled, so it takes milliseconds."""

_LINES = 20
"""Last lines of nbdkit's own messages that are kept for an error."""


@dataclass(frozen=True, slots=True)
class Service:
    """How to serve a point.

    Attributes:
        disks: Targets of the only disks to serve. Empty: all.
        socket: Path of the Unix socket. Without it and ``port``: in a private folder.
        port: TCP port to listen at instead: on loopback, or with ``certificates`` on all addresses.
        certificates: Folder with the server's certificate and key and the CA's certificate, as nbdkit wants
            them. Clients need TLS then, and a certificate of the same CA.
        memory: Bytes of decrypted chunks that are kept in memory.
    """

    disks: tuple[str, ...] = ()
    socket: Path | None = None
    port: int | None = None
    certificates: Path | None = None
    memory: int = MEMORY


@dataclass(frozen=True, slots=True)
class Export:
    """A served disk, its size in bytes, and the URI for NBD clients."""

    disk: str
    uri: str
    size: int


class Server:
    """Serves ``point`` until ``end``, or until the context that it is ends. See the package.

    ``observer`` receives notices: of damage that a client came across, and of outages of the store.

    Raises NoSuchDisk, KeyNotHeld, DamagedData, UsageError, StoreError before anything is started; ServeFailed
    with the message of nbdkit if that is missing or does not start.
    """

    def __init__(
        self, repository: Repository, point: Point, service: Service, observer: Observer = ignore
    ) -> None:
        self._point = point
        self._service = service
        self._observer = observer
        self._scope = repository.scope
        records = _chosen(repository, point, service)
        self._ended = threading.Event()
        self._ready = threading.Event()
        self._failed: Report | None = None
        self._said: deque[str] = deque(maxlen=_LINES)
        with ExitStack() as stack:
            self.socket = self._place(stack)
            stack.enter_context(held(repository, point, observer))
            self._start(stack, _session(repository, point, records, service))
            self._stack = stack.pop_all()
        self.exports = tuple(Export(record.disk, self._uri(record.disk), record.size) for record in records)

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

    def wait(self, scope: CancelScope) -> None:
        """Wait until ``scope`` is cancelled. Raises ServeFailed if the server ends before."""
        with scope.calling(self._ended.set):
            self._ended.wait()
        if not scope.cancelled:
            raise ServeFailed(f"nbdkit has ended: {self._reason()}")

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
            folder = SocketFolder(SOCKET_FOLDER, "socket")
            stack.callback(folder.cleanup)
            return folder.path / "socket"
        _free(path)
        return path

    def _start(self, stack: ExitStack, session: Session) -> None:
        ours, theirs = socket.socketpair()
        stack.callback(ours.close)
        errors, writer = os.pipe()
        with theirs:
            try:
                self._process = self._run(theirs.fileno(), writer)
            except FileNotFoundError as error:
                os.close(errors)
                raise ServeFailed("nbdkit is not installed", advice=INSTALL) from error
            finally:
                os.close(writer)
        stack.callback(self._end)
        threading.Thread(target=self._collect, args=[errors], name="nbdkit", daemon=True).start()
        threading.Thread(target=self._listen, args=[ours], name="serve", daemon=True).start()
        stack.callback(lambda: ours.shutdown(socket.SHUT_RDWR))
        with suppress(OSError):  # nbdkit has ended, which is found out below
            ours.sendall(sessions.encode(session))
        self._await()

    def _run(self, channel: int, errors: int) -> subprocess.Popen[bytes]:
        paths = [path for path in sys.path if path]
        environment = os.environ | {
            sessions.PATHS: os.pathsep.join([_root(), *paths]),
            "OPENBLAS_NUM_THREADS": "1",
            "MALLOC_ARENA_MAX": "2",
        }
        for secret in ("PULLER_PASSWORD", "PULLER_PASSWORD_FILE", "PULLER_KEY_FILE"):
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
            env=environment,
        )

    def _options(self) -> list[str]:
        fixed = ["--foreground", "--readonly", "--newstyle"]
        if self.socket is not None:
            return [*fixed, "--tls=off", f"--unix={self.socket}"]
        port = f"--port={self._service.port}"
        if self._service.certificates is None:
            return [*fixed, "--tls=off", port, "--ipaddr=127.0.0.1"]
        folder = self._service.certificates
        return [*fixed, port, "--tls=require", f"--tls-certificates={folder}", "--tls-verify-peer"]

    def _await(self) -> None:
        """Wait until clients can connect."""
        deadline = time.monotonic() + _START_SECONDS
        while not self._ready.is_set():
            self._scope.check()
            if self._ended.is_set():
                self._process.wait()
                raise self._failure()
            if time.monotonic() > deadline:
                raise ServeFailed(f"nbdkit does not start within {_START_SECONDS:.0f} s: {self._reason()}")
            self._scope.pause(0.005)

    def _failure(self) -> ServeFailed:
        if self._failed is not None:
            return ServeFailed(self._failed.failed, advice=self._failed.advice)
        return ServeFailed(f"nbdkit does not start: {self._reason()}", advice=_advice(self._said))

    def _reason(self) -> str:
        return self._said[-1] if self._said else "no message"

    def _listen(self, ours: socket.socket) -> None:
        """Read what the plugin reports, until its process ends."""
        with suppress(OSError), ours.makefile("rb") as lines:
            for line in lines:
                self._hear(sessions.decode_report(line))
        self._ended.set()

    def _hear(self, report: Report) -> None:
        if report.notice:
            self._observer(Notice(self._point.point, report.notice))
        if report.failed:
            self._failed = report
        if report.ready:
            self._ready.set()

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


def _chosen(repository: Repository, point: Point, service: Service) -> list[DiskRecord]:
    """Return the disks to serve, after everything that can be refused was."""
    for target in service.disks:
        if point.disk(target) is None:
            had = ", ".join(disk.disk for disk in point.disks) or "none"
            raise NoSuchDisk(f"restore point {point.point} has no disk {target}; it has {had}")
    records = [record for record in point.disks if not service.disks or record.disk in service.disks]
    if not records:
        raise UsageError(
            f"point {point.point} has no disks to serve", advice="Choose a point of a domain with disks."
        )
    if not repository.keys.can_read_data:
        raise KeyNotHeld("cannot read stored guest data with this key: its role is backup-only")
    if service.memory < LEAST_MEMORY:
        raise UsageError(f"a cache of {service.memory} bytes is too small", advice="Use 16M or more.")
    for record in records:
        open_image(repository, point, record)
    return records


def _session(
    repository: Repository, point: Point, records: Sequence[DiskRecord], service: Service
) -> Session:
    return Session(
        repository.store.url,
        repository.descriptor,
        repository.keys,
        point,
        tuple(record.disk for record in records),
        service.memory,
        repository.scope.policy.seconds,
    )


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
    if "nbdkit-python-plugin.so" in text:
        return INSTALL
    return None
