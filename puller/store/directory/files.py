"""Reading and writing of the files of a store in a directory: past the page cache where that is possible."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable
from pathlib import Path

from puller.store.base import Body

_DIRECT = 1 << 20
"""Bytes from which a body is written with direct I/O, if its buffer and the file system allow it: on a full
host the page cache would first have to evict memory that guests use."""

_BLOCK = 4096
"""Unit of the length of a direct write; devices with larger blocks answer EINVAL."""

_PIECE = 8 << 20
"""Bytes of one write: each completed write shows that a slow file system still works."""


def read_file(descriptor: int, offset: int, length: int) -> bytes:
    """Read until ``length`` or the end: one ``pread`` returns at most 2 GiB and may return less."""
    pieces = []
    while length > 0 and (piece := os.pread(descriptor, length, offset)):
        pieces.append(piece)
        offset += len(piece)
        length -= len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def write_file(path: Path, body: Body, note_progress: Callable[[], None]) -> None:
    """Create the file, write ``body`` without copying it, and sync."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        rest = memoryview(body)
        if len(rest) >= _DIRECT:
            rest = _write_direct(descriptor, rest, note_progress)
        while rest:
            rest = rest[os.write(descriptor, rest[:_PIECE]) :]
            note_progress()
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_direct(descriptor: int, body: memoryview, note_progress: Callable[[], None]) -> memoryview:
    """Write whole blocks with direct I/O; return the rest, which is all of it if that is not possible.

    It needs a page-aligned buffer, such as those of packs, and a file system that supports O_DIRECT.
    """
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    whole, done = len(body) // _BLOCK * _BLOCK, 0
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | os.O_DIRECT)
        while done < whole:
            done += os.write(descriptor, body[done : min(whole, done + _PIECE)])
            note_progress()
    except OSError as error:
        if error.errno not in {errno.EINVAL, errno.EOPNOTSUPP}:
            raise
    finally:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags)
    return body[done:]
