"""The block status of a part of an export, in as few requests as its server allows."""

from __future__ import annotations

from collections.abc import Iterator

from puller.errors import NbdError
from puller.nbd.connection import Connection, PendingStatus
from puller.units import MIB

WINDOW = 3584 * MIB
"""Most bytes of one request whose length has 32 bits, as before libnbd 1.18 and QEMU 8.2.

They are those of seven L2 tables of a qcow2 image with clusters of 64 KiB: no two requests need the same."""

LONG_WINDOW = 128 * WINDOW
"""Most bytes of one request whose length has 64 bits. QEMU reads up to 56 MiB of L2 tables for it, and can
meanwhile answer nothing else on the connection, nor be stopped: so not the whole disk."""

_AT_ONCE = 8
"""Most requests in flight: the server works on one while the next is on its way."""

_FEW = 4096
"""Extents in the last replies up to which more are asked for at once: one reply may hold 128 Ki of them."""


def block_status(connection: Connection, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield (offset, length, flags) of the connection's context, from ``start`` until ``end`` is reached.

    Replies may be short (QEMU stops at 128 Ki extents) and their last extent may overrun the request, here
    also ``end``. No request is in flight when something is yielded. Raises NbdError if a request fails or
    gets nowhere.
    """
    at_once = 1
    while start < end:
        asked, count = start, 0
        for offset, length, flags in _replies(connection, start, end, at_once):
            if offset > start:
                break  # the reply before this one was short
            count += 1
            if offset + length > start:
                yield start, offset + length - start, flags
                start = offset + length
        if start == asked:
            raise NbdError(f"the server of {connection.uri} returns no {connection.context} at {start}")
        at_once = min(2 * at_once, _AT_ONCE) if count <= _FEW else 1


def _replies(connection: Connection, start: int, end: int, at_once: int) -> Iterator[tuple[int, int, int]]:
    """The extents of some requests that are made at once; all are answered when the first is yielded."""
    made: list[tuple[int, PendingStatus]] = []
    window = LONG_WINDOW if connection.has_long_requests else WINDOW
    while start < end and len(made) < at_once:
        length = min(window - start % window, end - start)
        made.append((start, connection.begin_status(start, length)))
        start += length
    for offset, extents in [(offset, connection.end_status(pending)) for offset, pending in made]:
        for length, flags in extents:
            yield offset, length, flags
            offset += length  # noqa: PLW2901 - where the next extent begins
