"""Find out whether a store honours conditional writes."""

from __future__ import annotations

import secrets
from contextlib import suppress

from puller.errors import ObjectExists, StoreDenied, UnsupportedByStore
from puller.store.base import Store
from puller.store.directory.mounts import sync_folder
from puller.store.location import FolderLocation, parse

UNCONDITIONAL = (
    "this store does not honour conditional writes, so it may replace an object that should be new: "
    "never let two 'init' run there at once"
)
"""Notice if ``honours_put_if_absent`` returned False."""

_FIRST = b"This object tests whether the store honours a put that asks for absence.\n"
_SECOND = b"The store does not honour it.\n"


UNSYNCED = (
    "this file system cannot sync directories: a crash of its host or server may lose data stored in the "
    "seconds before"
)


def shortcomings(url: str, conditional: bool) -> tuple[str, ...]:
    """Yield what the store at ``url`` lacks; ``conditional`` is the result of ``honours_put_if_absent``."""
    place = parse(url)
    synced = not isinstance(place, FolderLocation) or sync_folder(place.path)
    return (() if conditional else (UNCONDITIONAL,)) + (() if synced else (UNSYNCED,))


def honours_put_if_absent(store: Store, key_prefix: str) -> bool:
    """Return whether ``put_new`` refuses an existing key; tried on a random key, deleted afterwards.

    The key is ``key_prefix`` and 32 hexadecimal digits. Some S3 servers ignore ``If-None-Match``, some
    refuse it as not implemented: both are False. Raises the errors of ``Store`` if the store cannot be
    written to.
    """
    key = key_prefix + secrets.token_hex(16)
    try:
        return _refuses_second(store, key)
    except UnsupportedByStore:
        return False
    finally:
        with suppress(StoreDenied):  # foreign to the repository, and no harm where nothing can be deleted
            store.delete([key])


def _refuses_second(store: Store, key: str) -> bool:
    try:
        # Nobody else knows the key. If the first put finds it, it was this call's own request
        # repeated after a lost answer, and the store has shown that it honours the condition.
        store.put_new(key, _FIRST)
        store.put_new(key, _SECOND)
    except ObjectExists:
        return store.get(key, max_size=len(_FIRST)) == _FIRST
    return False
