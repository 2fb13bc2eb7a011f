"""Bounded queues between threads."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Closed(Exception):
    """The lane or pool was closed because the run failed elsewhere. Threads leave quietly on it."""


class Lane(Generic[T]):
    """A first-in-first-out queue of at most ``capacity`` items.

    It ends in one of two ways: ``finish`` lets the takers drain it, ``close`` stops all at once.
    """

    def __init__(self, capacity: int) -> None:
        self._items: deque[T] = deque()
        self._capacity = capacity
        self._finished = False
        self._closed = False
        self._changed = threading.Condition()

    def put(self, item: T) -> None:
        """Append ``item``, waiting while the lane is full. Raises Closed."""
        with self._changed:
            while len(self._items) >= self._capacity and not self._closed:
                self._changed.wait()
            if self._closed:
                raise Closed
            self._items.append(item)
            self._changed.notify_all()

    def __iter__(self) -> Iterator[T]:
        """Take items until the lane is finished and empty. Raises Closed."""
        while True:
            with self._changed:
                while not (self._items or self._finished or self._closed):
                    self._changed.wait()
                if self._closed:
                    raise Closed
                if not self._items:
                    return
                item = self._items.popleft()
                self._changed.notify_all()
            yield item

    def finish(self) -> None:
        """Say that nothing more will be put."""
        with self._changed:
            self._finished = True
            self._changed.notify_all()

    def close(self) -> None:
        """Drop all items; every present and later call of ``put`` and iteration raises Closed."""
        with self._changed:
            self._closed = True
            self._items.clear()
            self._changed.notify_all()
