"""A store that is asked again when it does not answer: later and later, as long as its scope's policy says.

What a server says for good (denied, full, not there) is raised at once.
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
from puller.store.folder import FolderStore
from puller.store.silence import Silence, request
from puller.store.wrapped import WrappedStore

FIRST_PAUSE = 0.25
LONGEST_PAUSE = 10.0
"""Seconds. The pause doubles from the first to the longest: 20 requests or so in 150 s."""

WAKING = 30.0
"""Seconds that a folder may be silent at least: a disk that sleeps takes 5 to 15 to turn again, a file server
that is woken or mounted when it is needed may take longer."""

_PAGE = 1000
"""Objects listed or deleted at a time: what S3 takes in one request."""

T = TypeVar("T")


def pauses(chance: Callable[[], float]) -> Iterator[float]:
    """Seconds between one try and the next: at random between half and all of what doubles each time.

    So the threads of all hosts that a server's outage struck do not come back at the same instant.
    """
    for number in count():
        yield min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(number, 16)) * (0.5 + chance() / 2)


class RetryingStore(WrappedStore):
    """``store``, whose StoreUnavailable is raised only once the time is over or the ``scope`` is cancelled.

    ``clock`` tells seconds; ``wait`` takes the place of the scope's own pause, for tests.
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
        """See ``Store.list``. After a failure it is listed anew, without what was told before.

        Names of one length come in the order of keys from every store; of foreign ones, which nobody asks
        for, some may be left out then where the server has an order of its own.
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
                # Bound now, since the last name told changes as the listing goes on.
                found = _after(store, prefix, told)
                raise

        while infos := self._try(page, call):
            told = infos[-1].key
            yield from infos

    def delete(self, keys: Iterable[str]) -> None:
        """See ``Store.delete``. As many at a time as one request takes: each is waited for by itself."""
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
        """Repeat one request; ``call`` is told of its progress."""
        scope = self.scope
        silence = Silence(call, self._store.url, self._clock, WAKING if self._may_sleep else 0.0)
        for pause in pauses(self._chance):
            try:
                answer = request(scope, ask, silence)
            except StoreUnavailable as error:
                silence.note_failure()
                if scope.cancelled or not silence.allows(scope.policy, pause):
                    raise
                if pause >= FIRST_PAUSE:  # one that is asked again at once is no outage yet
                    scope.note_failure(error.message)
                (self._wait or scope.pause)(pause)
            else:
                scope.note_answer()
                return answer
        raise AssertionError("pauses never end")


def _after(store: Store, prefix: str, told: str) -> Iterator[ObjectInfo]:
    return (info for info in store.list(prefix) if info.key > told)


def _holds(store: Store, key: str, body: Body) -> bool:
    try:
        return store.get(key, max_size=len(body)) == bytes(body)
    except (ObjectNotFound, DamagedData, StoreDenied):  # it is larger, or may not be read by this role
        return False
