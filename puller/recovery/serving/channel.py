"""The plugin's end of the pair of sockets that connects it with puller."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from puller.errors import PullerError, StoreUnavailable
from puller.recovery.serving.session import Failure, Ready, Report, Session, decode_session, encode

_ENDING = 1.0
"""Seconds that nbdkit has for its end. Requests that wait for the store have been cancelled by then."""


class Channel:
    """The inherited socket ``descriptor``. Its other end belongs to puller, and closes when that ends."""

    def __init__(self, descriptor: int) -> None:
        self._socket = socket.socket(fileno=descriptor)
        os.set_inheritable(descriptor, False)
        self._lines = self._socket.makefile("rb")
        self._lock = threading.Lock()

    def session(self) -> Session:
        """Wait for the session. Raises PullerError if puller has ended."""
        line = self._lines.readline()
        if not line:
            raise StoreUnavailable("puller has ended before it said what to serve")
        return decode_session(line)

    @contextmanager
    def told(self) -> Iterator[None]:
        """Pass on an error that ends the process."""
        try:
            yield
        except PullerError as error:
            self._send(Report(failed=Failure.of(error)))
            raise

    def ready(self, ready: Ready) -> None:
        """Say that clients can connect."""
        self._send(Report(ready=ready))

    def notice(self, text: str) -> None:
        """Say something to puller's user."""
        self._send(Report(notice=text))

    def watch(self, end: Callable[[], None]) -> None:
        """Call ``end`` and let nbdkit end when puller closes its end, or dies."""

        def wait() -> None:
            with suppress(OSError):
                while self._lines.read(1):
                    pass
            end()
            os.kill(os.getpid(), signal.SIGTERM)
            # nbdkit waits until each client has said something more, which an idle one never does.
            time.sleep(_ENDING)
            os.kill(os.getpid(), signal.SIGKILL)

        threading.Thread(target=wait, name="puller", daemon=True).start()

    def _send(self, report: Report) -> None:
        with self._lock, suppress(OSError):  # nobody is there to hear it
            self._socket.sendall(encode(report))
