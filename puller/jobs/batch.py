"""Backups of many domains, several at a time; a domain that fails does not stop the others."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait  # noqa: TID251 - backups have to clean up, so their threads are waited for, so their threads are waited for
from dataclasses import dataclass, field

from puller.cancelling import CancelScope, find_stop
from puller.errors import Interrupted, NbdError, StoreUnavailable
from puller.events import Committed, Event, Observer
from puller.repository.points import Point

Take = Callable[[str, Observer], Point]
"""Backs up one domain, reporting to an observer."""

Failed = Callable[[str, BaseException], None]
"""Called with each failure as soon as it is known, in the thread of the failure."""

Stored = Callable[[Point], None]
"""Called with each new point, likewise."""


@dataclass(frozen=True, slots=True)
class Reporters:
    """Callbacks of a batch while it runs."""

    observer: Observer
    on_point: Stored
    on_failure: Failed


@dataclass
class Taken:
    """Results of a batch of backups.

    Attributes:
        points: The points that were taken.
        failed: The domains without a new point, each with its error.
        interruption: What stopped the batch, such as a signal. It is also the error of the stopped domains.
        left: Domains whose points are stored, each with the error that followed.
    """

    points: list[Point] = field(default_factory=list)
    failed: list[tuple[str, BaseException]] = field(default_factory=list)
    interruption: BaseException | None = None
    left: list[tuple[str, BaseException]] = field(default_factory=list)


def take_all(
    domains: Sequence[str],
    take: Take,
    audience: Reporters,
    parallel: int = 1,
    scope: CancelScope | None = None,
) -> Taken:
    """Call ``take`` for each of the ``domains``, ``parallel`` of them at a time.

    Its waits belong to ``scope``.

    An Exception of ``take`` fails its domain. Any other exception, such as a signal's, stops the whole batch:
    running backups stop at their next event, read, store or wait, and no other begins.
    """
    batch = _Batch(take, audience, scope or CancelScope())
    try:
        if parallel == 1:
            batch.one_by_one(domains)
        else:
            batch.at_once(domains, parallel)
    except BaseException as error:
        if (stop := find_stop(error)) is None:
            raise
        batch.taken.interruption = stop  # between two backups: report what is stored
    return batch.taken


def cause_of(error: BaseException, scope: CancelScope) -> BaseException:
    """Return the stop that caused ``error`` if that is a wait that was given up; else ``error``."""
    if scope.cancelled and isinstance(error, StoreUnavailable | NbdError):
        return Interrupted("stopped by a signal")
    return error


class _Batch:
    def __init__(self, take: Take, audience: Reporters, scope: CancelScope) -> None:
        self.taken = Taken()
        self._take = take
        self._audience = audience
        self._scope = scope
        self._lock = threading.Lock()

    def one_by_one(self, domains: Sequence[str]) -> None:
        """Take them in the calling thread, which receives signals."""
        for domain in domains:
            self._back_up(domain)
            if self.taken.interruption is not None:
                return

    def at_once(self, domains: Sequence[str], parallel: int) -> None:
        """Take them in threads. The calling thread waits and receives signals."""
        with ThreadPoolExecutor(parallel, thread_name_prefix="domain") as pool:
            futures: list[Future[None]] = []
            try:
                futures.extend(pool.submit(self._back_up, domain) for domain in domains)
                wait(futures)
            except BaseException as error:  # noqa: BLE001 - the threads have to clean up after any exception
                self.taken.interruption = find_stop(error) or error
                for future in futures:
                    future.cancel()
                self._scope.cancel()

    def _back_up(self, domain: str) -> None:
        stored: list[Point] = []

        def observe(event: Event) -> None:
            if isinstance(event, Committed):
                stored.append(event.point)
            self._observe(event)

        try:
            point = self._take(domain, observe)
        except BaseException as error:  # noqa: BLE001 - a bug in one domain must not stop the others
            self._fail(domain, cause_of(error, self._scope), stored)
        else:
            self._keep(point)

    def _keep(self, point: Point) -> None:
        with self._lock:
            self.taken.points.append(point)
        self._audience.on_point(point)

    def _fail(self, domain: str, error: BaseException, stored: Sequence[Point]) -> None:
        for point in stored:
            self._keep(point)
        with self._lock:
            (self.taken.left if stored else self.taken.failed).append((domain, error))
            self.taken.interruption = self.taken.interruption or find_stop(error)
        self._audience.on_failure(domain, error)

    def _observe(self, event: Event) -> None:
        """Stop a run by an error of its observer; it then cleans up as after any other error."""
        self._scope.check()
        self._audience.observer(event)
