"""Time limits of requests that get no answer: short if recent waits were short.

The client closes the connection when the limit is over. That ends a put for good, so that its buffer can be
used again: an abandoned thread would go on sending it.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from botocore.exceptions import HTTPClientError, ReadTimeoutError

from puller.store.s3.body import BufferFile

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

SHORTEST = 6.0
"""Seconds of silence that every request is allowed: a healthy server may pause."""

FACTOR = 2.5
"""Allowed silence in multiples of the longest recent wait."""

REMEMBERED = 64
"""Recent waits that count, of each kind: servers get slower and faster."""

_MOST_SILENT = 1000
_SENT = "puller_sent"
"""Name in a request's context: how it was sent."""

Silent = tuple[str, str]
"""Method and URL of a request: what stays the same when it is repeated."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """Seconds of the shortest and the longest limit; the first requests of a kind get a third of that."""

    shortest: float
    longest: float

    def limit(self, slowest: float | None, silent: int) -> float:
        """Return the limit after ``silent`` tries without an answer, if answers took up to ``slowest``
        seconds."""
        first = self.longest / 3 if slowest is None else FACTOR * slowest
        return float(min(self.longest, max(self.shortest, first) * 2.0**silent))


@dataclass(frozen=True, slots=True)
class _Sent:
    """A request under way."""

    name: Silent
    body: object
    began: float

    @property
    def is_upload(self) -> bool:
        return isinstance(self.body, BufferFile)

    @property
    def ended(self) -> float:
        """When the kernel had all of it. What it still has to send then counts as a part of the wait."""
        return max(self.began, self.body.moved) if isinstance(self.body, BufferFile) else self.began


class TimeLimits:
    """The time limits of a client's requests, from its own ``read_timeout`` downwards.

    Large uploads have waits of their own: much of them may wait in the kernel when the last piece is read.
    """

    def __init__(
        self, client: S3Client, shortest: float | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        config: Any = client.meta.config  # the stubs lack its members
        longest = float(config.read_timeout)
        self._bounds = Bounds(min(longest, SHORTEST if shortest is None else shortest), longest)
        self._clock = clock
        self._waits: dict[bool, deque[float]] = {kind: deque(maxlen=REMEMBERED) for kind in (False, True)}
        self._silent: OrderedDict[Silent, int] = OrderedDict()
        self._lock = threading.Lock()
        client.meta.events.register_last("before-send.s3", self._begin)
        client.meta.events.register_first("response-received.s3", self._end)

    def _begin(self, request: Any, **_: object) -> None:
        sent = _Sent((request.method, request.url), request.body, self._clock())
        with self._lock:
            slowest = max(self._waits[sent.is_upload], default=None)
            silent = self._silent.get(sent.name, 0)
        request.context[_SENT] = sent
        request.context["read_timeout"] = self._bounds.limit(slowest, silent)

    def _end(
        self, context: dict[str, Any], response_dict: Any, exception: Exception | None, **_: object
    ) -> None:
        sent = context.pop(_SENT, None)
        if sent is None:
            return
        with self._lock:
            if response_dict is None:
                self._note_silence(sent.name, exception)
                return
            self._silent.pop(sent.name, None)
            if response_dict["status_code"] < 500:  # a server in trouble shows no usual wait
                self._waits[sent.is_upload].append(self._clock() - sent.ended)

    def _note_silence(self, name: Silent, exception: Exception | None) -> None:
        if not _is_silence(exception):
            return
        self._silent[name] = self._silent.pop(name, 0) + 1
        if len(self._silent) > _MOST_SILENT:  # most of these were given up
            self._silent.popitem(last=False)


def _is_silence(exception: Exception | None) -> bool:
    """Return whether a time limit has ended the request: while it was waited for, or already while sent."""
    if not isinstance(exception, HTTPClientError):
        return False
    reasons = getattr(exception.kwargs.get("error"), "args", ())
    return isinstance(exception, ReadTimeoutError) or any(isinstance(why, TimeoutError) for why in reasons)
