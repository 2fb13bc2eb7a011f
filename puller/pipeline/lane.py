"""Bounded queues between threads."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Closed(Exception):
    """The lane or pool was closed because the run failed elsewhere. Threads then end silently."""


class Lane(Generic[T]):
    """A first-in-first-out queue of at most ``capacity`` items.

    It ends in one of two ways: ``finish`` lets the consumers drain it, ``close`` stops all at once.

    Waiting producers are woken only when the lane is half empty, because each wake-up costs the waking thread
    the interpreter's lock.
    """

    def __init__(self, capacity: int) -> None:
        self._items: deque[T] = deque()
        self._capacity = capacity
        self._finished = False
        self._closed = False
        lock = threading.Lock()
        self._half_empty = threading.Condition(lock)
        self._filled = threading.Condition(lock)

    def put(self, item: T) -> None:
        """Append ``item``, waiting while the lane is full. Raises Closed."""
        with self._half_empty:
            while len(self._items) >= self._capacity and not self._closed:
                self._half_empty.wait()
            if self._closed:
                raise Closed
            self._items.append(item)
            self._filled.notify()

    def __iter__(self) -> Iterator[T]:
        """Take items until the lane is finished and empty. Raises Closed."""
        while True:
            with self._filled:
                while not (self._items or self._finished or self._closed):
                    self._filled.wait()
                if self._closed:
                    raise Closed
                if not self._items:
                    return
                item = self._items.popleft()
                if len(self._items) <= self._capacity // 2:
                    self._half_empty.notify_all()
            yield item

    def finish(self) -> None:
        """Declare that no more items will be put."""
        with self._filled:
            self._finished = True
            self._filled.notify_all()

    def close(self) -> None:
        """Drop all items; every current and later ``put`` and iteration raises Closed."""
        with self._filled:
            self._closed = True
            self._items.clear()
            self._filled.notify_all()
            self._half_empty.notify_all()
