"""A lease: at most one process does a thing at a time (docs/format.md, "Locks").

Who wants the lease puts an object of its own, then lists. Of two that do so at once, the one that lists
later sees the other's object and gives way; so there are never two holders, at worst none. No conditional
put is needed, and since nobody writes another's object, an expired lease is taken over without a race.

Who holds it gives way to nobody as long as it renews in time: whoever tries meanwhile sees a lease that has
not expired. Only one that has renewed too late may have been taken over, and then any other object counts.

Times are the store's: "now" is the modified time of an object that was put just now.
"""

from __future__ import annotations

import os
import platform
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import msgspec

from puller.cancelling import cleanup
from puller.errors import DamagedData, Locked, ObjectNotFound, StoreDenied, StoreError
from puller.repository.format.sealing import Boxes, BoxKind
from puller.store.base import ObjectInfo, Store
from puller.units import KIB

PREFIX = "locks/"

EXPIRY = 900.0
"""Seconds after which a lease that was not renewed counts as left behind."""

_LIMIT = 64 * KIB
"""Bytes of a lease, which names a host and a process."""

RENEWAL = 60.0
"""Seconds after which ``renew`` puts the lease again."""


def _now() -> float:
    """Seconds, going on while the host is suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class _Holder(msgspec.Struct, frozen=True):
    host: str
    process: int
    ended: bool = False


def is_taken(store: Store, boxes: Boxes, purpose: str) -> bool:
    """Whether somebody holds this lease, or died with it. Raises StoreError.

    A look only: to put an object, as taking it does, lets others that try at the same time give way.
    """
    holders = (_read(store, boxes, info.key) for info in store.list(f"{PREFIX}{purpose}/"))
    return any(holder is None or not holder.ended for holder in holders)


def _read(store: Store, boxes: Boxes, name: str) -> _Holder | None:
    """Who holds the lease in the object ``name``; None if that cannot be told."""
    try:
        content = boxes.unpack(BoxKind.LOCK, name, store.get(name, max_size=_LIMIT), _LIMIT)
        return msgspec.json.decode(content, type=_Holder)
    except (ObjectNotFound, DamagedData, msgspec.MsgspecError, ValueError, RecursionError):
        return None


class Lease:
    """One holder's lease. ``now`` is the store's time at the last renewal, in seconds since the epoch."""

    def __init__(self, store: Store, boxes: Boxes, purpose: str) -> None:
        self._store = store
        self._boxes = boxes
        self._purpose = purpose
        self._folder = f"{PREFIX}{purpose}/"
        self._name = self._folder + secrets.token_hex(16)
        self._renewed = 0.0
        self.now = 0.0

    @classmethod
    @contextmanager
    def take(cls, store: Store, boxes: Boxes, purpose: str) -> Iterator[Lease]:
        """Hold the lease for ``purpose`` (a word) while in the context. Raises Locked, StoreError."""
        lease = cls(store, boxes, purpose)
        try:
            lease._put()
            lease._give_way()
            with suppress(StoreDenied):  # they hinder nobody, and this role may not delete
                store.delete([info.key for info in lease._others() if not lease._is_live(info)])
            yield lease
        finally:
            # Should this fail, the lease expires by itself.
            with suppress(StoreError):
                lease._store = store.within(cleanup())
                lease._give_back()

    def renew(self) -> None:
        """To be called every minute or so. Raises Locked if another one has taken over."""
        if _now() - self._renewed > RENEWAL:
            self.measure()

    def measure(self) -> float:
        """Renew at once and return ``now``. Raises Locked if another one has taken over."""
        try:
            self._store.stat(self._name)
        except ObjectNotFound as error:
            raise Locked(f"this {self._purpose} did not renew its lease in time and has lost it") from error
        before = self.now
        self._put()
        if self.now - before >= EXPIRY:
            self._give_way()
        return self.now

    def _put(self) -> None:
        self._renewed = _now()
        self._write(ended=False)
        self.now = self._store.stat(self._name).modified

    def _give_way(self) -> None:
        """Raise Locked if another lease has not expired."""
        for info in self._others():
            if self._is_live(info):
                raise Locked(f"another {self._purpose} is at work in this repository{self._of(info)}")

    def _write(self, ended: bool) -> None:
        content = msgspec.json.encode(_Holder(platform.node(), os.getpid(), ended))
        self._store.put(self._name, self._boxes.pack(BoxKind.LOCK, self._name, content))

    def _give_back(self) -> None:
        try:
            self._store.delete([self._name])
        except StoreDenied:
            # A role that may not delete says so; else the lease would stay until it expires.
            self._write(ended=True)

    def _others(self) -> list[ObjectInfo]:
        return [info for info in self._store.list(self._folder) if info.key != self._name]

    def _is_live(self, info: ObjectInfo) -> bool:
        if info.modified + EXPIRY <= self.now:
            return False
        holder = _read(self._store, self._boxes, info.key)
        return holder is None or not holder.ended

    def _of(self, info: ObjectInfo) -> str:
        """Who holds the lease, as far as it can be told."""
        holder = _read(self._store, self._boxes, info.key)
        return "" if holder is None else f": process {holder.process} on host {holder.host}"
