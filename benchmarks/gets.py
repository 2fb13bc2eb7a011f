"""A minimal S3 client: plain HTTP on signed URLs, which discards what it reads.

    python -m benchmarks.gets GET|PUT LIST

LIST has a URL a line, for PUT with the file to send behind it. It shows what the server can do, as a
yardstick for clients which also do something with the bytes.
"""

from __future__ import annotations

import http.client
import sys
import threading
from pathlib import Path
from queue import Empty, SimpleQueue
from urllib.parse import urlsplit

from benchmarks.cost import Cost
from benchmarks.stage import Stage
from puller.units import MIB

CONNECTIONS = 4


def run(stage: Stage, method: str, lines: list[str]) -> Cost:
    """GET or PUT all, in a process of its own."""
    listed = stage.place("urls")
    listed.write_text("\n".join(lines))
    return stage.meter().run([sys.executable, "-m", "benchmarks.gets", method, str(listed)])


def get_all(stage: Stage) -> Cost:
    """GET every pack of puller's repository in the bucket, whole."""
    return run(stage, "GET", stage.cloud.urls("puller/packs/"))


class _Client(threading.Thread):
    """One connection, which takes its work from the queue."""

    def __init__(self, host: str, method: str, queue: SimpleQueue[str]) -> None:
        super().__init__()
        self._connection = http.client.HTTPConnection(host)
        self._method = method
        self._queue = queue
        self._buffer = bytearray(MIB)
        self.failures: list[str] = []

    def run(self) -> None:
        while True:
            try:
                url, _, path = self._queue.get_nowait().partition(" ")
            except Empty:
                return
            self._ask(url, path)

    def _ask(self, url: str, path: str) -> None:
        parts = urlsplit(url)
        body = Path(path).read_bytes() if path else None
        self._connection.request(self._method, f"{parts.path}?{parts.query}", body)
        with self._connection.getresponse() as answer:
            while answer.readinto(self._buffer):
                pass
            if answer.status not in (200, 204):
                self.failures.append(f"{url}: {answer.status}")


def main() -> None:
    """Work off the list."""
    method, listed = sys.argv[1:]
    lines = Path(listed).read_text().splitlines()
    queue: SimpleQueue[str] = SimpleQueue()
    for line in lines:
        queue.put(line)
    clients = [_Client(urlsplit(lines[0]).netloc, method, queue) for _ in range(CONNECTIONS)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    failures = [failure for client in clients for failure in client.failures]
    if failures or not queue.empty():
        sys.exit(f"{len(failures)} failed: {failures[:1]}")


if __name__ == "__main__":
    main()
