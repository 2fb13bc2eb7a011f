"""A store that counts sequential round trips, independent of the machine's load.

Every request waits at a gate. When nothing else in the process can continue, a conductor opens the gate for
all waiting requests, and one round trip has passed. So requests that are made together count once, and a
request that needs the answer of another counts after it. No clock is involved: the conductor asks the kernel
whether any thread could run.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from puller.store.base import Body, ObjectInfo, Store
from puller.store.wrapping.wrapped import WrappedStore

T = TypeVar("T")

_LOOKS = 4
"""Consecutive checks that must find all threads asleep, and not woken in between."""

_BETWEEN = 0.004
"""Seconds between two checks: the interpreter's lock changes hands at once when it is free."""


class RoundTrips(WrappedStore):
    """Wraps ``store``, which answers at once. ``processes`` are others on which this one may wait.

    ``rounds`` has the requests of each round trip.
    """

    def __init__(self, store: Store, processes: Callable[[], Iterable[int]] = tuple) -> None:
        super().__init__(store)
        self._conductor = _Conductor(processes)

    @property
    def rounds(self) -> list[list[str]]:
        """The requests of each round trip since ``counting`` was entered."""
        return self._conductor.rounds

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count while in the context; before and after, requests pass at once."""
        with self._conductor:
            yield

    def _trip(self, what: str, ask: Callable[[], T]) -> T:
        self._conductor.wait(what)
        return ask()

    def get(self, key: str, *, max_size: int | None = None) -> bytes:
        return self._trip(f"get {key}", lambda: self._store.get(key, max_size=max_size))

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        return self._trip(f"range {key}", lambda: self._store.get_range(key, offset, length))

    def get_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        return self._trip(f"ranges {key}", lambda: self._store.get_ranges(key, ranges))

    def get_tail(self, key: str, length: int) -> tuple[bytes, ObjectInfo]:
        return self._trip(f"tail {key}", lambda: self._store.get_tail(key, length))

    def put(self, key: str, body: Body) -> None:
        self._trip(f"put {key}", lambda: self._store.put(key, body))

    def put_new(self, key: str, body: Body) -> None:
        self._trip(f"put {key}", lambda: self._store.put_new(key, body))

    def stat(self, key: str) -> ObjectInfo:
        return self._trip(f"stat {key}", lambda: self._store.stat(key))

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Lists at the first name, as S3 does."""
        self._conductor.wait(f"list {prefix}")
        yield from self._store.list(prefix)

    def delete(self, keys: Iterable[str]) -> None:
        names = list(keys)
        if names:
            self._trip(f"delete {names[0]}", lambda: self._store.delete(names))


class _Conductor:
    def __init__(self, processes: Callable[[], Iterable[int]]) -> None:
        self._processes = processes
        self.rounds: list[list[str]] = []
        self._waiting: list[str] = []
        self._opened = 0
        self._counting = False
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> None:
        self.rounds = []
        self._counting = True
        self._thread = threading.Thread(target=self._conduct, name="conductor", daemon=True)
        self._thread.start()

    def __exit__(self, *failure: object) -> None:
        with self._changed:
            self._counting = False
            self._changed.notify_all()
        assert self._thread is not None
        self._thread.join()

    def wait(self, what: str) -> None:
        """Wait for the end of a round trip."""
        with self._changed:
            if not self._counting:
                return
            self._waiting.append(what)
            number = self._opened
            self._changed.notify_all()
            while self._opened == number and self._counting:
                self._changed.wait()

    def _conduct(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and self._counting:
                    self._changed.wait()
                if not self._counting:
                    return
            self._settle()
            with self._changed:
                self.rounds.append(self._waiting)
                self._waiting = []
                self._opened += 1
                self._changed.notify_all()

    def _settle(self) -> None:
        """Return once every thread waits for something."""
        quiet, before = 0, None
        while quiet < _LOOKS:
            time.sleep(_BETWEEN)
            found = _asleep(threading.get_native_id(), self._processes())
            quiet = quiet + 1 if found is not None and found == before else 0
            before = found


def _asleep(but: int, processes: Iterable[int]) -> tuple[object, ...] | None:
    """The threads with their number of voluntary switches if all of them sleep; None otherwise.

    A thread that sleeps on a disk may go on by itself, so it does not count as asleep.
    """
    found: list[object] = []
    for process in (os.getpid(), *processes):
        for task in Path(f"/proc/{process}/task").iterdir():
            if int(task.name) == but:
                continue
            with suppress(FileNotFoundError, ProcessLookupError):
                status = (task / "status").read_text()
                if _field(status, "State").split()[0] not in {"S", "I", "T", "t"}:
                    return None
                found.append((task.name, _field(status, "voluntary_ctxt_switches")))
    return tuple(found)


def _field(status: str, name: str) -> str:
    return status.split(f"\n{name}:", 1)[1].split("\n", 1)[0].strip()
