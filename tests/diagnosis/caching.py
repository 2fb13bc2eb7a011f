"""A gateway in front of an S3 server that answers repeated GETs from its cache."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

_OWN = {"connection", "expect", "transfer-encoding", "content-length"}

Cached = tuple[int, list[tuple[str, str]], bytes]


class _Gateway(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, endpoint: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behind = urlsplit(endpoint).netloc
        self.cache: dict[tuple[str, str | None], Cached] = {}

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: a client may hang up."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Gateway

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        name = (self.path, self.headers.get("Range"))
        cached = self.server.cache.get(name) if self.command == "GET" else None
        answer = cached or self._ask(body)
        if self.command == "GET" and answer[0] < 300:
            self.server.cache[name] = answer
        status, headers, content = answer
        self.send_response_only(status)
        length = dict(headers).get("Content-Length") if self.command == "HEAD" else str(len(content))
        for key, value in [
            *((k, v) for k, v in headers if k.lower() not in _OWN),
            ("Content-Length", length),
        ]:
            self.send_header(key, value or "0")
        self.end_headers()
        self.wfile.write(content)

    def _ask(self, body: bytes) -> Cached:
        connection = http.client.HTTPConnection(self.server.behind)
        connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for key, value in self.headers.items():
            if key.lower() not in _OWN:
                connection.putheader(key, value)
        connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        answer = connection.getresponse()
        found = (answer.status, answer.getheaders(), answer.read())
        connection.close()
        return found

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _answer  # noqa: N815 - names of http.server

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as in http.server
        """Keep the tests' output clean."""


@contextmanager
def caching_gateway(endpoint: str) -> Iterator[str]:
    """Yield the URL of a gateway to ``endpoint``."""
    gateway = _Gateway(endpoint)
    thread = threading.Thread(target=gateway.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{gateway.server_port}"
    finally:
        gateway.shutdown()
        thread.join()
        gateway.server_close()
