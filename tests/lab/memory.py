"""A store in the process's memory: for tests and simulations, gone when the process ends."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Self

from puller.cancelling import CancelScope, Scoped
from puller.errors import ObjectExists, ObjectNotFound
from puller.store.base import (
    Body,
    ObjectInfo,
    check_size,
    validate_key,
    validate_prefix,
    validate_range,
)
from puller.store.objectlock import Unlockable


@dataclass(frozen=True, slots=True)
class _Stored:
    content: bytes
    modified: float
    etag: str


class MemoryStore(Scoped, Unlockable):
    """Objects in a dictionary. Etags count the puts, so an object put twice changes its etag."""

    def __init__(self, name: str = "memory") -> None:
        self._name = name
        self._objects: dict[str, _Stored] = {}
        self._puts = itertools.count(1)
        self._lock = threading.Lock()

    def within(self, scope: CancelScope) -> Self:
        """See ``Store.within``: it never waits."""
        return self

    @property
    def url(self) -> str:
        """``memory:`` and the name given."""
        return f"memory:{self._name}"

    def get(self, key: str, *, max_size: int | None = None) -> bytes:
        """See ``Store.get``."""
        content = self._find(key).content
        check_size(key, len(content), max_size)
        return content

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        """See ``Store.get_range``."""
        validate_range(offset, length)
        return self._find(key).content[offset : offset + length]

    def get_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """See ``Store.get_ranges``."""
        return [self.get_range(key, offset, length) for offset, length in ranges]

    def get_tail(self, key: str, length: int) -> tuple[bytes, ObjectInfo]:
        """See ``Store.get_tail``."""
        validate_range(0, length)
        stored = self._find(key)
        return stored.content[-length:], _info(key, stored)

    def put(self, key: str, body: Body) -> None:
        """See ``Store.put``."""
        stored = self._stored(body)
        with self._lock:
            self._objects[validate_key(key)] = stored

    def put_new(self, key: str, body: Body) -> None:
        """See ``Store.put_new``."""
        stored = self._stored(body)
        with self._lock:
            if self._objects.setdefault(validate_key(key), stored) is not stored:
                raise ObjectExists(f"{key} is in {self.url} already")

    def stat(self, key: str) -> ObjectInfo:
        """See ``Store.stat``."""
        return _info(key, self._find(key))

    def exists(self, key: str) -> bool:
        """See ``Store.exists``."""
        return validate_key(key) in self._objects

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """See ``Store.list``."""
        validate_prefix(prefix)
        with self._lock:
            found = sorted((key, stored) for key, stored in self._objects.items() if key.startswith(prefix))
        return (_info(key, stored) for key, stored in found)

    def delete(self, keys: Iterable[str]) -> None:
        """See ``Store.delete``."""
        for key in keys:
            with self._lock:
                self._objects.pop(validate_key(key), None)

    def sweep(self, prefixes: Iterable[str], before: float) -> None:
        """See ``Store.sweep``: a put leaves nothing."""

    def _find(self, key: str) -> _Stored:
        stored = self._objects.get(validate_key(key))
        if stored is None:
            raise ObjectNotFound(f"{key} is not in {self.url}")
        return stored

    def _stored(self, body: Body) -> _Stored:
        return _Stored(bytes(body), time.time(), f'"{next(self._puts)}"')


def _info(key: str, stored: _Stored) -> ObjectInfo:
    return ObjectInfo(key, len(stored.content), stored.modified, stored.etag)
