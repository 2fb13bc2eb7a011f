"""Object Lock: objects that nobody can delete before a given time, and versions of objects.

Only versions are locked. Deleting a name still hides it behind a *delete marker*, and putting it again hides
it behind a newer version; what is locked stays below and can be brought back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol, Self, TypeVar

from puller.errors import UnsupportedByStore

if TYPE_CHECKING:
    from puller.store.base import Store

T = TypeVar("T")


class LockMode(StrEnum):
    """Who can end a lock early: users with a special permission (governance), or nobody (compliance)."""

    GOVERNANCE = "governance"
    COMPLIANCE = "compliance"


@dataclass(frozen=True, slots=True)
class ObjectLock:
    """The lock of one version: it ends at ``until``, in seconds since the epoch by the store's clock."""

    mode: LockMode
    until: float


@dataclass(frozen=True, slots=True)
class ObjectVersion:
    """One version of an object, or a delete marker. ``modified`` is by the store's clock.

    ``version`` is the store's id of it. ``is_current`` says whether a read of the key finds it.
    """

    key: str
    version: str
    size: int
    modified: float
    is_marker: bool = False
    is_current: bool = False
    etag: str = ""


@dataclass(frozen=True, slots=True)
class VersionPage:
    """Some versions, the newest of a key first. ``following`` is the key and version to go on after, or None.

    A server may send the delete markers of a page after all other versions of it.
    """

    versions: tuple[ObjectVersion, ...]
    following: tuple[str, str] | None


class Locks(Protocol):
    """Locks and versions of a store's objects. Methods raise StoreError; ``version`` None is the current one.

    Where ``possible`` is False, all of them raise UnsupportedByStore.
    """

    @property
    def possible(self) -> bool:
        """Whether this kind of store can have locks; sends no request."""
        ...

    def require(self) -> None:
        """Raise UnsupportedByStore unless the store locks objects when it is asked to."""
        ...

    def now(self) -> float:
        """Return the store's time, in seconds since the epoch."""
        ...

    def lock_of(self, key: str, version: str | None = None) -> ObjectLock | None:
        """Return the lock, which may have ended. Raises ObjectNotFound."""
        ...

    def extend(self, key: str, lock: ObjectLock, version: str | None = None) -> None:
        """Lock an object, or lengthen its lock. Raises ObjectNotFound, or StoreDenied to shorten it."""
        ...

    def page(self, prefix: str, after: tuple[str, str] | None = None) -> VersionPage:
        """Return the versions of the keys that begin with ``prefix``, a page at a time."""
        ...

    def get_tail(self, key: str, version: str, length: int) -> bytes:
        """Return the last ``length`` bytes of a version, or all of a shorter one. Raises ObjectNotFound."""
        ...

    def delete(self, versions: Sequence[ObjectVersion]) -> tuple[ObjectVersion, ...]:
        """Delete versions and markers for good, at most 1000; return those that the store refuses to."""
        ...


@dataclass(frozen=True, slots=True)
class History:
    """All versions of one key. ``stored`` and ``markers`` have the newest first."""

    key: str
    stored: tuple[ObjectVersion, ...]
    markers: tuple[ObjectVersion, ...]

    @classmethod
    def of(cls, key: str, versions: Sequence[ObjectVersion]) -> History:
        """Return the history of ``versions``, in the order in which the store lists them."""
        return cls(
            key,
            tuple(item for item in versions if not item.is_marker),
            tuple(item for item in versions if item.is_marker),
        )

    @property
    def current(self) -> ObjectVersion | None:
        """The version that readers find; None if the key is deleted."""
        return next((item for item in self.stored if item.is_current), None)

    def shows(self, version: ObjectVersion) -> bool:
        """Whether readers find the content of ``version``."""
        return self.current is not None and _is_like(self.current, version)

    @property
    def was_overwritten(self) -> bool:
        """Whether the newest version has other content than the first."""
        return bool(self.stored) and not _is_like(self.stored[0], self.stored[-1])

    def hidden_since(self, version: ObjectVersion) -> float:
        """Return when content that readers do not find was deleted or overwritten, by the store's clock.

        A put that was repeated after a lost answer has the same content, and hides nothing.
        """
        newer = [item for item in self.stored[: self.stored.index(version)] if not _is_like(item, version)]
        times = [item.modified for item in (*newer, *self.markers) if item.modified >= version.modified]
        return min(times, default=version.modified)


