"""A store that repeats requests without an answer, with growing pauses, under its scope's retry policy.

Definite answers of a server (denied, full, not found) are raised at once.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count, islice
from typing import TypeVar

from puller.cancelling import CancelScope
from puller.errors import DamagedData, ObjectExists, ObjectNotFound, StoreDenied, StoreError, StoreUnavailable
from puller.store.base import Body, ObjectInfo, Store
from puller.store.directory.folder import FolderStore
from puller.store.silence import Silence, request
from puller.store.wrapping.wrapped import WrappedStore

FIRST_PAUSE = 0.25
LONGEST_PAUSE = 10.0
"""Seconds. The pause doubles from the first to the longest."""

WAKING = 30.0
"""Seconds that a directory may be silent at least: a sleeping disk has to spin up, and a file server that is
woken or mounted on demand may take longer."""

_PAGE = 1000
"""Objects listed or deleted at a time: the limit of one S3 request."""

T = TypeVar("T")


def pauses(chance: Callable[[], float]) -> Iterator[float]:
    """Yield seconds between tries: a random part, at least half, of a pause that doubles each time.

    So the threads of all hosts that an outage affected do not retry at the same instant.
    """
    for number in count():
        yield min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(number, 16)) * (0.5 + chance() / 2)


class RetryingStore(WrappedStore):
    """A wrapper of ``store`` that retries until the policy's time is over or the ``scope`` is cancelled.

    Only then it raises StoreUnavailable. ``clock`` returns seconds; ``wait`` replaces the scope's pause, for
    tests.
    """

    def __init__(
        self,
        store: Store,
        scope: CancelScope | None = None,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[float], None] | None = None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        super().__init__(store)
        self.scope = scope or CancelScope()
        self._may_sleep = isinstance(store, FolderStore)
        self._clock = clock
        self._wait = wait
        self._chance = chance

    def put_new(self, key: str, body: Body) -> None:
        """See ``Store.put_new``.

        A try whose answer was lost may have been carried out: one of ours, or one of the S3
        client's own. So if the key is taken by the same content, the object is this call's own.
        """

        def put(store: Store) -> None:
            try:
                store.put_new(key, body)
            except ObjectExists:
                if not _holds(store, key, body):
                    raise

        self._ask(put)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """See ``Store.list``. After a failure it lists again, without the names already yielded.

        Every store lists names of one length in the order of keys. Foreign names, which nobody needs, may
        then be omitted if the server has another order.
        """
        call = self.scope.child()
        store = self._store.within(call)
        return self._list(store, prefix, store.list(prefix), call)

    def _list(
        self, store: Store, prefix: str, found: Iterator[ObjectInfo], call: CancelScope
    ) -> Iterator[ObjectInfo]:
        told = ""

        def page() -> Sequence[ObjectInfo]:
            nonlocal found
            try:
                return tuple(islice(found, _PAGE))
            except StoreUnavailable:
                # Bound now, since the last yielded name changes as the listing continues.
                found = _after(store, prefix, told)
                raise

        while infos := self._try(page, call):
            told = infos[-1].key
            yield from infos
            if len(infos) < _PAGE:  # all there is; to ask once more would take no time, and so no round trip
                return

    def delete(self, keys: Iterable[str]) -> None:
        """See ``Store.delete``. One request's worth at a time, each with its own wait."""
        rest = iter(keys)
        refusals: list[StoreError] = []
        while names := tuple(islice(rest, _PAGE)):
            try:
                super().delete(names)
            except StoreUnavailable:
                raise
            except StoreError as error:
                refusals.append(error)
        if refusals:
            raise refusals[0]

    def _ask(self, ask: Callable[[Store], T]) -> T:
        call = self.scope.child()
        store = self._store.within(call)
        return self._try(lambda: ask(store), call)

    def _try(self, ask: Callable[[], T], call: CancelScope) -> T:
        """Repeat one request; ``call`` notes its progress."""
        scope = self.scope
        silence = Silence(call, self._store.url, self._clock, WAKING if self._may_sleep else 0.0)
        for pause in pauses(self._chance):
            began = self._clock()
            try:
                answer = request(scope, ask, silence)
            except StoreUnavailable as error:
                silence.note_failure()
                if scope.cancelled or not silence.allows(scope.policy, pause):
                    raise
                if pause >= FIRST_PAUSE:  # a request that is repeated at once is not an outage yet
                    scope.note_failure(error.message)
                (self._wait or scope.pause)(pause)
            else:
                scope.note_answer(self._clock() - began)
                return answer
        raise AssertionError("pauses never end")


def _after(store: Store, prefix: str, told: str) -> Iterator[ObjectInfo]:
    return (info for info in store.list(prefix) if info.key > told)


def _holds(store: Store, key: str, body: Body) -> bool:
    try:
        return store.get(key, max_size=len(body)) == bytes(body)
    except (ObjectNotFound, DamagedData, StoreDenied):  # the object is larger, or this role may not read it
        return False
