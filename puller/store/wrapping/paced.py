"""A store with a limited upload rate."""

from __future__ import annotations

from collections.abc import Callable

from puller.store.base import Body, Store
from puller.store.wrapping.wrapped import WrappedStore


class PacedStore(WrappedStore):
    """A wrapper of ``store`` that calls ``take``, which may wait, with the size of each body before its put.

    So the rate is limited between objects; one object, such as a pack, is uploaded at full speed.
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
