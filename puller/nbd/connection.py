"""One connection to an NBD server: the only module that calls libnbd.

libnbd has no thread of its own. It sends, receives and writes into the buffers of pending reads only
inside calls of the handle's methods. So one thread owns a connection, and once that thread stops calling the
handle, the buffers are free.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import nbd

from puller.cancelling import CancelScope
from puller.errors import NbdError
from puller.nbd.library import has_long_extents
from puller.nbd.line import CERTIFICATES, kept_alive
from puller.units import GIB, MIB

_PAYLOAD = 32 * MIB
"""Bytes of the largest write that any server takes (NBD protocol, "Block size constraints")."""

_ZERO_WINDOW = GIB
"""Most bytes of one request to zero. Its length has 32 bits; this one is aligned to any block size."""

_ZEROS_AT_ONCE = 8
"""Most requests to zero that are in flight: the server works on one while the next is on its way."""

_REFUSALS = (nbd.Error, ValueError, OSError)
"""Errors of libnbd, and of its binding if a text cannot be passed on, such as a name that is not UTF-8."""


def _reason(error: Exception) -> str:
    """Return libnbd's message, without the name of the C function in front."""
    return str(error).partition(": ")[2] or str(error)


_SILENCE = 300
"""Seconds without any reply while one is due, after which the server counts as hung."""

_GREETING = 60
"""The same for each step of the connection setup."""

_SLICE = 0.25
"""Seconds of one call into libnbd: the main thread handles a signal only between two calls."""


def _poll(handle: nbd.NBD, seconds: float) -> bool:
    """Let libnbd work until something arrives. False if nothing does for ``seconds``."""
    deadline = time.monotonic() + seconds
    while not handle.poll(int(_SLICE * 1000)):
        if time.monotonic() > deadline:
            return False
    return True


@dataclass(frozen=True, slots=True)
class PendingRequest:
    """A request in flight; ``what`` it is, for messages."""

    cookie: int
    what: str


@dataclass(frozen=True, slots=True)
class PendingStatus:
    """A block status request in flight; ``extents`` fill with the (length, flags) of its reply."""

    request: PendingRequest
    extents: list[tuple[int, int]]


