"""Foreign objects in the repository: all commands ignore them, and report them once to the user."""

from __future__ import annotations

from collections.abc import Iterable

from puller.cancelling import CancelScope
from puller.repository.format.names import is_foreign
from puller.store.base import Store
from puller.store.parallel import READERS, each

ADVICE = "Remove them with the store's own tools if nobody needs them."

_SHOWN = 3


def foreign(store: Store, folders: Iterable[str]) -> list[str]:
    """Return the names of foreign objects in ``folders``, each ending in ``/``. Raises StoreError."""

    def find(scope: CancelScope, folder: str) -> list[str]:
        infos = store.within(scope).list(folder)
        return [info.key for info in infos if is_foreign(info.key, info.size)]

    return [key for keys in each(store.scope, find, folders, READERS) for key in keys]


def described(keys: list[str]) -> str:
    """Return one sentence about foreign objects."""
    shown = ", ".join(keys[:_SHOWN])
    more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
    return f"objects that are not puller's, or are empty, are ignored: {shown}{more}"
