"""The place of an exercise: a folder of its own in the store, which is empty again afterwards."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TypeVar

from puller.cancelling import CancelScope, RetryPolicy
from puller.errors import StoreError, StoreUnavailable
from puller.repository.collecting.lease import PREFIX
from puller.store.base import Body, ObjectInfo, Store
from puller.store.directory.folder import FolderStore
from puller.store.wrapping.retrying import RetryingStore
from puller.store.wrapping.wrapped import WrappedStore

FOLDER = f"{PREFIX}exercise-"
"""Prefix of the folder: whoever may prune may delete there, and no lease looks there."""

_OLD = 60 * 60.0
"""Age in seconds at which the next exercise deletes leftovers: no exercise lasts that long."""

_POLICY = RetryPolicy(20.0)
_CLEARING = RetryPolicy(30.0)
_UNFINISHED = 20.0
"""Seconds to wait for requests that are still under way when the exercise ends."""

T = TypeVar("T")


class _Ledger:
    """The keys of all puts, and the number of requests that are under way. Safe for many threads."""

    def __init__(self) -> None:
        self.keys: set[str] = set()
        self.requests = self.written = self.read = 0
        self._active = 0
        self._closed = False
        self._changed = threading.Condition()

    @contextmanager
    def request(self, key: str | None = None) -> Iterator[None]:
        """Enter a request; a put with its ``key``. Raises StoreUnavailable once the ledger is closed."""
        with self._changed:
            if self._closed and key is not None:
                raise StoreUnavailable("the exercise of the store has ended")
            if key is not None:
                self.keys.add(key)
            self.requests += 1
            self._active += 1
        try:
            yield
        finally:
            with self._changed:
                self._active -= 1
                self._changed.notify_all()

    def note(self, written: int = 0, read: int = 0) -> None:
        """Count the bytes of an object."""
        with self._changed:
            self.written += written
            self.read += read

    def close(self, seconds: float) -> bool:
        """Refuse further puts, and return whether all requests under way have ended within ``seconds``."""
        with self._changed:
            self._closed = True
            return self._changed.wait_for(lambda: not self._active, seconds)


class _CountedStore(WrappedStore):
    """Records all requests in a ledger, in the threads that make them, because a retry may abandon a
    thread."""

    def __init__(self, store: Store, ledger: _Ledger) -> None:
        super().__init__(store)
        self.ledger = ledger

    def put(self, key: str, body: Body) -> None:
        """See ``Store.put``."""
        with self.ledger.request(key):
            self._store.put(key, body)
        self.ledger.note(written=len(body))

    def put_new(self, key: str, body: Body) -> None:
        """See ``Store.put_new``."""
        with self.ledger.request(key):
            self._store.put_new(key, body)
        self.ledger.note(written=len(body))

    def get(self, key: str, *, max_size: int | None = None) -> bytes:
        """See ``Store.get``."""
        content = super().get(key, max_size=max_size)
        self.ledger.note(read=len(content))
        return content

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        """See ``Store.get_range``."""
        content = super().get_range(key, offset, length)
        self.ledger.note(read=len(content))
        return content

    def get_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """See ``Store.get_ranges``."""
        contents = super().get_ranges(key, ranges)
        self.ledger.note(read=sum(map(len, contents)))
        return contents

    def get_tail(self, key: str, length: int) -> tuple[bytes, ObjectInfo]:
        """See ``Store.get_tail``."""
        content, info = super().get_tail(key, length)
        self.ledger.note(read=len(content))
        return content, info

    def _ask(self, ask: Callable[[Store], T]) -> T:
        with self.ledger.request():
            return super()._ask(ask)


class Ground:
    """The folder ``folder`` of ``store``; use it as a context, which deletes all objects at its end.

    ``store`` gives up when the ``seconds`` are over. ``left`` says after the end what could not be deleted,
    if anything.
    """

    def __init__(self, store: Store, seconds: float) -> None:
        self.folder = f"{FOLDER}{secrets.token_hex(8)}/"
        self.scope = CancelScope(_POLICY)
        self.left: str | None = None
        self._seconds = seconds
        self._began = time.monotonic()
        self._ledger = _Ledger()
        self._raw = store
        self._counted = _CountedStore(store, self._ledger)
        self.store: Store = RetryingStore(self._counted, self.scope)
        self._timer = threading.Timer(seconds, self.scope.cancel)
        self._timer.daemon = True

    def __enter__(self) -> Ground:
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        self.scope.cancel()
        self._clear()

    @property
    def is_over(self) -> bool:
        """Whether the time is over."""
        return self.scope.cancelled

    @property
    def was_used(self) -> bool:
        """Whether anything was put."""
        return bool(self._ledger.keys)

    @property
    def lasted(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self._began

    @property
    def requests(self) -> int:
        """Requests so far, those that were repeated too."""
        return self._ledger.requests

    @property
    def transferred(self) -> tuple[int, int]:
        """Bytes written and read."""
        return self._ledger.written, self._ledger.read

    def sweep(self) -> None:
        """Delete the leftovers of an exercise that was killed. Raises StoreError."""
        # The first deletion is of nothing: if these credentials may not delete, nothing must be put.
        self.store.delete([f"{self.folder}none"])
        self.store.put(f"{self.folder}now", b"now")
        now = self.store.stat(f"{self.folder}now").modified
        self.store.delete(
            info.key
            for info in self.store.list(PREFIX)
            if info.key.startswith(FOLDER) and info.modified < now - _OLD
        )

    def _clear(self) -> None:
        # A put that is still under way would come after the deletion.
        done = self._ledger.close(_UNFINISHED)
        if not self._ledger.keys:
            return
        store = RetryingStore(self._counted, CancelScope(_CLEARING))
        try:
            store.delete(sorted(self._ledger.keys))
            rest = {info.key for info in store.list(self.folder)}
            store.delete(rest)
        except StoreError as error:
            self.left = f"objects under {self.folder} may be left: {error.message}"
            return
        if not done:
            self.left = f"objects under {self.folder} may be left: a request did not end"
        elif left := [key for key in sorted(rest) if _is_there(store, key)]:
            self.left = f"{len(left)} objects are left under {self.folder}"
        if isinstance(self._raw, FolderStore):
            self._raw.remove_empty(self.folder)


def _is_there(store: Store, key: str) -> bool:
    with suppress(StoreError):
        store.stat(key)
        return True
    return False


def numbered(folder: str, count: int) -> list[str]:
    """Return keys whose names have one length, so that every server lists them in one order."""
    return [f"{folder}{number:05}" for number in range(count)]
