"""A long wire: a proxy on loopback that passes every byte on after a delay, in a process of its own.

    python -m benchmarks.delay HOST:PORT MILLISECONDS     # prints its own port; ends with its standard input

Half of the delay is on the way there, half on the way back, as of a round trip. The rate is not limited.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from time import monotonic

_READ = 1 << 20


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay: float) -> None:
    """Each piece leaves ``delay`` seconds after it came, whatever is behind it."""
    pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

    async def write() -> None:
        while True:
            due, piece = await pieces.get()
            await asyncio.sleep(due - monotonic())
            if not piece:
                break
            writer.write(piece)
            await writer.drain()

    writing = asyncio.create_task(write())
    with suppress(OSError):
        while piece := await reader.read(_READ):
            pieces.put_nowait((monotonic() + delay, piece))
    pieces.put_nowait((monotonic() + delay, b""))
    with suppress(OSError):
        await writing
    writer.close()


async def _serve(host: str, port: int, delay: float) -> None:
    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(host, port)
        await asyncio.gather(_pass_on(reader, far_writer, delay), _pass_on(far_reader, writer, delay))

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


@contextmanager
def wire(endpoint: str, milliseconds: float) -> Iterator[str]:
    """The address of a proxy of ``endpoint``, ``http://HOST:PORT``, that is so far away."""
    words = [sys.executable, "-m", "benchmarks.delay", endpoint.removeprefix("http://"), str(milliseconds)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as proxy:
        assert proxy.stdout is not None
        yield f"http://127.0.0.1:{int(proxy.stdout.readline())}"
        proxy.terminate()


def main() -> None:
    place, milliseconds = sys.argv[1:]
    host, _, port = place.rpartition(":")
    asyncio.run(_serve(host, int(port), float(milliseconds) / 2000))


if __name__ == "__main__":
    main()
