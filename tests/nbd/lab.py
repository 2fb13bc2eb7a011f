"""Real images and real servers for the tests of this room."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from puller.nbd.export import Export
from puller.nbd.reader import read
from puller.pipeline.buffers import Buffer, BufferPool
from puller.pipeline.readgate import ReadGate
from puller.units import CHUNK, MIB, Extent, Kind

WAIT_SECONDS = 60
"""How long a test waits for what must happen before it fails; no test waits for time to pass."""


def run(*command: str | Path) -> bytes:
    """Run ``command``; return what it prints. Raises if it fails."""
    return subprocess.run([str(word) for word in command], check=True, capture_output=True).stdout


def make_qcow2(
    path: Path, size: int, *commands: str, bitmap: str | None = None, cluster: str = "64k"
) -> Path:
    """A qcow2 image. ``commands`` are qemu-io's; ``bitmap`` is ``name[:granularity]``, added before them."""
    run("qemu-img", "create", "-q", "-f", "qcow2", "-o", f"cluster_size={cluster}", path, str(size))
    if bitmap is not None:
        add_bitmap(path, bitmap)
    qemu_io(path, *commands)
    return path


def add_bitmap(path: Path, bitmap: str) -> None:
    """Let the qcow2 image record from now on what changes."""
    name, _, granularity = bitmap.partition(":")
    run("qemu-img", "bitmap", "--add", "-g", granularity or "64k", path, name)


def qemu_io(path: Path, *commands: str) -> None:
    """Change an image that nobody else has open."""
    if commands:
        words = [word for command in commands for word in ("-c", command)]
        output = run("qemu-io", "-f", "qcow2", "-d", "unmap", *words, path)
        assert b"error" not in output, output


def raw_content(path: Path, image_format: str = "qcow2") -> bytes:
    """The guest's view of an image, by an independent reader."""
    copy = path.with_suffix(".truth")
    run("qemu-img", "convert", "-f", image_format, "-O", "raw", path, copy)
    return copy.read_bytes()


class CountedExport(Export):
    """An export that counts its requests, and the bytes that it asks for."""

    def __init__(self, uri: str, changed: str | None = None) -> None:
        super().__init__(uri, changed)
        self.status_requests = self.read_requests = self.bytes_read = 0
        for connection in self._connections:
            self._count(connection)

    def _count(self, connection: Any) -> None:
        begin_status, begin_read = connection.begin_status, connection.begin_read

        def counted_status(offset: int, length: int) -> Any:
            self.status_requests += 1
            return begin_status(offset, length)

        def counted_read(into: memoryview, offset: int) -> Any:
            self.read_requests += 1
            self.bytes_read += len(into)
            return begin_read(into, offset)

        connection.begin_status, connection.begin_read = counted_status, counted_read


def await_end(pid: int) -> None:
    """Return when the process is gone. It need not be a child."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        ready, _, _ = select.select([descriptor], [], [], WAIT_SECONDS)
        assert ready, f"process {pid} does not end"
    finally:
        os.close(descriptor)


@dataclass(frozen=True, slots=True)
class Served:
    """A server that is up."""

    uri: str
    pid: int

    def kill(self, how: signal.Signals = signal.SIGKILL) -> None:
        """End it, if it is not gone already, and wait until it is."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, how)
        await_end(self.pid)


@contextlib.contextmanager
def nbdkit(folder: Path, *arguments: str) -> Iterator[Served]:
    """An nbdkit with ``arguments``. It goes to the background, then serves and tells its pid."""
    socket, pidfile = folder / "nbdkit.sock", folder / "nbdkit.pid"
    os.mkfifo(pidfile)
    subprocess.run(["nbdkit", "--unix", socket, "--pidfile", pidfile, *arguments], check=True)
    server = Served(f"nbd+unix:///?socket={socket}", int(pidfile.read_text()))
    try:
        yield server
    finally:
        server.kill(signal.SIGTERM)


class Copy:
    """Reads an export by its plan into ``content`` and checks what every consumer may rely on."""

    def __init__(self, export: Export, extents: Iterator[Extent], pool: BufferPool, gate: ReadGate) -> None:
        self.content = bytearray(b"\xee") * export.size
        self.planned: list[Extent] = []
        self.batches = 0
        self._announced = 0
        for batch in read(export, extents, pool, gate=gate, planned=self._plan):
            for segment in batch.segments:
                assert segment.offset % CHUNK == segment.position % CHUNK == 0
                end = segment.position + segment.length
                padding = batch.buffer.view[end : segment.position + -(-segment.length // CHUNK) * CHUNK]
                assert not any(padding)
                assert segment.offset + segment.length <= self._announced
                target = slice(segment.offset, segment.offset + segment.length)
                assert self.content[target] == b"\xee" * segment.length
                self.content[target] = batch.buffer.view[segment.position : end]
            self.batches += 1
            batch.release()

    def _plan(self, extent: Extent) -> None:
        assert extent.offset >= self._announced
        self._announced = extent.end
        self.planned.append(extent)
        if extent.kind is Kind.ZERO:
            self.content[extent.offset : extent.end] = bytes(extent.length)


def stale_pool(count: int = 4, size: int = MIB) -> BufferPool:
    """A pool whose buffers hold 0xff everywhere, as if they had been used before."""
    pool = BufferPool(count, size)
    for buffer in take_all(pool):
        buffer.view[:] = b"\xff" * size
        buffer.release()
    return pool


def take_all(pool: BufferPool) -> list[Buffer]:
    """All buffers that are free in ``pool``."""
    return list(iter(pool.try_acquire, None))