class Connection:
    """A connection to the export at ``uri``, with at most one metadata context.

    A server answers each block status request for *every* context that was negotiated (NBD protocol,
    "Metadata querying"), hence one context a connection.

    The end of ``scope`` interrupts it, also while it is being opened. Raises NbdError if the server cannot be
    reached, says nothing for a minute, or does not grant the context.
    """

    def __init__(self, uri: str, context: str | None = None, scope: CancelScope | None = None) -> None:
        self.uri = uri
        self.context = context
        self._largest_write = 0
        self._handle: nbd.NBD | None = nbd.NBD()
        self._socket = self._begin(self._handle)
        self._scope = scope or CancelScope()
        self._scope.listen(self.interrupt)
        self._greet(self._handle)
        if context is not None:
            self._demand(context)
        self.has_long_requests = self._agree()
        """Whether the length of a request may have 64 bits."""

    def _begin(self, handle: nbd.NBD) -> socket.socket:
        """Begin to connect. Return a second descriptor of the socket: the handle is locked during waits."""
        try:
            # Spares a memset of every buffer. Nothing reads a buffer whose read did not succeed.
            handle.set_pread_initialize(False)
            if self.context is not None:
                handle.add_meta_context(self.context)
            handle.set_uri_allow_local_file(True)  # certificates, whose directory is in the URI
            handle.aio_connect_uri(self.uri)
            return kept_alive(socket.socket(fileno=os.dup(handle.aio_get_fd())))
        except _REFUSALS as error:
            raise NbdError(f"cannot connect to {self.uri}: {_reason(error)}") from error

    def _greet(self, handle: nbd.NBD) -> None:
        """Wait until the connection is ready."""
        try:
            while handle.aio_is_connecting():
                if not _poll(handle, _GREETING):
                    raise NbdError(f"cannot connect to {self.uri}: the server is silent for {_GREETING} s")
        except nbd.Error as error:
            self.drop()
            advice = CERTIFICATES if "certificate" in str(error) else None
            raise NbdError(f"cannot connect to {self.uri}: {_reason(error)}", advice=advice) from error
        except BaseException:
            self.drop()
            raise

    def _demand(self, context: str) -> None:
        """Raise NbdError unless the server granted ``context``."""
        if self._ask("metadata contexts", lambda handle: handle.can_meta_context(context)):
            return
        structured = self._ask(
            "structured replies", lambda handle: handle.get_structured_replies_negotiated()
        )
        self.close()
        missing = f"metadata context {context!r}" if structured else "structured replies"
        raise NbdError(f"cannot use {self.uri}: its server does not offer {missing}")

    @property
    def handle(self) -> nbd.NBD:
        """libnbd's handle. Raises NbdError once the connection is closed."""
        if self._handle is None:
            raise NbdError(f"the connection to {self.uri} is closed")
        return self._handle

    def _ask(self, what: str, question: Callable[[nbd.NBD], Any]) -> Any:
        """Return a result of the negotiation. Raises NbdError, also if the connection is lost."""
        try:
            return question(self.handle)
        except nbd.Error as error:
            raise NbdError(f"cannot read the {what} of {self.uri}: {_reason(error)}") from error

    @property
    def size(self) -> int:
        """Size of the export in bytes."""
        return int(self._ask("size", lambda handle: handle.get_size()))

    @property
    def read_only(self) -> bool:
        """Whether the server refuses writes."""
        return bool(self._ask("rights", lambda handle: handle.is_read_only()))

    @property
    def can_zero(self) -> bool:
        """Whether the server accepts ``write_zeroes``."""
        return bool(self._ask("requests", lambda handle: handle.can_zero()))

    @property
    def can_share(self) -> bool:
        """Whether a flush on one connection covers the writes of others (NBD_FLAG_CAN_MULTI_CONN)."""
        return bool(self._ask("flags", lambda handle: handle.can_multi_conn()))

    def _agree(self) -> bool:
        """Return whether the server and libnbd have agreed upon extended headers."""
        if not has_long_extents():
            return False
        return bool(self._ask("headers", lambda handle: handle.get_extended_headers_negotiated()))

    def begin_status(self, offset: int, length: int) -> PendingStatus:
        """Request the context's block status, for ``end_status``. Raises NbdError."""
        extents: list[tuple[int, int]] = []

        def collect(_context: str, _offset: int, found: list[int], _error: object) -> int:
            extents.extend(zip(found[::2], found[1::2], strict=True))
            return 0

        def collect_long(_context: str, _offset: int, found: list[tuple[int, int]], _error: object) -> int:
            extents.extend(found)
            return 0

        what = f"block status at {offset}"
        if self.has_long_requests:
            begun = self._request(what, nbd.NBD.aio_block_status_64, length, offset, collect_long)
        else:
            begun = self._request(what, nbd.NBD.aio_block_status, length, offset, collect)
        return PendingStatus(begun, extents)

    def end_status(self, pending: PendingStatus) -> list[tuple[int, int]]:
        """Wait for a block status; return (length, flags) of the extents from its offset on."""
        self._finish(pending.request)
        return pending.extents

    def read(self, length: int, offset: int) -> bytes:
        """Read ``length`` bytes and wait for them."""
        return self.read_all([offset], length)[0]

    def read_all(self, offsets: Sequence[int], length: int) -> list[bytes]:
        """Read ``length`` bytes at each of some ``offsets``, all requested at once, and wait for them."""
        contents = [bytearray(length) for _ in offsets]
        begun = [
            self._request(f"read of {length} bytes at {offset}", nbd.NBD.aio_pread, content, offset)
            for content, offset in zip(contents, offsets, strict=True)
        ]
        for request in begun:
            self._finish(request)
        return [bytes(content) for content in contents]

    def _request(self, what: str, method: Callable[..., int], *given: Any, **named: Any) -> PendingRequest:
        try:
            return PendingRequest(int(method(self.handle, *given, **named)), what)
        except nbd.Error as error:
            raise self._failure(what, error) from error

    def _finish(self, pending: PendingRequest) -> None:
        """Wait for a request. Raises NbdError if it fails."""
        try:
            while not self.handle.aio_command_completed(pending.cookie):
                self._poll()
        except nbd.Error as error:
            raise self._failure(pending.what, error) from error

    def _poll(self) -> None:
        """Let libnbd work until something arrives. Raises NbdError if the server counts as hung."""
        if not _poll(self.handle, _SILENCE):
            raise NbdError(f"the server of {self.uri} has been silent for {_SILENCE} s")

    def begin_read(self, into: memoryview, offset: int) -> int:
        """Request ``len(into)`` bytes from ``offset``, and return the request's cookie at once.

        ``into`` belongs to libnbd until the request is retired or the connection dropped."""
        what = f"read of {len(into)} bytes at {offset}"
        return self._request(what, nbd.NBD.aio_pread, into, offset).cookie

    def wait(self, offset: int) -> int:
        """Wait until a pending request is done, and return its cookie.

        One must be pending; ``offset`` is that of the oldest, for the message of the NbdError."""
        handle = self.handle
        try:
            while not (cookie := handle.aio_peek_command_completed()):
                self._poll()
        except nbd.Error as error:
            raise self._failure(f"waiting for the data at {offset}", error) from error
        return int(cookie)

    def retire_read(self, cookie: int, offset: int, length: int) -> None:
        """Retire a completed request. Raises NbdError if it failed."""
        try:
            self.handle.aio_command_completed(cookie)
        except nbd.Error as error:
            raise self._failure(f"read of {length} bytes at {offset}", error) from error

    def write(self, offset: int, view: memoryview) -> None:
        """Write ``view`` at ``offset``, in requests that the server accepts. Raises NbdError."""
        for start in range(0, len(view), self._payload):
            piece = view[start : start + self._payload]
            what = f"write of {len(piece)} bytes at {offset + start}"
            self._finish(self._request(what, nbd.NBD.aio_pwrite, piece, offset + start))

    @property
    def _payload(self) -> int:
        """Bytes of the largest write: the server's limit, or the protocol's recommendation without one."""
        if not self._largest_write:
            most = self._ask("block size", lambda handle: handle.get_block_size(nbd.SIZE_MAXIMUM))
            self._largest_write = min(int(most) or _PAYLOAD, _PAYLOAD)
        return self._largest_write

    def write_zeroes(self, ranges: Iterable[tuple[int, int]], least_hole: int = 0) -> None:
        """Make each (offset, length) read as zeros. Raises NbdError.

        The server may make holes of those that have ``least_hole`` bytes.
        """
        flying: deque[PendingRequest] = deque()
        for offset, length in ranges:
            flags = 0 if length >= least_hole else nbd.CMD_FLAG_NO_HOLE
            for start in range(offset, offset + length, _ZERO_WINDOW):
                if len(flying) == _ZEROS_AT_ONCE:
                    self._finish(flying.popleft())
                count = min(_ZERO_WINDOW, offset + length - start)
                what = f"zeroing of {count} bytes at {start}"
                flying.append(self._request(what, nbd.NBD.aio_zero, count, start, flags=flags))
        while flying:
            self._finish(flying.popleft())

    def flush(self) -> None:
        """Wait until all writes, on any connection of the export, are durable. Raises NbdError."""
        try:
            needed = self.handle.can_flush()
        except nbd.Error as error:
            raise self._failure("flush", error) from error
        if needed:
            self._finish(self._request("flush", nbd.NBD.aio_flush))

    def _failure(self, what: str, error: nbd.Error) -> NbdError:
        return NbdError(f"{what} of {self.uri} failed: {_reason(error)}")

    def interrupt(self) -> None:
        """Make the owner's current call and all later ones fail. For any thread."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def drop(self) -> None:
        """Close without waiting for pending requests; libnbd never touches their buffers again."""
        self._scope.forget(self.interrupt)
        self.interrupt()
        self._handle = None
        self._socket.close()

    def close(self) -> None:
        """Disconnect cleanly and close. Nothing may be pending; the connection may already be lost."""
        if self._handle is None:
            return
        with contextlib.suppress(nbd.Error):
            self._handle.shutdown()
        self.drop()
