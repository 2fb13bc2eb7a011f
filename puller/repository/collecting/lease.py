"""A lease: at most one process works for a purpose at a time (docs/format.md, "Locks").

::

    locks/prune/<holder>-00000000   first, put before the folder is listed
    locks/prune/<holder>-00000001   renewal: a name of its own, so that no object is ever overwritten
    locks/prune/<holder>-00000002   the newest counts; the one before stays till the next, others are deleted

A process that wants the lease puts a first renewal, then lists. Of two that do so at once, the one that
lists later sees the other's and gives way; so there are never two holders, at worst none. No conditional put
is needed, and since no process writes another's objects, an expired lease is taken over without a race.

A holder that renews in time gives way to nobody: other processes see a lease that has not expired. Only a
lease that was renewed too late may have been taken over, and then any other holder counts.

Times are the store's: "now" is the modified time of an object that was just put.
"""

from __future__ import annotations

import os
import platform
import re
import secrets
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from math import inf

import msgspec

from puller.cancelling import cleanup
from puller.errors import DamagedData, Locked, ObjectNotFound, StoreDenied, StoreError
from puller.repository.format.sealing import Boxes, BoxKind
from puller.store.base import ObjectInfo, Store
from puller.units import KIB

PREFIX = "locks/"

EXPIRY = 900.0
"""Seconds after which a lease without renewal has expired."""

_LIMIT = 64 * KIB
"""Bytes of a lease, which names a host and a process."""

_NAME = re.compile(r"([0-9a-f]{32})-[0-9]{8}")

RECENT = 10.0
"""Seconds for which ``recent`` returns the time of the last renewal."""

RENEWAL = 60.0
"""Seconds after which ``renew`` puts the lease again."""


