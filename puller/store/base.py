"""The protocol that every store keeps, and the values it speaks in.

A store holds *objects*: byte strings under a key. Keys are relative to the root of the repository;
where that root is (a folder, a bucket with a prefix) is the store's own business. All stores behave
alike, and one contract suite in the tests holds them to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol, Self

from puller.cancelling import CancelScope
from puller.errors import DamagedData

Body = bytes | bytearray | memoryview
"""What can be stored. A memoryview must be contiguous, of format ``B``, and stay unchanged during the put."""


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """What a store tells about an object without its content.

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
    ``StoreError``; the docstrings name only what is particular. A key that ``validate_key`` refuses
    is a ``ValueError``: keys are made by puller, never by users.
    """

    scope: CancelScope
    """What its waits belong to."""

    def within(self, scope: CancelScope) -> Self:
        """Return the same store with waits that belong to ``scope``, which is told when bytes come or go."""
        ...

    @property
    def url(self) -> str:
        """Where the store is, for messages. Never holds credentials."""
        ...

    def get(self, key: str, *, max_size: int | None = None) -> bytes:
        """Return the whole object.

        Raises ``ObjectNotFound``; ``DamagedData`` if the object is larger than ``max_size`` bytes,
        before anything of it is read.
        """
        ...

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        """Return ``length`` bytes (at least 1) from ``offset``; fewer only where the object ends.

        Raises ``ObjectNotFound``.
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
        """Create the object unless the key is taken; of many that try at once, one wins.

        Raises ``ObjectExists`` if the key is taken, ``StoreFull``. Over a network, ``ObjectExists``
        can mean that this very call was carried out, its answer lost and the request repeated:
        ``RetryingStore`` reads the object back and compares. After any other error too it is unknown
        whether the object came to be. Some S3 servers ignore the condition: see ``puller.store.probe``.
        """
        ...

    def stat(self, key: str) -> ObjectInfo:
        """Return the object's info. Raises ``ObjectNotFound``."""
        ...

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Yield all objects whose key begins with ``prefix``, at any depth, sorted by key.

        ``prefix`` is empty or ends in ``/``. Foreign names (see ``is_foreign``) are left out. Objects
        that are put or deleted meanwhile may be told or not. Servers that keep keys as folders
        (SeaweedFS) sort ``a/x`` before ``a-b``, S3 after it; among names of one length, as the
        repository's are, there is no difference.
        """
        ...

    def delete(self, keys: Iterable[str]) -> None:
        """Delete the objects; keys that are absent already are fine.

        If some cannot be deleted the others still are, as far as the store allows, and the first
        failure is raised.
        """
        ...


def is_foreign(name: str) -> bool:
    """Tell whether one segment of a key is no object of ours: see *Objects* in ``docs/format.md``."""
    return name.startswith(".") or ".tmp-" in name


def is_key(key: str) -> bool:
    """Tell whether ``key`` is segments joined by ``/``, none of them empty or foreign.

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
        raise DamagedData(f"{key} has {size} bytes, where at most {max_size} are plausible")
