"""A connection to QEMU's monitor, for threads: QMP commands with time limits.

``qemu.qmp`` needs asyncio's event loop, which runs in a thread of its own. QEMU answers commands in its main
loop, which hangs with its storage, so no wait is without a limit. A command may have been carried out though
its answer was not waited for, so the code that undoes a command looks at what is there.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import struct
import threading
import time
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Self, TypeVar

from qemu.qmp import ExecInterruptedError, ExecuteError, QMPClient, QMPError, Runstate

from puller.cancelling import CancelScope
from puller.errors import ConnectionLost, DomainNotRunning, HypervisorError, MonitorRefused
from puller.qmp.address import Address

T = TypeVar("T")

# puller reports all errors itself; without a handler, Python would print them to stderr.
logging.getLogger("qemu.qmp").addHandler(logging.NullHandler())
logging.getLogger("qemu.qmp").propagate = False

GREETING = 10.0
"""Seconds for QEMU's greeting, which a monitor sends only to one client at a time."""

LIMIT = 120.0
"""Seconds for a command. A transaction waits until the requests under way in all disks are done."""

LEAVE = 15.0
"""Seconds for a command after a cancellation."""

HUNG = 1.0
"""Seconds for a command after an earlier one got no answer."""

_SLICE = 0.2

_ADVICE = "Check that QEMU runs and that its storage responds; the guest keeps running meanwhile."


@dataclass(frozen=True, slots=True)
class Process:
    """A process and its user and group, by number."""

    pid: int
    uid: int
    gid: int


class Monitor:
    """An open monitor at ``address``. A context that closes it. Safe for many threads."""

    def __init__(
        self, client: QMPClient, address: Address, scope: CancelScope, process: Process | None
    ) -> None:
        self._client = client
        self.address = address
        self.scope = scope
        self.process = process
        """QEMU's process; None behind TCP, which does not tell it."""
        self._loop = _running_loop()
        self._hung = False

    @classmethod
    def connect(cls, address: Address, scope: CancelScope | None = None) -> Self:
        """Connect. Raises DomainNotRunning if nothing listens there, HypervisorError if QEMU is silent."""
        waits = scope or CancelScope()
        client = QMPClient("puller")
        try:
            peer = _opened(address, waits)
            link = cls(client, address, waits, _process(peer))
            link._wait(asyncio.wait_for(client.connect(peer), GREETING))
        except (QMPError, OSError, TimeoutError) as error:
            raise _unreachable(f"cannot connect to QEMU at {address}", error) from error
        return link

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; QEMU goes on."""
        try:
            self._wait(asyncio.wait_for(self._client.disconnect(), HUNG))
        except (QMPError, OSError, EOFError, TimeoutError, HypervisorError):
            return  # it is lost already

    def is_alive(self) -> bool:
        """Return whether the connection is open, as far as the library has noticed."""
        return self._client.runstate == Runstate.RUNNING

    def ask(self, command: str, arguments: Mapping[str, object] | None = None, doing: str = "") -> Any:
        """Execute ``command`` and return QEMU's answer.

        Raises MonitorRefused with "``doing``: QEMU's words", ConnectionLost; HypervisorError if QEMU does
        not answer.
        """
        doing = doing or f"QEMU at {self.address} refuses {command}"
        try:
            return self._wait(self._client.execute(command, arguments))
        except ExecuteError as error:
            reason = " ".join(str(error).split()).rstrip(".")
            raise MonitorRefused(f"{doing}: {reason}", reason) from error
        except (ExecInterruptedError, QMPError, OSError, EOFError) as error:
            raise ConnectionLost(
                f"the connection to QEMU at {self.address} was lost",
                advice="See why QEMU has ended, if it has.",
            ) from error

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        began = time.monotonic()
        cancelled: float | None = None
        while not future.done():
            if self.scope.cancelled and cancelled is None:
                cancelled = time.monotonic()
            end = began + (HUNG if self._hung else LIMIT)
            end = end if cancelled is None else min(end, cancelled + LEAVE)
            if time.monotonic() > end:
                self._hung = True
                future.cancel()
                raise HypervisorError(f"QEMU at {self.address} does not answer", advice=_ADVICE)
            _settle(future)
        return future.result()


def _opened(address: Address, scope: CancelScope) -> socket.socket:
    """Return a socket that is connected to QEMU."""
    if address.path is None:
        peer = socket.create_connection((address.host, address.port), GREETING)
    else:
        peer = _opened_path(os.fspath(address.path), scope)
    peer.setblocking(False)
    return peer


def _opened_path(path: str, scope: CancelScope) -> socket.socket:
    """Retry while QEMU's queue of one is full: it may just be closing the last connection."""
    deadline = time.monotonic() + GREETING
    while True:
        peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            peer.connect(path)
        except BlockingIOError:
            peer.close()
            if time.monotonic() > deadline:
                raise TimeoutError from None
            scope.pause(_SLICE)
            scope.check()
        except BaseException:
            peer.close()
            raise
        else:
            return peer


def _process(peer: socket.socket) -> Process | None:
    if peer.family != socket.AF_UNIX:
        return None
    found = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return Process(*struct.unpack("3i", found))


def _settle(future: Any) -> None:
    """Wait a little. In slices, because a signal may reach another thread than the waiting main thread."""
    event = threading.Event()
    future.add_done_callback(lambda _: event.set())
    event.wait(_SLICE)


def _unreachable(doing: str, error: BaseException) -> HypervisorError:
    cause = error.__cause__ or error
    if isinstance(error, TimeoutError) or isinstance(cause, TimeoutError):
        return HypervisorError(
            f"{doing}: no greeting within {GREETING:.0f} s",
            advice="Check that no other program uses this monitor socket: QEMU serves one at a time, but "
            "can have several (-qmp can be repeated).",
        )
    if isinstance(cause, FileNotFoundError | ConnectionRefusedError):
        return DomainNotRunning(
            f"{doing}: {cause.strerror}",
            advice="Start QEMU with -qmp unix:PATH,server=on,wait=off, and name that PATH in --connect.",
        )
    text = cause.strerror if isinstance(cause, OSError) and cause.strerror else str(cause)
    return HypervisorError(
        f"{doing}: {text}", advice="Check that the socket is a QMP monitor that you may use."
    )


def _running_loop() -> asyncio.AbstractEventLoop:
    """Return the event loop of this process, which runs until the process ends."""
    with _STARTING:
        return _start_loop()


_STARTING = threading.Lock()


@cache
def _start_loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="qmp", daemon=True).start()
    return loop
