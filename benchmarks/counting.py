"""A store that counts what is asked of it."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Iterator

from puller.store.base import Body, ObjectInfo, Store


class CountingStore:
    """Passes everything on to ``inner``; counts requests, and bytes stored by the first part of the key."""

    def __init__(self, inner: Store) -> None:
        self._inner = inner
        self._lock = threading.Lock()
        self.reset()

    def reset(self) -> None:
        """Count from zero again."""
        self.requests = 0
        self._bytes: Counter[str] = Counter()

    def stored(self, prefix: str) -> int:
        """Bytes that were put below ``prefix``, which is one part of a key and a slash."""
        return self._bytes[prefix]

    def _count(self, key: str = "", stored: int = 0) -> None:
        with self._lock:
            self.requests += 1
            self._bytes[key.partition("/")[0] + "/"] += stored

    @property
    def url(self) -> str:
        return self._inner.url

    def get(self, key: str, *, max_size: int | None = None) -> bytes:
        self._count()
        return self._inner.get(key, max_size=max_size)

    def get_range(self, key: str, offset: int, length: int, *, etag: str | None = None) -> bytes:
        self._count()
        return self._inner.get_range(key, offset, length, etag=etag)

    def get_tail(self, key: str, length: int) -> tuple[bytes, ObjectInfo]:
        self._count()
        return self._inner.get_tail(key, length)

    def put(self, key: str, body: Body) -> None:
        self._count(key, len(body))
        self._inner.put(key, body)

    def put_new(self, key: str, body: Body) -> None:
        self._count(key, len(body))
        self._inner.put_new(key, body)

    def stat(self, key: str) -> ObjectInfo:
        self._count()
        return self._inner.stat(key)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        self._count()
        return self._inner.list(prefix)

    def delete(self, keys: Iterable[str]) -> None:
        self._count()
        self._inner.delete(keys)