def _now() -> float:
    """Return seconds that continue to count while the host is suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class _Holder(msgspec.Struct, frozen=True):
    host: str
    process: int
    ended: bool = False


_HOLDERS = msgspec.json.Decoder(_Holder)


@dataclass(frozen=True, slots=True)
class _Renewals:
    """All renewals of one holder, in order: the last is the newest."""

    infos: tuple[ObjectInfo, ...]

    @property
    def newest(self) -> ObjectInfo:
        return self.infos[-1]

    @property
    def names(self) -> list[str]:
        return [info.key for info in self.infos]


def _listed(store: Store, folder: str) -> dict[str, _Renewals]:
    """Return renewals by holder id. Other names are foreign."""
    found: defaultdict[str, list[ObjectInfo]] = defaultdict(list)
    for info in store.list(folder):
        name = _NAME.fullmatch(info.key.removeprefix(folder))
        if name is not None:
            found[name[1]].append(info)
    return {
        holder: _Renewals(tuple(sorted(infos, key=lambda info: info.key))) for holder, infos in found.items()
    }


def is_taken(store: Store, boxes: Boxes, purpose: str) -> bool:
    """Return whether a process holds this lease, or died with it. Raises StoreError.

    It only lists: putting an object, as ``take`` does, would make others give way.
    """
    renewals = _listed(store, f"{PREFIX}{purpose}/").values()
    holders = (_read(store, boxes, item.newest.key) for item in renewals)
    return any(holder is None or not holder.ended for holder in holders)


def _read(store: Store, boxes: Boxes, name: str) -> _Holder | None:
    """Return the holder in the object ``name``; None if it cannot be read."""
    try:
        content = boxes.unpack(BoxKind.LOCK, name, store.get(name, max_size=_LIMIT), _LIMIT)
        return _HOLDERS.decode(content)
    except (ObjectNotFound, DamagedData, msgspec.MsgspecError, ValueError, RecursionError):
        return None


class Lease:
    """One holder's lease. ``now`` is the store's time at the last renewal, in seconds since the epoch."""

    def __init__(self, store: Store, boxes: Boxes, purpose: str) -> None:
        self._store = store
        self._boxes = boxes
        self._purpose = purpose
        self._folder = f"{PREFIX}{purpose}/"
        self._holder = secrets.token_hex(16)
        self._number = -1
        self._renewed = 0.0
        self.now = 0.0

    @classmethod
    @contextmanager
    def take(cls, store: Store, boxes: Boxes, purpose: str) -> Iterator[Lease]:
        """Hold the lease for ``purpose`` (a word) while in the context. Raises Locked, StoreError."""
        lease = cls(store, boxes, purpose)
        try:
            lease._begin()
            others = lease._others()
            lease._give_way(others)
            lease._delete_expired(others)
            yield lease
        finally:
            lease._give_back_or_tell(store)

    def recent(self) -> float:
        """Return the store's time, at most RECENT seconds old; renew for that if necessary.

        Nobody takes over a lease that was renewed so recently. Raises Locked as ``measure`` does.
        """
        return self.now if _now() - self._renewed <= RECENT else self.measure()

    def renew(self) -> None:
        """Renew if due; call it about every minute. Raises Locked if another process has taken over."""
        if _now() - self._renewed > RENEWAL:
            self.measure()

    def measure(self) -> float:
        """Renew at once and return ``now``. Raises Locked if another process has taken over."""
        try:
            self._store.stat(self._name(self._number))
        except ObjectNotFound as error:
            raise Locked(f"this {self._purpose} did not renew its lease in time and has lost it") from error
        before = self.now
        self._put()
        if self.now - before >= EXPIRY:
            self._give_way(self._others(), before)
        if self._number > 1:
            with suppress(StoreDenied):  # only the newest counts
                self._store.delete([self._name(self._number - 2)])
        return self.now

    def _name(self, number: int) -> str:
        return f"{self._folder}{self._holder}-{number:08}"

    def _begin(self) -> None:
        """Put the first renewal. The listing that follows tells when that was."""
        self._renewed = _now()
        try:
            self._write(ended=False)
        except StoreDenied:
            self._number = -1  # nothing was stored, so nothing blocks others
            raise

    def _put(self) -> None:
        self._renewed = _now()
        self._write(ended=False)
        self.now = self._store.stat(self._name(self._number)).modified

    def _write(self, ended: bool) -> None:
        self._number += 1
        name = self._name(self._number)
        content = msgspec.json.encode(_Holder(platform.node(), os.getpid(), ended))
        self._store.put_new(name, self._boxes.pack(BoxKind.LOCK, name, content))

    def _give_way(self, others: Sequence[_Renewals], since: float = inf) -> None:
        """Raise Locked if another lease has not expired, or was renewed after ``since``."""
        for other in others:
            if self._is_live(other) or other.newest.modified > since:
                of = self._of(other.newest)
                raise Locked(f"another {self._purpose} is running in this repository{of}")

    def _delete_expired(self, others: Sequence[_Renewals]) -> None:
        expired = [name for other in others if not self._is_live(other) for name in other.names]
        with suppress(StoreDenied):  # they block nobody, and this role may not delete
            self._store.delete(expired)

    def _give_back_or_tell(self, store: Store) -> None:
        """Give the lease back; should that fail, it expires by itself."""
        if self._number < 0:
            return
        try:
            self._store = store.within(cleanup())
            self._give_back()
        except StoreError as error:
            store.scope.tell(
                f"cannot release the lease of this {self._purpose}, so another one has to wait up to "
                f"{EXPIRY / 60:.0f} minutes: {error.message}"
            )

    def _give_back(self) -> None:
        try:
            self._store.delete(
                [self._name(number) for number in range(max(0, self._number - 2), self._number + 1)]
            )
        except StoreDenied:
            # Without permission to delete, a mark gives the lease back; else it would stay until it expires.
            self._write(ended=True)

    def _others(self) -> list[_Renewals]:
        found = _listed(self._store, self._folder)
        if self._holder in found:
            self.now = max(self.now, found[self._holder].newest.modified)
        elif not self.now:  # a store that lists late
            self.now = self._store.stat(self._name(self._number)).modified
        return [renewals for holder, renewals in found.items() if holder != self._holder]

    def _is_live(self, other: _Renewals) -> bool:
        if other.newest.modified + EXPIRY <= self.now:
            return False
        holder = _read(self._store, self._boxes, other.newest.key)
        return holder is None or not holder.ended

    def _of(self, info: ObjectInfo) -> str:
        """Return the holder of the lease, if it can be read."""
        holder = _read(self._store, self._boxes, info.key)
        return "" if holder is None else f": process {holder.process} on host {holder.host}"
