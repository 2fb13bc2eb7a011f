"""A slow network: a proxy on loopback with a delay, a rate per connection and faults, in its own process.

    python -m benchmarks.delay HOST:PORT MILLISECONDS [RATE [FAULTS]]

It prints its own port, and ends with its standard input. Half of the round trip is on the way there, half on
the way back. RATE is in bytes per second in each direction of a connection; 0 means no limit. FAULTS is the
share of HTTP requests that fail: a third of them each with a 503, with a reset, and with no answer at all. A
line ``faults SHARE`` on standard input changes that share.
"""

from __future__ import annotations

import asyncio
import random
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from time import monotonic

_READ = 1 << 16
_BUFFER = 1 << 18
"""Bytes that the kernel takes from a sender ahead of the wire: more would hide the rate from it."""

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_BUSY = (
    b"HTTP/1.1 503 Slow Down\r\nContent-Type: application/xml\r\n"
    b"Content-Length: 69\r\nConnection: close\r\n\r\n"
    b"<Error><Code>SlowDown</Code><Message>Slow down.</Message></Error>\r\n\r\n"
)


@dataclass
class Wire:
    """Properties of all connections; ``delay`` of one direction, in seconds."""

    delay: float
    rate: float
    faults: float


class _Direction:
    """One direction of a connection: each piece takes its time to be sent, and arrives after the delay."""

    def __init__(self, wire: Wire, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._wire = wire
        self._reader = reader
        self._writer = writer
        self._free = 0.0
        self._pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

    async def run(self) -> None:
        writing = asyncio.create_task(self._write())
        with suppress(OSError):
            await self._pass_all()
        self._pieces.put_nowait((monotonic() + self._wire.delay, b""))
        with suppress(OSError):
            await writing
        self._writer.close()

    async def _pass_all(self) -> None:
        while piece := await self._reader.read(_READ):
            await self.send(piece)

    async def send(self, piece: bytes) -> None:
        """Put a piece on the wire; returns when the wire is free for the next one."""
        begin = max(monotonic(), self._free)
        self._free = begin + (len(piece) / self._wire.rate if self._wire.rate else 0.0)
        self._pieces.put_nowait((self._free + self._wire.delay, piece))
        await asyncio.sleep(self._free - monotonic())

    async def _write(self) -> None:
        while True:
            due, piece = await self._pieces.get()
            await asyncio.sleep(due - monotonic())
            if not piece:
                return
            self._writer.write(piece)
            await self._writer.drain()


class _Requests(_Direction):
    """The direction of the requests, some of which fail. ``client`` is the way back to their sender."""

    def __init__(
        self,
        wire: Wire,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        client: asyncio.StreamWriter,
    ) -> None:
        super().__init__(wire, reader, writer)
        self._client = client

    async def _pass_all(self) -> None:
        with suppress(asyncio.IncompleteReadError):
            while True:
                head = await self._reader.readuntil(b"\r\n\r\n")
                if random.random() < self._wire.faults and not await self._fail():
                    return
                await self.send(head)
                found = _LENGTH.search(head)
                left = int(found.group(1)) if found else 0
                while left and (piece := await self._reader.read(min(left, _READ))):
                    left -= len(piece)
                    await self.send(piece)

    async def _fail(self) -> bool:
        """Fail in one of three ways. Returns False, because the connection never continues."""
        way = random.randrange(3)
        await asyncio.sleep(2 * self._wire.delay)
        if way == 0:
            self._client.write(_BUSY)
            await self._client.drain()
            with suppress(asyncio.TimeoutError):  # the rest of the body, so that the answer is not lost
                async with asyncio.timeout(1.0):
                    while await self._reader.read(_READ):
                        pass
        elif way == 1:
            self._client.transport.abort()
        else:
            while await self._reader.read(_READ):  # until the sender gives up
                pass
        self._client.close()
        return False


async def _serve(host: str, port: int, wire: Wire) -> None:
    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(2 * wire.delay)  # the handshake
        far_reader, far_writer = await asyncio.open_connection(host, port)
        there = _Requests(wire, reader, far_writer, writer)
        with suppress(OSError):
            await asyncio.gather(there.run(), _Direction(wire, far_reader, writer).run())

    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
    listening.bind(("127.0.0.1", 0))
    server = await asyncio.start_server(connected, sock=listening, backlog=256)
    print(server.sockets[0].getsockname()[1], flush=True)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        wire.faults = float(line.split()[1])


class Proxy:
    """A running proxy."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        self._process = process
        self.endpoint = f"http://127.0.0.1:{int(process.stdout.readline())}"

    def fail(self, share: float) -> None:
        """Make this share of the requests fail from now on."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"faults {share}\n")
        self._process.stdin.flush()


@contextmanager
def proxy(endpoint: str, milliseconds: float, rate: float = 0.0, faults: float = 0.0) -> Iterator[Proxy]:
    """A proxy of ``endpoint``, ``http://HOST:PORT``, with this delay and rate."""
    words = [endpoint.removeprefix("http://"), str(milliseconds), str(rate), str(faults)]
    command = [sys.executable, "-m", "benchmarks.delay", *words]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Proxy(process)
        finally:
            process.terminate()


@contextmanager
def wire(endpoint: str, milliseconds: float) -> Iterator[str]:
    """The address of a proxy without a limit of the rate."""
    with proxy(endpoint, milliseconds) as found:
        yield found.endpoint


def main() -> None:
    place, milliseconds, rate, faults = (*sys.argv[1:], "0", "0")[:4]
    host, _, port = place.rpartition(":")
    asyncio.run(_serve(host, int(port), Wire(float(milliseconds) / 2000, float(rate), float(faults))))


if __name__ == "__main__":
    main()
