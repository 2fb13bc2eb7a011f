"""What clients write to a served disk: in a temporary file that nobody else can open, gone with the server.

nbdkit's filter ``cow`` has one overlay for all exports of a server, so it would mix the disks.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from puller.errors import ServeFailed
from puller.host.allocation import punch
from puller.host.folders import temporary_directory
from puller.recovery.serving.disk import Run, ServedDisk
from puller.units import CHUNK, PAGE_CHUNKS

_BASE, _WRITTEN, _ZEROED = 0, 1, 2
"""States of a chunk: as in the point, in the file, or zero."""

_LOCKS = 64


class OverlaidDisk:
    """``base`` with writes over it. Safe for many threads. Raises OSError if the file is full."""

    def __init__(self, base: ServedDisk) -> None:
        self.name = base.name
        self.size = base.size
        self._base = base
        self._file = _temporary_file(base.size)
        self._pages: dict[int, bytearray] = {}
        self._failed: set[int] = set()
        self._locks = [threading.Lock() for _ in range(_LOCKS)]

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill ``buffer`` from ``offset``: as ``ServedDisk.read_into``."""
        for state, start, stop in self._parts(offset, len(buffer)):
            part = buffer[start - offset : stop - offset]
            if state == _BASE:
                self._base.read_into(part, start)
            else:
                self._fill(part, start)

    def write(self, content: memoryview, offset: int) -> None:
        """Write, after what else is in a chunk was copied. Raises OSError, and what reading raises."""
        for start, stop in _chunks(offset, len(content)):
            with self._lock(start), self._remembered(start // CHUNK):
                self._copy_up(start, stop)
                self._put(content[start - offset : stop - offset], start)
                self._set(start // CHUNK, _WRITTEN)

    def zero(self, offset: int, length: int) -> None:
        """Make the range read as zeros. Whole chunks take no room. Raises as ``write`` does."""
        for start, stop in _chunks(offset, length):
            if not self._is_whole(start, stop):
                self.write(memoryview(bytes(stop - start)), start)
                continue
            with self._lock(start):
                if self._state(start // CHUNK) == _WRITTEN or start // CHUNK in self._failed:
                    self._clear(start, stop)
                self._set(start // CHUNK, _ZEROED)

    def runs(self, offset: int, length: int) -> Iterator[Run]:
        """Yield what of the range is stored and what is zero: as ``ServedDisk.runs``."""
        for run in self._base.runs(offset, length):
            for state, start, stop in self._parts(run.offset, run.length):
                stored = run.stored if state == _BASE else state == _WRITTEN
                yield Run(start, stop - start, stored)

    def _copy_up(self, start: int, stop: int) -> None:
        """Copy the rest of a chunk that is written for the first time."""
        if self._state(start // CHUNK) != _BASE or self._is_whole(start, stop):
            return
        begin = start - start % CHUNK
        whole = bytearray(min(CHUNK, self.size - begin))
        self._base.read_into(memoryview(whole), begin)
        self._put(memoryview(whole), begin)

    @contextmanager
    def _remembered(self, chunk: int) -> Iterator[None]:
        """Remember a chunk of which a part may be in the file because writing it failed."""
        try:
            yield
        except OSError:
            self._failed.add(chunk)
            raise

    def _put(self, content: memoryview, start: int) -> None:
        """Write all of it: on a full file system, a call writes a part and reports no error."""
        done = 0
        while done < len(content):
            done += os.pwrite(self._file.fileno(), content[done:], start + done)

    def _clear(self, start: int, stop: int) -> None:
        if not punch(self._file.fileno(), start, stop - start):
            self._put(memoryview(bytes(stop - start)), start)

    def _fill(self, part: memoryview, start: int) -> None:
        """Read from the file, whose holes are zeros."""
        done = 0
        while done < len(part):
            count = os.preadv(self._file.fileno(), [part[done:]], start + done)
            if not count:
                raise OSError(0, "the overlay is shorter than the disk")
            done += count

    def _parts(self, offset: int, length: int) -> Iterator[tuple[int, int, int]]:
        """Yield (state, start, stop) of neighbouring chunks in one state."""
        begun: tuple[int, int, int] | None = None
        for start, stop in _chunks(offset, length):
            state = self._state(start // CHUNK)
            if begun is not None and begun[0] == state:
                begun = state, begun[1], stop
                continue
            if begun is not None:
                yield begun
            begun = state, start, stop
        if begun is not None:
            yield begun

    def _is_whole(self, start: int, stop: int) -> bool:
        return start % CHUNK == 0 and (stop - start == CHUNK or stop == self.size)

    def _state(self, chunk: int) -> int:
        page = self._pages.get(chunk // PAGE_CHUNKS)
        return _BASE if page is None else page[chunk % PAGE_CHUNKS]

    def _set(self, chunk: int, state: int) -> None:
        self._pages.setdefault(chunk // PAGE_CHUNKS, bytearray(PAGE_CHUNKS))[chunk % PAGE_CHUNKS] = state

    def _lock(self, start: int) -> threading.Lock:
        return self._locks[start // CHUNK % _LOCKS]


def _temporary_file(size: int) -> IO[bytes]:
    """Return a sparse file without a name. Raises ServeFailed."""
    folder = temporary_directory()
    try:
        file = tempfile.TemporaryFile(dir=folder, prefix="puller-overlay-")  # noqa: SIM115 - closed by its end
        file.truncate(size)
    except OSError as error:
        text = f"cannot make a temporary file for what clients write in {folder}: {error.strerror}"
        raise ServeFailed(
            text, advice="Set TMPDIR to a directory with room that this user may use."
        ) from error
    return file


def _chunks(offset: int, length: int) -> Iterator[tuple[int, int]]:
    """Cut the range at the borders of chunks."""
    end = offset + length
    while offset < end:
        stop = min(offset - offset % CHUNK + CHUNK, end)
        yield offset, stop
        offset = stop
