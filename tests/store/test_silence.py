"""A silent store is waited for as long as the retry policy says, and a thread that hangs never."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from puller import cancelling
from puller.cancelling import WORK, CancelScope, RetryPolicy
from puller.errors import StoreUnavailable
from puller.store.directory.folder import FolderStore
from puller.store.parallel import each
from puller.store.s3.client.client import connect
from puller.store.s3.s3 import S3Store
from puller.store.wrapping.retrying import RetryingStore
from tests.lab.memory import MemoryStore

ENOUGH = 30.0
"""Seconds that nothing here comes near unless it waits for a socket's time limit, a minute."""

KIND_OF_CALL: dict[str, Callable[[RetryingStore], object]] = {
    "get": lambda store: store.get("a"),
    "get_range": lambda store: store.get_range("a", 0, 1),
    "get_ranges": lambda store: store.get_ranges("a", [(0, 1)]),
    "get_tail": lambda store: store.get_tail("a", 1),
    "put": lambda store: store.put("a", bytes(1 << 20)),
    "put_new": lambda store: store.put_new("a", b"1"),
    "stat": lambda store: store.stat("a"),
    "list": lambda store: list(store.list("")),
    "delete": lambda store: store.delete(["a"]),
}


def scope(seconds: float) -> CancelScope:
    """For a store that may be silent for so long."""
    return CancelScope(RetryPolicy(seconds))


@contextmanager
def listening(serve: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server on loopback; ``serve`` gets each connection, in a thread of its own."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                threading.Thread(target=serve, args=(connection,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], RetryingStore]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")

    def store(endpoint: str) -> RetryingStore:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
        found = connect("backups", "")
        assert isinstance(found, S3Store)
        return RetryingStore(found)

    return store


def says_nothing(connection: socket.socket) -> None:
    """Take what is sent, for as long as the client waits."""
    while connection.recv(1 << 16):
        pass


@pytest.mark.parametrize("call", KIND_OF_CALL)
@pytest.mark.parametrize("before", ["before a run", "in a run"])
def test_a_silent_store_is_waited_for_as_long_as_the_policy_says(
    at: Callable[[str], RetryingStore], call: str, before: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cancelling, "PROMPT", RetryPolicy(0.2))
    monkeypatch.setattr(cancelling, "WORK", RetryPolicy(0.2))
    began = time.monotonic()
    with listening(says_nothing) as endpoint, pytest.raises(StoreUnavailable, match="did not answer for"):
        store = at(endpoint)
        KIND_OF_CALL[call](store if before == "before a run" else store.within(store.scope.working()))
    assert time.monotonic() - began < ENOUGH


def test_a_slow_download_is_no_silent_store(at: Callable[[str], RetryingStore]) -> None:
    """1 MiB in eight parts, with more than half of the allowed silence between one and the next."""
    part = 128 << 10

    def trickle(connection: socket.socket) -> None:
        connection.recv(1 << 16)
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {8 * part}\r\nETag: e\r\n"
        connection.sendall(f"{head}Last-Modified: Mon, 23 Nov 2026 05:00:00 GMT\r\n\r\n".encode())
        for _ in range(8):
            threading.Event().wait(0.6)
            connection.sendall(bytes(part))

    with listening(trickle) as endpoint:
        assert at(endpoint).within(scope(1.0)).get("a") == bytes(8 * part)


def test_a_slow_upload_is_no_silent_store(at: Callable[[str], RetryingStore]) -> None:
    size = 24 << 20

    def drink(connection: socket.socket) -> None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        head = b""
        while b"\r\n\r\n" not in head:
            head += connection.recv(1 << 16)
        connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        left = size - len(head.partition(b"\r\n\r\n")[2])
        while left > 0:
            for _ in range(48):
                left -= len(connection.recv(min(1 << 16, left))) if left else 0
            threading.Event().wait(0.3)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nETag: e\r\n\r\n")

    began = time.monotonic()
    with listening(drink) as endpoint:
        at(endpoint).within(scope(1.5)).put("a", bytes(size))
    assert time.monotonic() - began > 1.5


