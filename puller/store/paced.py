"""A store that uploads no faster than it is told to."""

from __future__ import annotations

from collections.abc import Callable

from puller.store.base import Body, Store
from puller.store.wrapped import WrappedStore


class PacedStore(WrappedStore):
    """``store``, but ``take`` is called with the size of each body before it is put, and may wait.

    So the rate holds from object to object; one object, a pack of 32 MiB say, goes as fast as it can.
    """

    def __init__(self, store: Store, take: Callable[[int], None]) -> None:
        super().__init__(store)
        self._take = take

    def put(self, key: str, body: Body) -> None:
        """See ``Store.put``."""
        self._take(len(body))
        super().put(key, body)

    def put_new(self, key: str, body: Body) -> None:
        """See ``Store.put_new``."""
        self._take(len(body))
        super().put_new(key, body)
