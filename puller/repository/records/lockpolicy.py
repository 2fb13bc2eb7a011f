"""The lock policy: how long runs lock what their points need (docs/format.md, "Lock policy").

Every change is a record of its own. If there are several, the strictest counts. So a host that may only add
records cannot weaken the policy, and two hosts that change it at the same time agree on the result.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import msgspec

from puller.cancelling import Scoped
from puller.errors import DamagedData, ObjectNotFound, UnsupportedByStore
from puller.repository.format import descriptor
from puller.repository.format.packname import ID
from puller.repository.format.sealing import Boxes, BoxKind
from puller.store.base import Store
from puller.store.objectlock import LockMode, ObjectLock
from puller.units import KIB

PREFIX = "locking/"
VERSION = 1

LONGEST = 100 * 365 * 86400.0
"""Seconds; the longest retention that S3 allows."""

SPARE = 4
"""A lock lasts longer than the policy's time by that time divided by this number.

So the lock of a pack that daily points share is extended about once in that extra time, not every day.
"""

_LIMIT = 64 * KIB
_NAME = re.compile(PREFIX + r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class LockPolicy:
    """Everything that a point needs is locked for ``seconds`` from the start of its run.

    New locks have this ``mode``.
    """

    mode: LockMode
    seconds: float

    @property
    def spare(self) -> float:
        """Seconds by which locks last longer than points need."""
        return self.seconds / SPARE

    def lock(self, now: float) -> ObjectLock:
        """Return a lock that is made at ``now``, by the store's clock."""
        return ObjectLock(self.mode, now + self.seconds + self.spare)


class _Body(msgspec.Struct, frozen=True):
    mode: LockMode
    seconds: float
    version: int = VERSION


_BODIES = msgspec.json.Decoder(_Body)


def decode(content: bytes, name: str) -> LockPolicy | None:
    """Parse the content of a record's box; None if it says that nothing is locked. Raises DamagedData."""
    try:
        body = _BODIES.decode(content)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise DamagedData(f"{name} is damaged: {error}") from error
    if body.version > VERSION or not 0 <= body.seconds <= LONGEST:
        raise DamagedData(f"{name} is damaged or of a newer format: it holds an invalid lock period")
    return LockPolicy(body.mode, body.seconds) if body.seconds else None


def strictest(policies: Iterable[LockPolicy | None]) -> LockPolicy | None:
    """Return the longest period with the strictest mode of some policies."""
    found = [policy for policy in policies if policy is not None]
    if not found:
        return None
    modes = {policy.mode for policy in found}
    mode = LockMode.COMPLIANCE if LockMode.COMPLIANCE in modes else LockMode.GOVERNANCE
    return LockPolicy(mode, max(policy.seconds for policy in found))


def vital_lock(store: Store, policy: LockPolicy | None) -> ObjectLock | None:
    """Return the lock for a new object that every restore needs; None if no lock is needed.

    It lasts at least as long as the descriptor's lock, which outlasts those of all points. The policy may
    have been longer before, and the claims of older points must still hold.
    """
    now = store.locks.now()
    try:
        older = store.locks.lock_of(descriptor.NAME)
    except ObjectNotFound:  # it is the last object of 'init'
        older = None
    if policy is None:
        return older if older is not None and older.until > now else None
    lock = policy.lock(now)
    return lock if older is None else ObjectLock(lock.mode, max(lock.until, older.until))


class LockPolicies(Scoped):
    """The records of one repository."""

    def __init__(self, store: Store, boxes: Boxes) -> None:
        self._store = store
        self.scope = store.scope
        self._boxes = boxes

    def names(self) -> list[str]:
        """Return the names of the records; none, and without a request, if the store cannot lock."""
        if not self._store.locks.possible:
            return []
        return [info.key for info in self._store.list(PREFIX) if info.size and _NAME.fullmatch(info.key)]

    def read(self) -> LockPolicy | None:
        """Return the policy; None if nothing is to be locked. Raises DamagedData, StoreError."""
        return strictest(self.records())

    def records(self) -> list[LockPolicy | None]:
        """Return the policy in each record; None stands for no locks. Raises DamagedData, StoreError."""
        return [self._read(name) for name in self.names()]

    def _read(self, name: str) -> LockPolicy | None:
        try:
            box = self._store.get(name, max_size=_LIMIT)
        except ObjectNotFound:  # replaced since the listing
            return None
        return decode(self._boxes.unpack(BoxKind.LOCK_POLICY, name, box, _LIMIT), name)

    def put(self, policy: LockPolicy | None) -> str:
        """Write a record, which is locked itself, and return its name. None stands for no locks.

        Raises UnsupportedByStore if the store does not lock.
        """
        name = PREFIX + secrets.token_hex(ID)
        body = _Body(LockMode.GOVERNANCE, 0.0) if policy is None else _Body(policy.mode, policy.seconds)
        box = self._boxes.pack(BoxKind.LOCK_POLICY, name, msgspec.json.encode(body))
        lock = vital_lock(self._store, policy)
        if lock is None:
            self._store.put_new(name, box)
        else:
            self._put_locked(name, box, lock)
        return name

    def _put_locked(self, name: str, box: bytes, lock: ObjectLock) -> None:
        """Raise UnsupportedByStore if the store accepts the lock and does not show it."""
        self._store.locking(lock).put_new(name, box)
        kept = self._store.locks.lock_of(name)
        if kept is None or (kept.mode, kept.until >= lock.until) != (lock.mode, True):
            self._store.delete([name])
            raise UnsupportedByStore(
                f"{self._store.url} accepts locks, but does not show them",
                advice="Allow s3:GetObjectRetention in the credentials' policy; else use another store.",
            )

    def delete(self, names: Sequence[str]) -> None:
        """Delete records."""
        self._store.delete(names)
