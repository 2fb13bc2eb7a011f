"""An HTTP server whose answers a test scripts: for what no real S3 server does when asked."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ssl import SSLContext
from typing import TypeVar

from botocore.config import Config

from puller.store.base import Store

ONCE = Config(retries={"mode": "standard", "total_max_attempts": 1}, connect_timeout=5, read_timeout=5)
HEADERS = {"ETag": '"1"', "Last-Modified": "Mon, 23 Nov 2026 05:00:00 GMT"}
LARGE = 1 << 20

OPERATIONS: dict[str, Callable[[Store], object]] = {
    "get": lambda store: store.get("a"),
    "get_range": lambda store: store.get_range("a", 0, 1),
    "get_ranges": lambda store: store.get_ranges("a", [(0, 1)]),
    "get_tail": lambda store: store.get_tail("a", 1),
    "put": lambda store: store.put("a", b""),
    "put large": lambda store: store.put("a", bytes(LARGE)),
    "put_new": lambda store: store.put_new("a", b""),
    "stat": lambda store: store.stat("a"),
    "list": lambda store: list(store.list("")),
    "delete": lambda store: store.delete(["a"]),
}
"""One of each kind, by name: what every client of S3 has to get through."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A response; ``announced`` is its Content-Length where that shall be a lie.

    ``chunked``: it has none, but comes in pieces.
    """

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    announced: int | None = None
    chunked: bool = False


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


def s3_error(status: int, code: str, message: str = "Something.") -> Answer:
    body = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
    return Answer(status, body.encode(), {"Content-Type": "application/xml"})


class ScriptedServer(ThreadingHTTPServer):
    """Gives the answers in turn, the last one for ever; keeps the requests."""

    daemon_threads = True

    def __init__(self, answers: list[Answer], tls: SSLContext | None, expectation: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_side=True)
        self.endpoint = f"{'http' if tls is None else 'https'}://127.0.0.1:{self.server_port}"
        self.requests: list[Request] = []
        self.answers = answers
        self.expectation = expectation

    def next_answer(self, request: Request) -> Answer:
        self.requests.append(request)
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: clients that hang up are part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each answer with a body takes 40 ms
    server: ScriptedServer

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        answer = self.server.next_answer(Request(self.command, self.path, headers, body))
        self.send_response(answer.status)
        length = len(answer.body) if answer.announced is None else answer.announced
        size = {"Transfer-Encoding": "chunked"} if answer.chunked else {"Content-Length": str(length)}
        for name, value in {**size, **answer.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            for piece in self._framed(answer):
                self.wfile.write(piece)
        # A HEAD has no body to fall short. The client would use the connection again, and may be quicker than
        # the news of its end.
        self.close_connection = answer.announced is not None and self.command != "HEAD"

    def _framed(self, answer: Answer) -> tuple[bytes, ...]:
        if not answer.chunked:
            return (answer.body,)
        return f"{len(answer.body):x}\r\n".encode(), answer.body, b"\r\n0\r\n\r\n"

    def handle_expect_100(self) -> bool:
        """Before the body: http.server goes on by itself."""
        match self.server.expectation:
            case "met":
                return super().handle_expect_100()
            case "refused":
                self.send_error(417)
        self.close_connection = True
        return False

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = do_CONNECT = _answer  # noqa: N815 - names of http.server

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as in http.server
        """Keep the tests' output clean."""


S = TypeVar("S", bound=ScriptedServer)


@contextmanager
def serving(server: S) -> Iterator[S]:
    """Let ``server`` serve while the context lasts."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def scripted_server(
    *answers: Answer, tls: SSLContext | None = None, expectation: str = "met"
) -> Iterator[ScriptedServer]:
    """``expectation``: what comes of ``Expect: 100-continue``: ``met``, ``refused`` (417) or ``dropped``."""
    with serving(ScriptedServer(list(answers), tls, expectation)) as server:
        yield server
