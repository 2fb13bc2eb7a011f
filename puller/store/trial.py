"""Find out what these credentials may do in a store, with one test object that is deleted again."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import MappingProxyType

from puller.cancelling import cleanup
from puller.errors import ObjectExists, ObjectNotFound, StoreDenied, StoreError, StoreUnavailable
from puller.store.base import Store

OPERATIONS = ("list", "delete", "put", "get")

_BODY = b"This object tests what may be done here; it may be deleted.\n"
_SECOND = b"The store does not honour a put that asks for absence.\n"
_LOOKUPS = 3

LEFT = "doctor-"
"""Prefix of the name of the object that stays if the credentials may not delete."""


@dataclass(frozen=True, slots=True)
class Trial:
    """Result of each of ``OPERATIONS`` that was tried: None, or the error.

    ``conditional``: whether a conditional put of an existing key was refused; None if that was not tried.
    ``ahead`` is how far the store's clock is ahead of this host's, in seconds.
    """

    outcomes: Mapping[str, StoreError | None]
    conditional: bool | None
    ahead: float | None

    @property
    def broke_off(self) -> bool:
        """Whether the store stopped answering."""
        return any(isinstance(error, StoreUnavailable) for error in self.outcomes.values())


class _Attempt:
    """The running trial."""

    def __init__(self, store: Store, folders: Sequence[str], now: Callable[[], float]) -> None:
        self._store = store
        self._folders = folders
        self._key = folders[0] + secrets.token_hex(16)
        self._now = now
        self._before: float | None = None
        self._after = 0.0
        self.outcomes: dict[str, StoreError | None] = {}
        self.conditional: bool | None = None
        self.ahead: float | None = None

    def run(self) -> None:
        self._try("list", lambda: next(iter(self._store.list(self._key.rpartition("/")[0] + "/")), None))
        # An absent key first: if deletion is denied, a put would leave its object forever.
        if self._try("delete", self._delete):
            self._run_and_delete()
        elif self.outcomes["list"] is None:
            self._run_elsewhere()

    def _run_and_delete(self) -> None:
        try:
            self._run_on_object()
        except StoreUnavailable:
            with suppress(StoreError):  # the put may have been carried out
                self._store.within(cleanup()).delete([self._key])
            raise
        self._try("delete", self._delete)

    def _run_elsewhere(self) -> None:
        """Try in the last directory, where a role that only backs up may delete; else an object stays."""
        self._key = self._folders[-1] + secrets.token_hex(16)
        try:
            self._delete()
        except StoreDenied:
            self._key = f"{self._folders[-1]}{LEFT}{time.strftime('%Y%m%d', time.gmtime(self._now()))}"
            self._run_on_object()
        else:
            self._run_on_object()
            self._delete()

    def _run_on_object(self) -> None:
        if self._try("put", self._put):
            self.conditional = self._refuses_second()
            self._try("get", self._get)

    def _try(self, operation: str, act: Callable[[], object]) -> bool:
        try:
            act()
        except StoreUnavailable as error:
            self.outcomes[operation] = error
            raise
        except StoreError as error:
            self.outcomes[operation] = error
            return False
        self.outcomes[operation] = None
        return True

    def _delete(self) -> None:
        self._store.delete([self._key])

    def _put(self) -> None:
        before = self._now()
        try:
            self._store.put_new(self._key, _BODY)
        except ObjectExists:
            # The object is of today's doctor, or of this request, repeated after a lost answer. Without
            # permission to put, the store reports that instead.
            return
        except StoreUnavailable:
            raise
        except StoreError:
            self._store.put(self._key, _BODY)  # perhaps only the condition is refused
        self._before, self._after = before, self._now()

    def _get(self) -> None:
        modified = self._store.stat(self._key).modified
        self._store.get(self._key, max_size=len(_BODY))
        if self._before is None:
            return
        # S3 returns whole seconds, rounded down.
        self.ahead = min(0.0, modified + 1 - self._before) + max(0.0, modified - self._after)

    def _refuses_second(self) -> bool | None:
        try:
            self._store.put_new(self._key, _SECOND)
        except ObjectExists:
            return True
        except StoreUnavailable:
            return None
        except StoreError:
            return False
        return False


def try_store(store: Store, folders: Sequence[str], now: Callable[[], float] = time.time) -> Trial:
    """Try all operations on an object of a random name in the first of the ``folders``, and delete it.

    A bucket with versioning keeps the object as a hidden version, like all deleted objects. If the
    credentials may not delete there, the last of the ``folders`` is used; if they may not delete there
    either, one object a day stays in it, whose name begins with ``LEFT``. Operations that were not tried are
    missing in the result: after a refused put, without permission to list, and once the store does not
    answer.
    """
    attempt = _Attempt(store, folders, now)
    with suppress(StoreUnavailable):
        attempt.run()
    return Trial(MappingProxyType(attempt.outcomes), attempt.conditional, attempt.ahead)


def latency(store: Store, key: str) -> float:
    """Return the seconds of the fastest lookup of ``key``; absence and denial count. Raises StoreError."""
    return min(_time_lookup(store, key) for _ in range(_LOOKUPS))


def _time_lookup(store: Store, key: str) -> float:
    began = time.monotonic()
    with suppress(ObjectNotFound, StoreDenied):
        store.stat(key)
    return time.monotonic() - began
