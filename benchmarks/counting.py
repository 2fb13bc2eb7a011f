"""A store that counts what is asked of it."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Self

from puller.cancelling import CancelScope
from puller.store.base import Body, ObjectInfo, Store
from puller.store.wrapping.wrapped import WrappedStore


class CountingStore(WrappedStore):
    """Passes everything on to ``inner``; counts requests and bytes stored by the first part of the key."""

    def __init__(self, inner: Store) -> None:
        super().__init__(inner)
        self._lock = threading.Lock()
        self.reset()

    def within(self, scope: CancelScope) -> Self:
        """The same counters for all scopes."""
        return self

    def reset(self) -> None:
        """Count from zero again."""
        self._reads: Counter[str] = Counter()
        self._others: Counter[str] = Counter()
        self._bytes: Counter[str] = Counter()

    @property
    def requests(self) -> int:
        """All of them."""
        return self._reads.total() + self._others.total()

    def more(self, count: int) -> None:
        """Count ``count`` requests that nobody has made here."""
        with self._lock:
            self._others[""] += count

    def reads(self, prefix: str) -> int:
        """Requests for contents below ``prefix``, which is one part of a key and a slash."""
        return self._reads[prefix]

    def stored(self, prefix: str) -> int:
        """Bytes that were put below ``prefix``, which is one part of a key and a slash."""
        return self._bytes[prefix]

    def _read(self, key: str) -> None:
        with self._lock:
            self._reads[_folder(key)] += 1

    def _other(self, key: str = "", stored: int = 0) -> None:
        with self._lock:
            self._others[_folder(key)] += 1
            self._bytes[_folder(key)] += stored

    def get(self, key: str, *, max_size: int | None = None) -> bytes:
        self._read(key)
        return super().get(key, max_size=max_size)

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        self._read(key)
        return super().get_range(key, offset, length)

    def get_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        for _ in ranges:
            self._read(key)
        return super().get_ranges(key, ranges)

    def get_tail(self, key: str, length: int) -> tuple[bytes, ObjectInfo]:
        self._read(key)
        return super().get_tail(key, length)

    def put(self, key: str, body: Body) -> None:
        self._other(key, len(body))
        super().put(key, body)

    def put_new(self, key: str, body: Body) -> None:
        self._other(key, len(body))
        super().put_new(key, body)

    def stat(self, key: str) -> ObjectInfo:
        self._other(key)
        return super().stat(key)

    def exists(self, key: str) -> bool:
        self._other(key)
        return super().exists(key)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        self._other(prefix)
        return super().list(prefix)

    def delete(self, keys: Iterable[str]) -> None:
        self._other()
        super().delete(keys)


def _folder(key: str) -> str:
    return key.partition("/")[0] + "/"
