"""The protection of a served point: prune must not remove what a server may read for days."""

from __future__ import annotations

import os
import platform
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta

from puller.cancelling import CancelScope, cleanup
from puller.errors import NoSuchPoint, PullerError, StoreDenied
from puller.events import Notice, Observer
from puller.repository.points import Point
from puller.repository.records.kept import Keep
from puller.repository.repository import Repository

LASTS = timedelta(days=1)
"""How long a point stays kept after its server was killed."""

RENEWAL = 6 * 3600.0
"""Seconds between two renewals: the store may be gone for most of a day."""


@contextmanager
def held(repository: Repository, point: Point, observer: Observer) -> Iterator[None]:
    """Keep ``point`` while the context lasts, by a keep of the server's own that is renewed.

    Where the store lets nobody write, it is served all the same, and ``observer`` is told. Raises NoSuchPoint
    if the point was deleted just before.
    """
    scope = repository.scope.child()
    keep = _OwnKeep(repository.within(scope), point, observer)
    keep.begin()
    renewal = threading.Thread(target=keep.renew_until_cancelled, args=[scope], name="keep", daemon=True)
    renewal.start()
    try:
        yield
    finally:
        scope.cancel()
        keep.end()


class _OwnKeep:
    """One keep at a time, put anew before the one before is deleted."""

    def __init__(self, repository: Repository, point: Point, observer: Observer) -> None:
        self._repository = repository
        self._point = point
        self._observer = observer
        self._name = point.uuid, point.point
        self._lock = threading.Lock()
        self._key: str | None = None

    def begin(self) -> None:
        self._renew()
        if self._key is not None and not self._repository.points.stands(self._name):
            self.end()
            raise NoSuchPoint(f"restore point {self._point.point} has just been deleted")

    def renew_until_cancelled(self, scope: CancelScope) -> None:
        while not scope.cancelled:
            scope.pause(RENEWAL)
            if not scope.cancelled:
                self._renew()

    def end(self) -> None:
        """Delete the keep; if that fails, it ends by itself."""
        with self._lock, suppress(PullerError):
            if self._key is not None:
                self._repository.within(cleanup()).keeps.delete([self._key])
                self._key = None

    def _renew(self) -> None:
        note = f"served by process {os.getpid()} on host {platform.node()}"
        with self._lock:
            try:
                fresh = self._repository.keeps.put(self._name, Keep(datetime.now(UTC) + LASTS, note))
                before, self._key = self._key, fresh
                if before is not None:
                    self._repository.keeps.delete([before])
            except PullerError as error:
                if not isinstance(error, StoreDenied) or self._key is None:
                    self._tell(error)

    def _tell(self, error: PullerError) -> None:
        text = f"cannot keep point {self._point.point} from being pruned while it is served"
        self._observer(Notice(self._point.point, f"{text}: {error.message}"))
