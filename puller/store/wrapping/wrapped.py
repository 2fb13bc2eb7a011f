"""Base of store wrappers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import copy  # noqa: TID251 - of what has its __dict__
from typing import Self, TypeVar

from puller.cancelling import CancelScope, Scoped
from puller.store.base import Body, ObjectInfo, Store
from puller.store.objectlock import AskedLocks, Locks, ObjectLock

T = TypeVar("T")


class WrappedStore(Scoped):
    """Delegates everything to ``store``; wrappers override single methods, or ``_ask`` for all of them."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.scope = store.scope

    def within(self, scope: CancelScope) -> Self:
        """See ``Store.within``."""
        bound = copy(self)
        bound.scope, bound._store = scope, self._store.within(scope)
        return bound

    def locking(self, lock: ObjectLock) -> Self:
        """See ``Store.locking``."""
        bound = copy(self)
        bound._store = self._store.locking(lock)
        return bound

    @property
    def locks(self) -> Locks:
        """See ``Store.locks``."""
        return AskedLocks(self._store.locks.possible, self._ask)

    def _ask(self, ask: Callable[[Store], T]) -> T:
        return ask(self._store)

    @property
    def url(self) -> str:
        """See ``Store.url``."""
        return self._store.url

    def get(self, key: str, *, max_size: int | None = None) -> bytes:
        """See ``Store.get``."""
        return self._ask(lambda store: store.get(key, max_size=max_size))

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        """See ``Store.get_range``."""
        return self._ask(lambda store: store.get_range(key, offset, length))

    def get_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """See ``Store.get_ranges``."""
        return self._ask(lambda store: store.get_ranges(key, ranges))

    def get_tail(self, key: str, length: int) -> tuple[bytes, ObjectInfo]:
        """See ``Store.get_tail``."""
        return self._ask(lambda store: store.get_tail(key, length))

    def put(self, key: str, body: Body) -> None:
        """See ``Store.put``."""
        self._ask(lambda store: store.put(key, body))

    def put_new(self, key: str, body: Body) -> None:
        """See ``Store.put_new``."""
        self._ask(lambda store: store.put_new(key, body))

    def stat(self, key: str) -> ObjectInfo:
        """See ``Store.stat``."""
        return self._ask(lambda store: store.stat(key))

    def exists(self, key: str) -> bool:
        """See ``Store.exists``."""
        return self._ask(lambda store: store.exists(key))

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """See ``Store.list``."""
        return self._ask(lambda store: store.list(prefix))

    def delete(self, keys: Iterable[str]) -> None:
        """See ``Store.delete``."""
        self._ask(lambda store: store.delete(keys))

    def sweep(self, prefixes: Iterable[str], before: float) -> None:
        """See ``Store.sweep``."""
        self._ask(lambda store: store.sweep(prefixes, before))
