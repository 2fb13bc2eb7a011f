"""A web server on loopback that keeps what is posted to it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Web:
    """A web server: what was posted to it, and its answer, at first 200."""

    url: str = ""
    answer: int = 200
    posted: list[tuple[str, str]] = field(default_factory=list)

    def documents(self) -> list[Any]:
        return [json.loads(text) for _, text in self.posted]


@contextmanager
def web_server() -> Iterator[Web]:
    """Serve on loopback while the context lasts."""
    heard = Web()

    class Page(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = int(self.headers["Content-Length"])
            heard.posted.append((self.path, self.rfile.read(length).decode()))
            self.send_response(heard.answer)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Page)
    heard.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield heard
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
