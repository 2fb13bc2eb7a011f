"""The protocol of all stores, and its values.

A store holds *objects*: byte strings under a key. Keys are relative to the root of the repository, which
only the store knows (a directory, or a bucket with a prefix). All stores behave alike, and one contract suite
in the tests verifies that.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, Self

from puller.cancelling import CancelScope
from puller.errors import DamagedData
from puller.store.objectlock import Locks, ObjectLock

Body = bytes | bytearray | memoryview
"""Body of an object. A memoryview must be contiguous, of format ``B``, and unchanged during the put."""


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """Facts about an object without its content.

    ``size`` is in bytes, ``modified`` in seconds since the epoch by the store's clock. ``etag`` is
    opaque: it differs whenever the content was put again with other bytes.
    """

    key: str
    size: int
    modified: float
    etag: str


class Store(Protocol):
    """Objects by key. All methods may be called from many threads at once.

    Every method may raise ``StoreUnavailable``, ``StoreDenied``, ``NoBucket`` or another
    ``StoreError``; the docstrings name only other errors. A key that ``validate_key`` refuses raises
    ``ValueError``, because puller creates all keys, never users.
    """

    scope: CancelScope
    """The scope of its waits."""

    def within(self, scope: CancelScope) -> Self:
        """Return the same store with waits that belong to ``scope``, which notes progress of transfers."""
        ...

    def locking(self, lock: ObjectLock) -> Self:
        """Return the same store, whose puts lock what they put.

        Raises UnsupportedByStore if this kind of store cannot: see ``Locks.require``.
        """
        ...

    @property
    def locks(self) -> Locks:
        """Locks and versions of its objects. Their waits belong to ``scope``."""
        ...

    @property
    def url(self) -> str:
        """URL of the store, for messages. Never holds credentials."""
        ...

    def get(self, key: str, *, max_size: int | None = None) -> bytes:
        """Return the whole object.

        Raises ``ObjectNotFound``; ``DamagedData`` if the object is larger than ``max_size`` bytes,
        before any of it is read.
        """
        ...

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        """Return ``length`` bytes (at least 1) from ``offset``; fewer only where the object ends.

        Raises ``ObjectNotFound``.
        """
        ...

    def get_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Return what ``get_range`` returns for each (offset, length).

        It is one call, whose waits and retries are counted together. Raises ``ObjectNotFound``.
        """
        ...

    def get_tail(self, key: str, length: int) -> tuple[bytes, ObjectInfo]:
        """Return the last ``length`` bytes (at least 1), or all of a shorter object, and its info.

        Both are of the same version of the object. Raises ``ObjectNotFound``.
        """
        ...

    def put(self, key: str, body: Body) -> None:
        """Create or replace the object: atomic for all readers, durable when it returns.

        Raises ``StoreFull``.
        """
        ...

    def put_new(self, key: str, body: Body) -> None:
        """Create the object unless the key exists; of many concurrent calls, one succeeds.

        Raises ``ObjectExists`` if the key exists, ``StoreFull``. Over a network, ``ObjectExists`` can mean
        that this call was carried out, its answer lost and the request repeated: ``RetryingStore`` reads the
        object back and compares. After any other error it is also unknown whether the object was created.
        Some S3 servers ignore the condition: see ``puller.store.probe``.
        """
        ...

    def stat(self, key: str) -> ObjectInfo:
        """Return the object's info. Raises ``ObjectNotFound``."""
        ...

    def exists(self, key: str) -> bool:
        """Return whether a listing has the object: unlike ``stat``, this needs only the right to list."""
        ...

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Yield all objects whose key begins with ``prefix``, at any depth, sorted by key.

        ``prefix`` is empty or ends in ``/``. Foreign names (see ``is_foreign``) are omitted. Objects that
        are put or deleted meanwhile may be listed or not. Servers that store keys as directories
        (SeaweedFS) sort ``a/x`` before ``a-b``, S3 after it; for names of one length, such as the
        repository's, the order is the same.
        """
        ...

    def delete(self, keys: Iterable[str]) -> None:
        """Delete the objects, ignoring keys that do not exist.

        If some cannot be deleted, the others still are, as far as the store allows, and the first
        failure is raised. Deletion is durable when it returns.
        """
        ...

    def sweep(self, prefixes: Iterable[str], before: float) -> None:
        """Remove what interrupted puts have left at the top and below ``prefixes``.

        Only what was last written before ``before``, in seconds by the store's clock, is removed. No listing
        shows such leftovers. A store in which a put leaves nothing does nothing.
        """
        ...


def is_foreign(name: str) -> bool:
    """Return whether one segment of a key marks a foreign object: see *Objects* in ``docs/format.md``."""
    return name.startswith(".") or ".tmp-" in name


def is_key(key: str) -> bool:
    """Return whether ``key`` consists of segments joined by ``/``, none of them empty or foreign.

    ``.`` and ``..`` begin with a dot and so are foreign.
    """
    return "\0" not in key and not any(not segment or is_foreign(segment) for segment in key.split("/"))


def validate_key(key: str) -> str:
    """Return ``key``; raise ``ValueError`` unless ``is_key``."""
    if not is_key(key):
        raise ValueError(f"not an object key: {key!r}")
    return key


def validate_prefix(prefix: str) -> str:
    """Return ``prefix``; raise ``ValueError`` unless it is empty or a key followed by ``/``."""
    if prefix:
        validate_key(prefix.removesuffix("/"))
        if not prefix.endswith("/"):
            raise ValueError(f"a prefix ends in '/': {prefix!r}")
    return prefix


def validate_range(offset: int, length: int) -> None:
    """Raise ``ValueError`` unless ``offset`` is 0 or more and ``length`` is 1 or more."""
    if offset < 0 or length < 1:
        raise ValueError(f"not a range: {length} bytes at {offset}")


def check_size(key: str, size: int, max_size: int | None) -> None:
    """Raise ``DamagedData`` if the object's ``size`` is above what the caller is ready to read."""
    if max_size is not None and size > max_size:
        raise DamagedData(f"{key} has {size} bytes, but at most {max_size} are plausible")
