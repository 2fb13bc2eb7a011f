"""Bodies of requests: an upload as a file for the S3 client, and a download that notes its progress."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from typing import IO, Any, cast

from botocore.compat import set_socket_timeout
from botocore.response import StreamingBody

from puller.store.base import Body

SMALL = 128 << 10
"""Bytes up to which a body is copied into a ``bytearray``.

botocore sends files, and ``bytes`` too (it wraps them in a file), with ``Expect: 100-continue``: one
round trip more, which a large body is worth if it may be refused."""


Note = Callable[[], None]


def _ignore() -> None:
    """Ignore progress."""


class BufferFile:
    """A read-only file over a buffer that returns views of it: nothing is copied.

    A large ``bytearray`` would be as cheap, but is sent in one ``sendall``, and Python applies the socket's
    timeout to that whole call, which for a new connection is the connect timeout: too short for a slow
    network. A file is sent in small pieces, each with the full timeout.

    ``announced``: whether the request has ``Expect: 100-continue``, so that the server can refuse the body.
    ``note_progress`` is called whenever a piece is read.
    """

    def __init__(self, body: Body, announced: bool = True, note_progress: Note = _ignore) -> None:
        self._view = memoryview(body)
        self.announced = announced
        self._note_progress = note_progress
        self._position = 0
        self.moved = 0.0
        """Monotonic time of the last read; 0 before the first."""

    def __len__(self) -> int:
        return len(self._view)

    def read(self, size: int = -1) -> memoryview:
        """Return a view of the next ``size`` bytes, of the rest if negative; empty at the end."""
        end = len(self._view) if size < 0 else self._position + size
        piece = self._view[self._position : end]
        self._position += len(piece)
        self.moved = time.monotonic()
        self._note_progress()
        return piece

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move, as ``io.IOBase.seek`` does: the client rewinds the file for a retry."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: len(self._view)}[whence]
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        """Return the position."""
        return self._position


def is_announced(body: Body) -> bool:
    """Return whether a body of this size is announced."""
    return len(body) > SMALL


def upload_body(body: Body, announced: bool = True, note_progress: Note = _ignore) -> IO[bytes] | bytes:
    """Return ``body`` in the cheapest form for an upload; ``announced`` applies to large bodies."""
    # Both casts are for the client's stubs, which know neither bytearrays nor files of views.
    if not is_announced(body):
        return cast("bytes", bytearray(body))
    return cast("IO[bytes]", BufferFile(body, announced, note_progress))


_PIECE = 64 << 10
_LARGEST_PIECE = 4 << 20
_PROMPT = 0.1
"""Bytes of one read of a download; larger if they arrive within these seconds."""


class HeardBody(StreamingBody):
    """A download that notes its progress: a slow download is not a silent store.

    ``time_limit``: seconds without a byte. The limit of the request applies only up to the answer's head: it
    is derived from waits for answers, which say nothing about pauses in a body.
    """

    def __init__(self, body: StreamingBody, note_progress: Note, time_limit: float) -> None:
        stream: Any = body  # the stubs lack the wrapped object
        super().__init__(stream._raw_stream, stream._content_length)
        self._note_progress = note_progress
        with suppress(AttributeError):  # the body is empty, and its connection is free again
            set_socket_timeout(stream._raw_stream, time_limit)

    def read(self, amt: int | None = None) -> bytes:
        """Read in pieces, because one call would return only with the last byte."""
        pieces: list[bytes] = []
        left, step = amt, _PIECE
        while left is None or left > 0:
            began = time.monotonic()
            piece = super().read(step if left is None else min(step, left))
            if not piece:
                break
            self._note_progress()
            pieces.append(piece)
            left = None if left is None else left - len(piece)
            step = min(step * 2, _LARGEST_PIECE) if time.monotonic() - began < _PROMPT else _PIECE
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)