class Hanging(MemoryStore):
    """Answers nothing, for ever, but for the keys that are ``answered``."""

    def __init__(self, answered: str = "") -> None:
        super().__init__()
        self._answered = answered
        self.asked = threading.Semaphore(0)

    def get(self, key: str, *, max_size: int | None = None) -> bytes:
        if key not in self._answered:
            self.asked.release()
            threading.Event().wait()
        return key.encode()


class Asleep(FolderStore):
    """A folder whose disk has to turn again."""

    def get(self, key: str, *, max_size: int | None = None) -> bytes:
        threading.Event().wait(0.3)
        return super().get(key, max_size=max_size)


def test_a_folder_on_a_disk_that_sleeps_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = RetryingStore(Asleep(tmp_path))
    store.put("a", b"1")
    hurried = store.within(scope(0.1))
    assert hurried.get("a") == b"1"
    monkeypatch.setattr("puller.store.wrapping.retrying.WAKING", 0.2)
    with pytest.raises(StoreUnavailable, match="did not answer for"):
        hurried.get("a")


class Stopped(BaseException):
    """What a signal raises."""


class TestEach:
    def test_results_come_in_the_order_of_the_items(self) -> None:
        found = each(CancelScope(), lambda _, item: item * 2, range(1000), 7)
        assert list(found) == [2 * item for item in range(1000)]

    def test_nothing_to_do(self) -> None:
        assert list(each(CancelScope(), lambda _, item: str(item), [], 4)) == []

    def test_no_more_is_begun_than_a_few_ahead(self) -> None:
        begun: list[int] = []
        found = each(CancelScope(), lambda _, item: begun.append(item), range(1000), 2)
        next(found)
        assert len(begun) <= 4
        found.close()

    def test_what_fails_is_raised_in_its_turn(self) -> None:
        found = each(CancelScope(), lambda _, item: 1 // item, [2, 1, 0, 1], 2)
        assert [next(found), next(found)] == [0, 1]
        with pytest.raises(ZeroDivisionError):
            next(found)

    def test_the_policy_of_the_scope_holds_in_the_threads(self) -> None:
        store = RetryingStore(Hanging())
        with pytest.raises(StoreUnavailable, match="did not answer for"):
            list(each(scope(0.1), lambda own, key: store.within(own).get(key), "abc", 2))

    def test_who_leaves_waits_for_no_thread(self) -> None:
        hanging = Hanging("a")
        store = RetryingStore(hanging)
        with pytest.raises(Stopped):
            for _ in each(CancelScope(WORK), lambda own, key: store.within(own).get(key), "abc", 2):
                assert hanging.asked.acquire(timeout=60)
                raise Stopped

    @pytest.mark.parametrize("threads", [1, 2, 4])
    def test_what_is_not_begun_as_another_thread_cancels_fails(self, threads: int) -> None:
        working = CancelScope(WORK)
        begun, ended = threading.Event(), threading.Event()
        met: list[StoreUnavailable] = []

        def work(own: CancelScope, _: int) -> None:
            begun.set()
            assert ended.wait(60)  # and needs no store from here on, so it succeeds

        def consume() -> None:
            try:
                list(each(working, work, range(100), threads))
            except StoreUnavailable as error:
                met.append(error)

        consumer = threading.Thread(target=consume, daemon=True)
        consumer.start()
        assert begun.wait(60)
        working.cancel()
        ended.set()
        consumer.join(ENOUGH)
        assert len(met) == 1

    def test_what_still_waits_is_let_go(self) -> None:
        hanging = Hanging("a")
        store = RetryingStore(hanging)
        ended = threading.Semaphore(0)

        def work(own: CancelScope, key: str) -> bytes:
            try:
                return store.within(own).get(key)
            finally:
                ended.release()

        found = each(CancelScope(WORK), work, "abc", 2)
        next(found)
        assert hanging.asked.acquire(timeout=60)
        found.close()
        assert ended.acquire(timeout=60)
        assert ended.acquire(timeout=60)
