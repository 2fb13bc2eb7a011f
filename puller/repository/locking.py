"""Coverage: the objects that a point needs, and their locks (docs/immutability.md)."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

import numpy as np

from puller.cancelling import CancelScope
from puller.errors import DamagedData, ObjectNotFound
from puller.repository.format import descriptor
from puller.repository.format.address import Address
from puller.repository.format.packname import PackKind
from puller.repository.format.pages import ZERO, Numbers
from puller.repository.keys import key_slots
from puller.repository.reading.damage import Damage, read_pages
from puller.repository.reading.mapreader import MapReader
from puller.repository.reading.packs import PackReader
from puller.repository.records import lockpolicy
from puller.repository.records.lockpolicy import LockPolicy
from puller.store.base import Store
from puller.store.objectlock import ObjectLock
from puller.store.parallel import each

_REQUESTS = 16
"""Parallel requests: as many as the S3 client has connections."""


_ENDING = 900.0
"""Seconds before its end in which a lock is not set again: stores refuse times that have passed."""


def _now() -> float:
    """Return seconds that continue to count while the host is suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class StoreClock:
    """The store's clock, asked once."""

    def __init__(self, store: Store) -> None:
        self._ahead = store.locks.now() - _now()

    def now(self) -> float:
        """Return the store's time, in seconds since the epoch."""
        return _now() + self._ahead


class Extension:
    """Extends locks that end before ``until``. Its waits belong to the scope of the ``store``."""

    def __init__(
        self, store: Store, packs: PackReader, policy: LockPolicy, clock: StoreClock, until: float
    ) -> None:
        self._store = store
        self._packs = packs
        self._policy = policy
        self._clock = clock
        self.until = until

    def objects(self, names: Iterable[str]) -> Iterator[float]:
        """Yield the ends of the locks of objects. Raises ObjectNotFound, StoreError."""
        yield from each(self._store.scope, self._cover, names, _REQUESTS)

    def packs(self, packs: Iterable[tuple[PackKind, bytes]]) -> Iterator[float]:
        """Yield the ends of the locks of packs. Raises MissingObject, StoreError."""
        yield from each(self._store.scope, self.pack, packs, _REQUESTS)

    def pack(self, scope: CancelScope, pack: tuple[PackKind, bytes]) -> float:
        """Return the end of the lock of a pack's present generation."""
        kind, pack_id = pack
        try:
            return self._cover(scope, kind.object_name(pack_id))
        except ObjectNotFound:  # compacted
            return self._cover(scope, self._packs.within(scope).load(kind, pack_id).name)

    def _cover(self, scope: CancelScope, name: str) -> float:
        locks = self._store.within(scope).locks
        was = locks.lock_of(name)
        if was is not None and was.until >= self.until:
            return was.until
        lock = self._policy.lock(self._clock.now())
        # A lock keeps its mode: to change that, some stores ask for a right that no host should have.
        locks.extend(name, lock if was is None else ObjectLock(was.mode, lock.until))
        return lock.until


def locked_like(store: Store, now: float, name: str) -> Store:
    """Return the store for the object that replaces ``name``: its put gets the same lock."""
    lock = store.locks.lock_of(name)
    lasts = lock is not None and lock.until > now + _ENDING
    return store.locking(lock) if lock is not None and lasts else store


def vital_names(store: Store) -> list[str]:
    """Return the objects, apart from packs and points, without which nothing can be restored."""
    slots = [info.key for info in store.list(key_slots.PREFIX) if info.size]
    policies = [info.key for info in store.list(lockpolicy.PREFIX) if info.size]
    return [descriptor.NAME, *slots, *policies]


def packs_of(maps: MapReader, roots: Iterable[Address]) -> set[tuple[PackKind, bytes]]:
    """Return the packs that some maps reach. Raises DamagedData if a map cannot be read."""
    found: set[tuple[PackKind, bytes]] = set()
    for address in roots:
        root = maps.root(address)
        found.add((PackKind.MAP, address.pack))
        found |= _named(maps, PackKind.MAP, root.pages.packs)
        damage: list[Damage] = []
        numbers = np.flatnonzero(root.pages.packs != ZERO).tolist()
        for _, refs in read_pages(maps, root, numbers, damage):
            found |= _named(maps, PackKind.DATA, refs.packs)
        if damage:
            raise DamagedData(damage[0].reason)
    return found


def _named(maps: MapReader, kind: PackKind, numbers: Numbers) -> set[tuple[PackKind, bytes]]:
    return {(kind, maps.table.pack_id(number)) for number in np.unique(numbers[numbers != ZERO]).tolist()}
