"""The protection of a served point: prune must not remove what a server may read for days."""

from __future__ import annotations

import os
import platform
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta

from puller.cancelling import CancelScope, cleanup
from puller.errors import PullerError
from puller.repository.points import Point
from puller.repository.records.kept import Keep, new_name
from puller.repository.repository import Repository

LASTS = timedelta(days=1)
"""How long a point stays kept after its server was killed."""

RENEWAL = 6 * 3600.0
"""Seconds between two renewals: the store may be gone for most of a day."""

_GRACE = 5.0
"""Seconds that the end waits for a put that is under way."""


class Hold:
    """A keep of the server's own, put anew before the one before is deleted.

    Where the store lets nobody write, the point is served all the same, and ``tell`` says so.
    """

    def __init__(self, repository: Repository, point: Point, tell: Callable[[str], None]) -> None:
        self._scope = CancelScope(repository.scope.policy, tell)  # ends later than the reads: see end()
        self._repository = repository.within(self._scope)
        self._point = point
        self._tell = tell
        self._name = point.uuid, point.point
        self._lock = threading.Lock()
        self._keys: list[str] = []

    def begin(self) -> None:
        """Keep the point from now on. Returns at once: no client has to wait for the store's answer."""
        threading.Thread(target=self._keep_until_cancelled, name="keep", daemon=True).start()

    def end(self) -> None:
        """Delete the keep. If that fails, it ends by itself. It may be called twice.

        A put under way gets some time: one that is cut off may take effect after the deletion.
        """
        with _held_for(self._lock, _GRACE):
            self._scope.cancel()
        with self._lock, suppress(PullerError):
            keys, self._keys = self._keys, []
            self._repository.within(cleanup()).keeps.delete(keys)

    def _keep_until_cancelled(self) -> None:
        self._renew()
        self._look()
        while not self._scope.cancelled:
            self._scope.pause(RENEWAL)
            if not self._scope.cancelled:
                self._renew()

    def _look(self) -> None:
        """A point that was deleted just before the keep was put is lost, but its data stays for a while."""
        with suppress(PullerError):
            if not self._repository.points.stands(self._name):
                text = f"restore point {self._point.point} has just been deleted"
                self._tell(f"{text}: its data can be read until a prune removes it, after its grace time")

    def _renew(self) -> None:
        note = f"served by process {os.getpid()} on host {platform.node()}"
        with self._lock:
            if self._scope.cancelled:
                return
            fresh = new_name(self._name)
            before, self._keys = self._keys, [*self._keys, fresh]  # a put that is cut off may take effect
            try:
                self._repository.keeps.put_as(fresh, Keep(datetime.now(UTC) + LASTS, note))
            except PullerError as error:
                self._complain(error)
                return
            with suppress(PullerError):
                self._repository.keeps.delete(before)
                self._keys = [fresh]

    def _complain(self, error: PullerError) -> None:
        if self._scope.cancelled:
            return
        text = f"cannot keep point {self._point.point} from being pruned while it is served"
        self._tell(f"{text}: {error.message}")


@contextmanager
def _held_for(lock: threading.Lock, seconds: float) -> Iterator[None]:
    """Hold the lock meanwhile, unless it does not become free within ``seconds``."""
    held = lock.acquire(timeout=seconds)
    try:
        yield
    finally:
        if held:
            lock.release()
