"""A store that uploads no faster than it is told to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from puller.store.base import Body, ObjectInfo, Store


class PacedStore:
    """``store``, but ``take`` is called with the size of each body before it is put, and may wait.

    So the rate holds from object to object; one object, a pack of 32 MiB say, goes as fast as it can.
    """

    def __init__(self, store: Store, take: Callable[[int], None]) -> None:
        self._store = store
        self._take = take

    @property
    def url(self) -> str:
        """See ``Store.url``."""
        return self._store.url

    def get(self, key: str, *, max_size: int | None = None) -> bytes:
        """See ``Store.get``."""
        return self._store.get(key, max_size=max_size)

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        """See ``Store.get_range``."""
        return self._store.get_range(key, offset, length)

    def get_tail(self, key: str, length: int) -> tuple[bytes, ObjectInfo]:
        """See ``Store.get_tail``."""
        return self._store.get_tail(key, length)

    def put(self, key: str, body: Body) -> None:
        """See ``Store.put``."""
        self._take(len(body))
        self._store.put(key, body)

    def put_new(self, key: str, body: Body) -> None:
        """See ``Store.put_new``."""
        self._take(len(body))
        self._store.put_new(key, body)

    def stat(self, key: str) -> ObjectInfo:
        """See ``Store.stat``."""
        return self._store.stat(key)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """See ``Store.list``."""
        return self._store.list(prefix)

    def delete(self, keys: Iterable[str]) -> None:
        """See ``Store.delete``."""
        self._store.delete(keys)
