"""Reading of index objects: a whole object, its table, or as much as a sample of ids needs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress

from puller.errors import DamagedData, ObjectChanged, ObjectNotFound
from puller.repository.format.index import (
    INDEX_PREFIX,
    LIMIT,
    IndexHead,
    IndexPart,
    PackEntry,
    decode_head,
    decode_rows,
    decode_table,
)
from puller.repository.format.sealing import Keys
from puller.store.base import ObjectInfo, Store
from puller.units import KIB

_USELESS = DamagedData, ObjectNotFound, ObjectChanged

_NAME = re.compile(INDEX_PREFIX + r"[0-9a-f]{32}")

_TABLE_SHARE = 160
"""Estimated ratio of an index object to its table, so that one request fetches a sample."""

_LEAST = 8 * KIB
"""Bytes that the first request asks for beyond that: header, seals, the block in which the sample ends."""


def list_index(store: Store) -> Iterator[ObjectInfo]:
    """Return the index objects. Objects with other names and empty ones are foreign."""
    return (info for info in store.list(INDEX_PREFIX) if info.size and _NAME.fullmatch(info.key))


def read_packs(store: Store, keys: Keys, info: ObjectInfo) -> list[PackEntry] | None:
    """Return the packs in an index object; None if it is damaged or gone. Raises StoreError."""
    with suppress(*_USELESS):
        return decode_table(keys, info.key, *_start(store, keys, info, 0.0))
    return None


def read_index(store: Store, keys: Keys, info: ObjectInfo, share: float = 1.0) -> IndexPart | None:
    """Return an index object's packs, and its first rows, at least ``share`` of all.

    None if it is damaged or gone: the index is never needed. Raises StoreError.
    """
    with suppress(*_USELESS):
        head, start = _start(store, keys, info, share)
        return IndexPart(decode_table(keys, info.key, head, start), decode_rows(keys, info.key, head, start))
    return None


def _start(store: Store, keys: Keys, info: ObjectInfo, share: float) -> tuple[IndexHead, bytes]:
    """The object up to the block in which the wanted rows end: in one request, if its packs are ordinary."""
    length = min(info.size, int(info.size * share) + info.size // _TABLE_SHARE + _LEAST)
    start = b"" if not 0 < info.size <= LIMIT else store.get_range(info.key, 0, length)
    head = decode_head(keys, info.key, start)
    if head.size != info.size:
        raise DamagedData(f"{info.key} is truncated")
    end = head.end_of(int(head.rows * share))
    if end > len(start):
        start += store.get_range(info.key, len(start), end - len(start))
    return head, start
