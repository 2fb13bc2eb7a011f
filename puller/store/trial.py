"""Find out what these credentials may do in a store, by doing it with one object that is deleted again."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from types import MappingProxyType

from puller.errors import ObjectExists, ObjectNotFound, StoreDenied, StoreError
from puller.store.base import Store

OPERATIONS = ("list", "delete", "put", "get")

_BODY = b"This object tests what may be done here; it may be deleted.\n"
_SECOND = b"The store does not honour a put that asks for absence.\n"
_LOOKS = 3


@dataclass(frozen=True, slots=True)
class Trial:
    """What came of each of ``OPERATIONS`` that was tried: None, or the error.

    ``conditional``: whether a put that asks for absence was refused where the key was taken; None if
    that was not tried. ``ahead`` is how far the store's clock is ahead of this host's, in seconds.
    """

    outcomes: Mapping[str, StoreError | None]
    conditional: bool | None
    ahead: float | None


class _Attempt:
    """The trial while it goes on."""

    def __init__(self, store: Store, key: str, now: Callable[[], float]) -> None:
        self._store = store
        self._key = key
        self._now = now
        self.outcomes: dict[str, StoreError | None] = {}
        self.conditional: bool | None = None
        self.ahead: float | None = None

    def run(self) -> None:
        self._try("list", lambda: next(iter(self._store.list(self._key.rpartition("/")[0] + "/")), None))
        # An absent key first: where deletion is denied, a put would leave its object for ever.
        if self._try("delete", self._delete):
            try:
                self._run_on_object()
            finally:
                self._try("delete", self._delete)

    def _run_on_object(self) -> None:
        if self._try("put", self._put):
            self.conditional = self._refuses_second()
            self._try("get", self._get)

    def _try(self, operation: str, act: Callable[[], object]) -> bool:
        try:
            act()
        except StoreError as error:
            self.outcomes[operation] = error
            return False
        self.outcomes[operation] = None
        return True

    def _delete(self) -> None:
        self._store.delete([self._key])

    def _put(self) -> None:
        try:
            self._store.put_new(self._key, _BODY)
        except ObjectExists:
            return  # nobody else knows the key: it was this very request, repeated after a lost answer
        except StoreError:
            self._store.put(self._key, _BODY)  # the condition alone may be what is refused

    def _get(self) -> None:
        before = self._now()
        self._store.put(self._key, _BODY)
        after = self._now()
        modified = self._store.stat(self._key).modified
        self._store.get(self._key, max_size=len(_BODY))
        # S3 tells whole seconds, rounded down.
        self.ahead = min(0.0, modified + 1 - before) + max(0.0, modified - after)

    def _refuses_second(self) -> bool:
        try:
            self._store.put_new(self._key, _SECOND)
        except ObjectExists:
            return True
        except StoreError:
            return False
        return False


def try_store(store: Store, key_prefix: str, now: Callable[[], float] = time.time) -> Trial:
    """Try all operations on ``key_prefix`` and 32 random hexadecimal digits; nothing of it stays.

    A bucket with versioning keeps the object as a hidden version, as it does of all that is deleted.
    Where the credentials may not delete, nothing is put, and ``put`` and ``get`` are not in the answer.
    """
    attempt = _Attempt(store, key_prefix + secrets.token_hex(16), now)
    attempt.run()
    return Trial(MappingProxyType(attempt.outcomes), attempt.conditional, attempt.ahead)


def latency(store: Store, key: str) -> float:
    """Seconds of the shortest of some looks at ``key``; absence and denial are answers. Raises StoreError."""
    return min(_look(store, key) for _ in range(_LOOKS))


def _look(store: Store, key: str) -> float:
    began = time.monotonic()
    with suppress(ObjectNotFound, StoreDenied):
        store.stat(key)
    return time.monotonic() - began
