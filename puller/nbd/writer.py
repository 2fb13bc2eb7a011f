"""The disk that a restore writes to, behind NBD."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from queue import LifoQueue
from typing import Self

from puller.cancelling import CancelScope
from puller.errors import NbdError
from puller.nbd.connection import Connection
from puller.units import MIB

_CONNECTIONS = 4
"""Connections to a server that allows several: as many as a restore has threads that write."""

_ZEROS = memoryview(bytes(MIB))


class Target:
    """The export at ``uri``, opened for writing. Its methods may be called from any thread.

    Each call uses its own connection, and waits while all are in use. There is one if a flush covers only its
    own connection, else a few. Calls on ranges that overlap must not be made at the same time. The end of
    ``scope`` interrupts them. Raises NbdError if the server cannot be reached or is read-only, and from every
    method when the server fails.
    """

    def __init__(self, uri: str, scope: CancelScope | None = None) -> None:
        self._scope = scope
        first = Connection(uri, scope=scope)
        self._connections = [first]
        try:
            self._prepare(first)
        except BaseException:
            self.close()
            raise
        self.size = first.size
        self._idle: LifoQueue[Connection] = LifoQueue()
        for connection in self._connections:
            self._idle.put(connection)

    def _prepare(self, first: Connection) -> None:
        if first.read_only:
            raise NbdError(
                f"cannot write to {first.uri}: the export is read-only",
                advice="Serve the export for writing.",
            )
        while first.can_share and len(self._connections) < _CONNECTIONS:
            self._connections.append(Connection(first.uri, scope=self._scope))

    @contextmanager
    def _connection(self) -> Iterator[Connection]:
        connection = self._idle.get()
        try:
            yield connection
        finally:
            self._idle.put(connection)

    def write(self, offset: int, view: memoryview) -> None:
        """Write ``view`` at ``offset``."""
        with self._connection() as connection:
            connection.write(offset, view)

    def zero(self, ranges: Iterable[tuple[int, int]], least_hole: int = 0) -> None:
        """Make each (offset, length) read as zeros; those of ``least_hole`` bytes may become holes."""
        with self._connection() as connection:
            if connection.can_zero:
                connection.write_zeroes(ranges, least_hole)
                return
            for offset, length in ranges:
                for start in range(0, length, len(_ZEROS)):
                    connection.write(offset + start, _ZEROS[: length - start])

    def flush(self) -> None:
        """Wait until everything is durable whose ``write`` or ``zero`` has returned."""
        with self._connection() as connection:
            connection.flush()

    def close(self) -> None:
        """Close all connections. Writes without a flush may be lost."""
        for connection in self._connections:
            connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for connection in self._connections:
            if kind is None:
                connection.close()
            else:
                connection.drop()
