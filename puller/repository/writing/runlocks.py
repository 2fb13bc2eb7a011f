"""Locks of what the point of a run needs (docs/immutability.md).

::

    a base whose locks end late enough ────────────────────────► nothing to do: its point says until when
    a base whose locks end too soon ──► walk its map ──► extend what ends too soon, before the disks freeze
    content found in a pack ──► ask the store for that pack's lock ──► extend it if it ends too soon
    new packs ──► locked by their put

So as long as its base is covered, an incremental looks up only the locks of packs in which it has found
content. All of this happens before the point is announced, and the point records how long the locks last.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from math import floor, inf
from threading import Lock
from typing import Protocol

import msgspec

from puller.errors import DamagedData, ObjectNotFound
from puller.pipeline.flow import Crew, Flow
from puller.repository.format.address import Address
from puller.repository.format.packname import PackKind
from puller.repository.locking import Extension, StoreClock, packs_of, vital_names
from puller.repository.points import Point
from puller.repository.reading.mapreader import MapReader
from puller.repository.reading.packs import PackReader
from puller.repository.records.lockpolicy import LockPolicy
from puller.store.base import Store
from puller.store.objectlock import ObjectLock

_THREADS = 4
_QUEUED = 1 << 16
"""Packs that may wait for a lookup of their lock: enough that no codec ever has to wait."""

_COMMIT = 900.0
"""Seconds that a commit may take. Stores refuse a lock whose end has passed."""


class Locking(Protocol):
    """The lock work of a run. ``gap`` says why its point is not covered, although it should be."""

    gap: str | None

    def start(self, flow: Flow) -> None:
        """Start the threads that lock."""
        ...

    def locked(self, store: Store) -> Store:
        """Return ``store`` for a new pack."""
        ...

    def rely_on(self, point: Point, root: Address) -> None:
        """Make sure that everything that the map at ``root`` of a committed point reaches is locked."""
        ...

    def take_over(self, root: Address) -> bool:
        """Note that the run refers to what a map reaches. Return whether the run already relied on it."""
        ...

    def own(self, pack_id: bytes) -> None:
        """Note a pack of this run, which its put locks."""
        ...

    def find(self, kind: PackKind, packs: Iterable[bytes]) -> None:
        """Note that the run refers to contents of stored packs, or of its own."""
        ...

    def finish(self) -> None:
        """Wait until all that was found is locked."""
        ...

    def seal(self, point: Point) -> tuple[Point, ObjectLock | None]:
        """Return the point as it is to be committed, and its own lock."""
        ...


class Unlocked:
    """A run in a repository without a lock policy; ``was_decided`` says whether a record says so."""

    def __init__(self, was_decided: bool) -> None:
        self._was_decided = was_decided
        self.gap: str | None = None

    def own(self, pack_id: bytes) -> None:
        """See ``Locking``."""

    def start(self, flow: Flow) -> None:
        """See ``Locking``."""

    def locked(self, store: Store) -> Store:
        """See ``Locking``."""
        return store

    def rely_on(self, point: Point, root: Address) -> None:
        """See ``Locking``."""
        if point.locked_until is not None and not self._was_decided:
            self.gap = "the lock policy of the repository is gone"

    def take_over(self, root: Address) -> bool:
        """See ``Locking``."""
        return True

    def find(self, kind: PackKind, packs: Iterable[bytes]) -> None:
        """See ``Locking``."""

    def finish(self) -> None:
        """See ``Locking``."""

    def seal(self, point: Point) -> tuple[Point, ObjectLock | None]:
        """See ``Locking``."""
        return point, None


class RunLocks:
    """The locks of a run under ``policy``. ``gap`` says why the point is not covered; None if it is.

    ``until`` is the end that every lock must reach: the time of the policy, counted from now.
    """

    def __init__(self, store: Store, packs: PackReader, maps: MapReader, policy: LockPolicy) -> None:
        self._store = store
        self._packs = packs
        self._maps = maps
        self._policy = policy
        self._clock = StoreClock(store)
        self.until = self._clock.now() + policy.seconds
        self._extension = Extension(store, packs, policy, self._clock, self.until)
        self._end = inf
        self._covered = False
        self._relied: set[Address] = set()
        self._known: set[bytes] = set()
        self._crew: Crew[tuple[PackKind, bytes]]
        self._lock = Lock()
        self.gap: str | None = None

    def start(self, flow: Flow) -> None:
        """See ``Locking``."""
        self._crew = flow.crew("lock", _THREADS, _QUEUED, self._extend)

    def locked(self, store: Store) -> Store:
        """See ``Locking``."""
        lock = self._policy.lock(self._clock.now())
        self._note(lock.until)
        return store.locking(lock)

    def rely_on(self, point: Point, root: Address) -> None:
        """See ``Locking``. A base whose locks end too soon is extended: about once in the spare time."""
        self._relied.add(root)
        end = point.locked_until.timestamp() if point.locked_until else 0.0
        if end >= self.until:
            self._covered = True
            self._note(end)
            return
        try:
            packs = packs_of(self._maps, [root])
            self._known |= {pack_id for _, pack_id in packs}
            for end in self._extension.packs(sorted(packs)):
                self._note(end)
        except (DamagedData, ObjectNotFound) as error:
            self._miss(error)

    def take_over(self, root: Address) -> bool:
        """See ``Locking``."""
        if root not in self._relied:
            self.gap = self.gap or "the run was not told which point its base is from"
            return False
        return True

    def find(self, kind: PackKind, packs: Iterable[bytes]) -> None:
        """See ``Locking``. The store is asked once for each pack, whoever has stored it."""
        for pack_id in packs:
            with self._lock:
                fresh = pack_id not in self._known
                self._known.add(pack_id)
            if fresh:
                self._crew.put((kind, pack_id))

    def own(self, pack_id: bytes) -> None:
        """See ``Locking``."""
        with self._lock:
            self._known.add(pack_id)

    def finish(self) -> None:
        """See ``Locking``."""
        self._crew.finish()

    def seal(self, point: Point) -> tuple[Point, ObjectLock | None]:
        """See ``Locking``. Raises StoreError."""
        if not self._covered:
            self._extend_vital()
        now = self._clock.now()
        if self._end <= now + min(_COMMIT, self._policy.spare / 4):
            self.gap = self.gap or "the backup has lasted longer than its locks"
        if self.gap is not None:
            return point, self._policy.lock(now)
        end = floor(self._end)
        lock = ObjectLock(self._policy.mode, end)
        return msgspec.structs.replace(point, locked_until=datetime.fromtimestamp(end, UTC)), lock

    def _extend_vital(self) -> None:
        try:
            for end in self._extension.objects(vital_names(self._store)):
                self._note(end)
        except ObjectNotFound as error:  # a key may be removed, or the policy changed, at this moment
            self._miss(error)

    def _extend(self, pack: tuple[PackKind, bytes]) -> None:
        try:
            self._note(self._extension.pack(self._store.scope, pack))
        except (DamagedData, ObjectNotFound) as error:
            self._miss(error)

    def _note(self, end: float) -> None:
        with self._lock:
            self._end = min(self._end, end)

    def _miss(self, error: DamagedData | ObjectNotFound) -> None:
        with self._lock:
            self.gap = self.gap or error.message