def _is_like(version: ObjectVersion, other: ObjectVersion) -> bool:
    """Whether both are the same version or have the same content: nobody can choose the ETag of an object."""
    alike = bool(version.etag) and (version.etag, version.size) == (other.etag, other.size)
    return version.version == other.version or alike


def histories(locks: Locks, prefix: str) -> Iterator[History]:
    """Yield the histories of the keys that begin with ``prefix``. Raises StoreError."""
    after: tuple[str, str] | None = None
    open_: dict[str, list[ObjectVersion]] = {}
    while True:
        page = locks.page(prefix, after)
        for item in page.versions:
            open_.setdefault(item.key, []).append(item)
        after = page.following
        for key in list(open_):
            if after is None or key != after[0]:  # the next page may go on with the last key
                yield History.of(key, open_.pop(key))
        if after is None:
            return


class AskedLocks:
    """The locks of a wrapped store. ``ask`` calls its argument with that store."""

    def __init__(self, possible: bool, ask: Callable[[Callable[[Store], object]], object]) -> None:
        self._possible = possible
        self._ask = ask

    def _get(self, question: Callable[[Store], T]) -> T:
        return self._ask(question)  # type: ignore[return-value]

    @property
    def possible(self) -> bool:
        """See ``Locks.possible``."""
        return self._possible

    def require(self) -> None:
        """See ``Locks.require``."""
        self._get(lambda store: store.locks.require())

    def now(self) -> float:
        """See ``Locks.now``."""
        return self._get(lambda store: store.locks.now())

    def lock_of(self, key: str, version: str | None = None) -> ObjectLock | None:
        """See ``Locks.lock_of``."""
        return self._get(lambda store: store.locks.lock_of(key, version))

    def extend(self, key: str, lock: ObjectLock, version: str | None = None) -> None:
        """See ``Locks.extend``."""
        self._get(lambda store: store.locks.extend(key, lock, version))

    def page(self, prefix: str, after: tuple[str, str] | None = None) -> VersionPage:
        """See ``Locks.page``."""
        return self._get(lambda store: store.locks.page(prefix, after))

    def get_tail(self, key: str, version: str, length: int) -> bytes:
        """See ``Locks.get_tail``."""
        return self._get(lambda store: store.locks.get_tail(key, version, length))

    def delete(self, versions: Sequence[ObjectVersion]) -> tuple[ObjectVersion, ...]:
        """See ``Locks.delete``."""
        return self._get(lambda store: store.locks.delete(versions))


class NoLocks:
    """The locks of a store that cannot have any."""

    possible = False

    def __init__(self, url: str) -> None:
        self._url = url

    @property
    def refusal(self) -> UnsupportedByStore:
        """The error of every method."""
        return UnsupportedByStore(
            f"cannot lock objects in {self._url}: only S3 buckets have Object Lock",
            advice="Use a bucket that was created with Object Lock, or leave out the lock.",
        )

    def require(self) -> None:
        """See ``Locks.require``."""
        raise self.refusal

    def now(self) -> float:
        """See ``Locks.now``."""
        raise self.refusal

    def lock_of(self, key: str, version: str | None = None) -> ObjectLock | None:
        """See ``Locks.lock_of``."""
        raise self.refusal

    def extend(self, key: str, lock: ObjectLock, version: str | None = None) -> None:
        """See ``Locks.extend``."""
        raise self.refusal

    def page(self, prefix: str, after: tuple[str, str] | None = None) -> VersionPage:
        """See ``Locks.page``."""
        raise self.refusal

    def get_tail(self, key: str, version: str, length: int) -> bytes:
        """See ``Locks.get_tail``."""
        raise self.refusal

    def delete(self, versions: Sequence[ObjectVersion]) -> tuple[ObjectVersion, ...]:
        """See ``Locks.delete``."""
        raise self.refusal


class Unlockable:
    """The part of ``Store`` about locks, for stores that cannot have any."""

    @property
    def url(self) -> str:
        """See ``Store.url``."""
        raise NotImplementedError

    @property
    def locks(self) -> Locks:
        """See ``Store.locks``."""
        return NoLocks(self.url)

    def locking(self, lock: ObjectLock) -> Self:
        """See ``Store.locking``."""
        raise NoLocks(self.url).refusal
