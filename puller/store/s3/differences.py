"""Differences between S3 servers: puller remembers those of a server, and prints a notice of each once.

``docs/providers.md`` lists all of them, and what puller does about each.
"""

from __future__ import annotations

import threading
from collections import deque

from puller.cancelling import CancelScope

NO_SIZES = "the server sends no sizes of objects that are looked up: they are taken from listings"
NO_CONTENT_RANGE = "the server sends no Content-Range: the sizes of objects are looked up"
NO_LONG_RANGES = "the server refuses ranges longer than the object: the size is looked up first"
ABSENT_DENIED = "the server denies access to objects that do not exist: listings confirm that they are absent"
ONE_BY_ONE = "the server does not delete several objects in one request: they are deleted one by one"
NO_LONGER_CONDITIONAL = (
    "the server honoured conditional writes at 'init' and no longer does, so it may replace an object that "
    "should be new"
)
SIGNED_BODIES = "the server refuses unsigned bodies: all bodies are signed, which takes more processor time"
NO_EXPECTATION = (
    "the server does not answer 'Expect: 100-continue' as it should: large objects are sent without it"
)
SIGNED_AGAIN = "the server refused a request as too old, after a stall: it was signed again"
READ_AGAIN = "the credentials expired and were read again"


def other_region(region: str) -> str:
    """Return the notice for a bucket in another region than the client's."""
    return f"the bucket is in region {region}: set AWS_DEFAULT_REGION={region} to save a request"


class Differences:
    """The differences met on one server, by their notices. Copies of a store share them.

    A notice waits for an operation in a scope that has an observer.
    """

    def __init__(self) -> None:
        self._met: dict[str, None] = {}
        self._untold: deque[str] = deque()
        self._lock = threading.Lock()

    def met(self, notice: str) -> bool:
        """Return whether this difference was met before."""
        return notice in self._met

    @property
    def notices(self) -> tuple[str, ...]:
        """The notices of all differences that were met, in order."""
        return tuple(self._met)

    def note(self, notice: str) -> None:
        """Remember a difference."""
        with self._lock:
            if notice not in self._met:
                self._met[notice] = None
                self._untold.append(notice)

    def tell(self, scope: CancelScope) -> None:
        """Report each notice that was not reported yet to the observer of ``scope``, if it has one."""
        while self._untold and scope.is_observed:
            try:
                notice = self._untold.popleft()
            except IndexError:  # another thread tells it
                return
            scope.tell(notice)
