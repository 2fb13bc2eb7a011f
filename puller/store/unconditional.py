"""A store whose server does not honour a put that asks for absence: it is looked at first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from puller.errors import ObjectExists, ObjectNotFound
from puller.store.base import Body, ObjectInfo, Store


class UnconditionalStore:
    """``store``, of which ``put_new`` asks for nothing that its server may refuse or pass over.

    Backblaze B2, for one, answers ``If-None-Match`` with 501. Of two that put one key at the same moment both
    may succeed, which ``Store`` forbids: see ``puller.store.probe.UNCONDITIONAL``.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

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
        self._store.put(key, body)

    def put_new(self, key: str, body: Body) -> None:
        """See ``Store.put_new``, but for what several do at once."""
        try:
            self._store.stat(key)
        except ObjectNotFound:
            self._store.put(key, body)
        else:
            raise ObjectExists(f"{key} is there already in {self.url}")

    def stat(self, key: str) -> ObjectInfo:
        """See ``Store.stat``."""
        return self._store.stat(key)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """See ``Store.list``."""
        return self._store.list(prefix)

    def delete(self, keys: Iterable[str]) -> None:
        """See ``Store.delete``."""
        self._store.delete(keys)
