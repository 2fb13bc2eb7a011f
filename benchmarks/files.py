"""What one file out of a large point costs, against a restore of the disk and a mount of that.

    python -m benchmarks.files               # 12 GiB of disk, a quarter of it filled; needs as much room
    python -m benchmarks.files --size 1      # a small run

A proxy before SeaweedFS counts requests, and the bytes that puller fetches; they include those for opening
the repository. Once a point is restored, a mount of it fetches nothing.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Self, cast

import puller
from benchmarks.scale import line
from puller.units import GIB, MIB, format_bytes
from tests.lab import appliance
from tests.lab.archive import make_point
from tests.lab.seaweed import Seaweed

FEWER = 10
WANTED = "/srv/wanted"
_PIECE = 4 * MIB
_BEGIN = MIB
_METHODS = (b"GET ", b"PUT ", b"HEAD ", b"POST ", b"DELETE ")


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one command: requests to the store, bytes that it answered, and seconds."""

    requests: int
    fetched: int
    seconds: float


class CountingProxy:
    """Passes connections on to ``port``, and counts requests and answered bytes."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._lock = threading.Lock()
        self.requests = 0
        self.fetched = 0

    @property
    def endpoint(self) -> str:
        """The URL in place of the server's."""
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def measure(self, act: Callable[[], None]) -> Cost:
        """What ``act`` costs."""
        requests, fetched, began = self.requests, self.fetched, time.monotonic()
        act()
        return Cost(self.requests - requests, self.fetched - fetched, time.monotonic() - began)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._port))
            for source, sink, count in ((client, server, self._asked), (server, client, self._answered)):
                threading.Thread(target=_pass_on, args=(source, sink, count), daemon=True).start()

    def _asked(self, content: bytes) -> None:
        """A client sends the head of each request at once, and puller's reads have no body."""
        with self._lock:
            self.requests += content.startswith(_METHODS)

    def _answered(self, content: bytes) -> None:
        with self._lock:
            self.fetched += len(content)


def _pass_on(source: socket.socket, sink: socket.socket, count: Callable[[bytes], None]) -> None:
    try:
        while content := source.recv(256 * 1024):
            count(content)
            sink.sendall(content)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        pass


def make_image(folder: Path, size: int, filled: float) -> Path:
    """A partitioned disk with one ext4: files that do not compress, and 1 MiB at ``WANTED`` among them."""
    chance = random.Random(size)
    staging, image = folder / "staging", folder / "image"
    for number in range(int(size * filled) // _PIECE):
        path = staging / "srv" / str(number % 100) / str(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(chance.randbytes(_PIECE))
    (staging / WANTED[1:]).write_bytes(chance.randbytes(MIB))
    with image.open("wb") as file:
        file.truncate(size)
    table = ["sfdisk", "--quiet", str(image)]
    subprocess.run(
        table, input=f"label: gpt\nstart={_BEGIN // 512}\n".encode(), check=True, capture_output=True
    )
    blocks = f"{(size - 2 * _BEGIN) // 1024}k"
    words = ["mkfs.ext4", "-q", "-E", f"offset={_BEGIN}", "-d", str(staging), str(image), blocks]
    subprocess.run(words, check=True, capture_output=True)
    shutil.rmtree(staging)
    return image


@contextmanager
def stored_point(folder: Path, server: Seaweed, size: int, filled: float) -> Iterator[bytes]:
    """A point of such a disk in the bucket, and what the wanted file holds."""
    image = make_image(folder, size, filled)
    dump = ["debugfs", "-R", f"dump {WANTED} {folder}/wanted", f"{image}?offset={_BEGIN}"]
    subprocess.run(dump, check=True, capture_output=True)
    server.make_bucket("bench")
    repository = puller.create_repository("s3://bench/puller", password="benchmark")
    with image.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as content:
        make_point(repository, {"vda": cast(bytes, content)})
    image.unlink()
    yield (folder / "wanted").read_bytes()


def _run(*words: str) -> bytes:
    command = [sys.executable, "-m", "puller.cli", *words, "-r", "s3://bench/puller"]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout


def run(folder: Path, size: int, filled: float) -> bool:
    """Print the table; return whether the bound holds."""
    os.environ.update(
        appliance.environment(), PULLER_PASSWORD="benchmark", PULLER_CACHE_DIR=str(folder / "cache")
    )
    with ExitStack() as stack:
        server = stack.enter_context(Seaweed(folder / "seaweed"))
        os.environ.update(server.variables())
        wanted = stack.enter_context(stored_point(folder, server, size, filled))
        proxy = stack.enter_context(CountingProxy(int(server.endpoint.rpartition(":")[2])))
        os.environ["AWS_ENDPOINT_URL_S3"] = proxy.endpoint
        output = folder / "restored.raw"
        works = {
            "cat of 1 MiB": lambda: _check(_run("cat", f"web1@latest:{WANTED}"), wanted),
            "cat of 1 MiB, --filesystem": lambda: _check(
                _run("cat", f"web1@latest:{WANTED}", "--filesystem", "/dev/vda1"), wanted
            ),
            "restore of the disk": lambda: _check(
                _run("restore", "web1@latest", "--disk", "vda", "-q", "--output", str(output))[:0], b""
            ),
        }
        costs = {name: proxy.measure(act) for name, act in works.items()}
    for name, cost in costs.items():
        figure = f"{cost.requests} requests, {format_bytes(cost.fetched)}, {cost.seconds:.1f} s"
        line(name, figure, "", None)
    factor = costs["restore of the disk"].fetched / costs["cat of 1 MiB"].fetched
    line("bytes of the restore in those of cat", f"{factor:.0f}", f">= {FEWER}", factor >= FEWER)
    return factor >= FEWER


def _check(found: bytes, expected: bytes) -> None:
    if found != expected:
        raise SystemExit("the file is not the one that was stored")


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--size", type=float, default=12.0, metavar="GIB", help="Size of the disk.")
    parser.add_argument("--filled", type=float, default=0.25, help="Part of it that files fill.")
    parser.add_argument("--folder", type=Path, help="Where the temporary files go.")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        holds = run(Path(folder), int(options.size * GIB), options.filled)
    sys.exit(0 if holds else 1)


if __name__ == "__main__":
    main()
