"""A request without an answer, and its connection, end soon if recent waits were short."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from botocore.config import Config
from botocore.exceptions import ConnectionClosedError
from urllib3.exceptions import ProtocolError

from puller.store.s3.client import client as clients
from puller.store.s3.client.timelimits import FACTOR, Bounds, TimeLimits
from puller.store.s3.s3 import S3Store
from tests.store.scripted import LARGE, Answer, Request, serving
from tests.store.stub import Stub, as_others

LONG, ENOUGH = 600.0, 60.0
"""Seconds of the client's own limit, and of waits in these tests: nothing here comes near."""


class TestBounds:
    BOUNDS = Bounds(6.0, 60.0)

    def test_the_first_requests_get_a_third(self) -> None:
        assert self.BOUNDS.limit(None, 0) == 20.0

    @pytest.mark.parametrize(("slowest", "limit"), [(0.1, 6.0), (3.0, 3.0 * FACTOR), (40.0, 60.0)])
    def test_they_follow_what_the_wire_has_shown(self, slowest: float, limit: float) -> None:
        assert self.BOUNDS.limit(slowest, 0) == limit

    def test_they_grow_with_each_try_up_to_the_longest(self) -> None:
        assert [self.BOUNDS.limit(0.1, silent) for silent in range(6)] == [6.0, 12.0, 24.0, 48.0, 60.0, 60.0]


class Mute(Stub):
    """Answers none of the next ``silent`` requests, but waits for the client to close their connections."""

    def __init__(self) -> None:
        super().__init__(as_others, None, "met")
        self.silent = 0
        self.closed = threading.Semaphore(0)
        self._connections: dict[int, socket.socket] = {}

    def finish_request(self, request: Any, client_address: Any) -> None:
        self._connections[threading.get_ident()] = request
        super().finish_request(request, client_address)

    def next_answer(self, request: Request) -> Answer:
        if not self.silent:
            return super().next_answer(request)
        self.silent -= 1
        connection = self._connections[threading.get_ident()]
        connection.settimeout(ENOUGH)
        if not connection.recv(1):
            self.closed.release()
        return Answer()


@pytest.fixture
def mute() -> Iterator[Mute]:
    with serving(Mute()) as found:
        yield found


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Callable[[Stub], S3Store]:
    """Return a function that opens a store whose client would wait for ten minutes."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")

    def open_at(stub: Stub) -> S3Store:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", stub.endpoint)
        return clients.connect("bucket", "", Config(read_timeout=LONG))

    monkeypatch.setattr(clients, "TimeLimits", lambda client: TimeLimits(client, shortest=0.3))
    return open_at


@pytest.mark.parametrize("size", [10, LARGE])
def test_a_silent_put_ends_with_its_connection_and_is_repeated(
    at: Callable[[Stub], S3Store], mute: Mute, size: int
) -> None:
    """Nothing reads its buffer any more, so the buffer can be used again."""
    store = at(mute)
    store.put("a", bytes(size))
    mute.silent = 1
    body = os.urandom(size)
    store.put("b", body)
    assert mute.closed.acquire(timeout=ENOUGH)
    assert store.get("b") == body


def test_a_silent_read_ends_with_its_connection_and_is_repeated(
    at: Callable[[Stub], S3Store], mute: Mute
) -> None:
    store = at(mute)
    store.put("a", b"content")
    mute.silent = 1
    assert store.get("a") == b"content"
    assert mute.closed.acquire(timeout=ENOUGH)


def test_a_repeated_request_has_twice_the_time(at: Callable[[Stub], S3Store], mute: Mute) -> None:
    limits: list[float] = []
    store = at(mute)
    store.put("a", b"")
    store._client.meta.events.register_last(
        "before-send.s3", lambda request, **_: limits.append(request.context["read_timeout"])
    )
    mute.silent = 1
    store.put("b", b"")
    assert limits[1] == 2 * limits[0]


@pytest.mark.parametrize(("why", "silent"), [(TimeoutError(), True), (ConnectionResetError(), False)])
def test_only_silence_lengthens_the_limit(
    at: Callable[[Stub], S3Store], mute: Mute, why: OSError, silent: bool
) -> None:
    """A time limit that ends while the body is sent is silence too; a reset is an answer of a kind."""
    limits: list[float] = []

    def fail(request: Any, **_: object) -> None:
        limits.append(request.context["read_timeout"])
        if len(limits) == 1:
            error = ProtocolError("Connection aborted.", why)
            raise ConnectionClosedError(error=error, request=request, endpoint_url="")

    store = at(mute)
    store.put("a", b"")
    store._client.meta.events.register_last("before-send.s3", fail)
    store.put("b", b"")
    assert (limits[1] > limits[0]) == silent


def test_a_pause_in_a_download_has_the_longest_limit(at: Callable[[Stub], S3Store], mute: Mute) -> None:
    body = bytes(8 * LARGE)  # more than the client has read with the head
    store = at(mute)
    store.put("a", body)
    answer = store._client.get_object(Bucket="bucket", Key="a")
    stream: Any = answer["Body"]  # the stubs lack its connection
    connection = stream._raw_stream._fp.fp.raw._sock
    assert connection.gettimeout() < LONG
    assert store._read("a", answer, None, None) == body
    assert connection.gettimeout() == LONG
