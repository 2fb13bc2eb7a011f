"""A store that is asked again when it does not answer: later and later, until the patience is spent.

What a server says for good (denied, full, not there) is raised at once. How long it is tried is not the
store's to know: see ``puller.store.patience``.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import count, islice
from typing import TypeVar

from puller.errors import DamagedData, ObjectExists, ObjectNotFound, StoreDenied, StoreError, StoreUnavailable
from puller.store.base import Body, ObjectInfo, Store
from puller.store.folder import FolderStore
from puller.store.patience import SHORT, WAKING, Patience, Silence, current

FIRST_PAUSE = 0.25
LONGEST_PAUSE = 10.0
"""Seconds. The pause doubles from the first to the longest: 20 requests or so in LONG."""

_PAGE = 1000
"""Objects listed or deleted at a time: what S3 takes in one request."""

T = TypeVar("T")


def pauses(chance: Callable[[], float]) -> Iterator[float]:
    """Seconds between one try and the next: at random between half and all of what doubles each time.

    So the threads of all hosts that a server's outage struck do not come back at the same instant.
    """
    for number in count():
        yield min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(number, 16)) * (0.5 + chance() / 2)


class RetryingStore:
    """``store``, whose StoreUnavailable is raised only once patience is spent or has been ended.

    ``clock`` tells seconds; ``wait`` takes the place of the patience's own pause, for tests.
    """

    def __init__(
        self,
        store: Store,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[float], None] | None = None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._store = store
        self._may_sleep = isinstance(store, FolderStore)
        self._clock = clock
        self._wait = wait
        self._chance = chance

    @property
    def url(self) -> str:
        """See ``Store.url``."""
        return self._store.url

    def get(self, key: str, *, max_size: int | None = None) -> bytes:
        """See ``Store.get``."""
        return self._try(lambda: self._store.get(key, max_size=max_size))

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        """See ``Store.get_range``."""
        return self._try(lambda: self._store.get_range(key, offset, length))

    def get_tail(self, key: str, length: int) -> tuple[bytes, ObjectInfo]:
        """See ``Store.get_tail``."""
        return self._try(lambda: self._store.get_tail(key, length))

    def put(self, key: str, body: Body) -> None:
        """See ``Store.put``."""
        self._try(lambda: self._store.put(key, body))

    def put_new(self, key: str, body: Body) -> None:
        """See ``Store.put_new``.

        A try whose answer was lost may have been carried out: one of ours, or one of the S3
        client's own. So if the key is taken by the same content, the object is this call's own.
        """

        def put() -> None:
            try:
                self._store.put_new(key, body)
            except ObjectExists:
                if not self._holds(key, body):
                    raise

        self._try(put)

    def stat(self, key: str) -> ObjectInfo:
        """See ``Store.stat``."""
        return self._try(lambda: self._store.stat(key))

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """See ``Store.list``. After a failure it is listed anew, without what was told before.

        Names of one length come in the order of keys from every store; of foreign ones, which nobody asks
        for, some may be left out then where the server has an order of its own.
        """
        return self._list(prefix, self._store.list(prefix))

    def _list(self, prefix: str, found: Iterator[ObjectInfo]) -> Iterator[ObjectInfo]:
        told = ""

        def page() -> Sequence[ObjectInfo]:
            nonlocal found
            try:
                return tuple(islice(found, _PAGE))
            except StoreUnavailable:
                # Bound now, since the last name told changes as the listing goes on.
                found = self._after(prefix, told)
                raise

        while infos := self._try(page):
            told = infos[-1].key
            yield from infos

    def _after(self, prefix: str, told: str) -> Iterator[ObjectInfo]:
        return (info for info in self._store.list(prefix) if info.key > told)

    def delete(self, keys: Iterable[str]) -> None:
        """See ``Store.delete``. As many at a time as one request takes: each is waited for by itself."""
        rest = iter(keys)
        refusals: list[StoreError] = []
        while names := tuple(islice(rest, _PAGE)):
            try:
                self._try(partial(self._store.delete, names))
            except StoreUnavailable:
                raise
            except StoreError as error:
                refusals.append(error)
        if refusals:
            raise refusals[0]

    def _holds(self, key: str, body: Body) -> bool:
        try:
            return self._store.get(key, max_size=len(body)) == bytes(body)
        except (ObjectNotFound, DamagedData, StoreDenied):  # it is larger, or may not be read by this role
            return False

    def _try(self, ask: Callable[[], T]) -> T:
        patience = current() or Patience(SHORT)
        silence = Silence(self._store.url, self._clock, WAKING if self._may_sleep else 0.0)
        for pause in pauses(self._chance):
            try:
                answer = patience.request(ask, silence)
            except StoreUnavailable as error:
                silence.note_failure()
                if not patience.allows(silence, pause):
                    raise
                if pause >= FIRST_PAUSE:  # one that is asked again at once is no outage yet
                    patience.note_failure(error)
                (self._wait or patience.pause)(pause)
            else:
                patience.note_answer()
                return answer
        raise AssertionError("pauses never end")
