"""Whether puts and deletions in a store take effect at once."""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Iterator

from puller.cancelling import CancelScope
from puller.diagnosis.exercise.ground import Ground, numbered
from puller.diagnosis.exercise.plan import ROUNDS, ROUNDS_AT_ONCE
from puller.diagnosis.finding import Answer, fail, ok, warn
from puller.errors import DamagedData, ObjectNotFound
from puller.store.base import Store
from puller.store.parallel import each

_CACHE = "Use an endpoint without a cache or a gateway between: a backup reads what it has just stored."
_LISTS = "Use a server whose lists are consistent: prune decides by lists what no point needs."

Named = tuple[str, Answer]


class Fault(enum.Enum):
    """A fault of one round; the value ends the sentence "N objects …"."""

    UNREAD = "could not be read right after their put"
    OTHER = "had other content right after their put"
    STALE = "were read with their old content right after they were replaced"
    UNLISTED = "were missing in the list right after their put"
    WRONG_SIZE = "had a wrong size in the list right after their put"
    UNDEAD = "could still be read right after they were deleted"
    STILL_LISTED = "were still listed right after they were deleted"


def examine(ground: Ground) -> Iterator[Named]:
    """Yield the names and answers of the checks. Raises StoreError."""

    def work(scope: CancelScope, key: str) -> frozenset[Fault]:
        return frozenset(_play(ground.store.within(scope), key))

    keys = numbered(f"{ground.folder}rounds/", ROUNDS)
    met = Counter(fault for faults in each(ground.scope, work, keys, ROUNDS_AT_ONCE) for fault in faults)
    yield (
        "exercise-read",
        _first(met, _CACHE, "could be read right after their put", Fault.UNREAD, Fault.OTHER),
    )
    yield "exercise-replace", _stale(met)
    yield (
        "exercise-list-put",
        _first(met, _LISTS, "were listed right after their put", Fault.UNLISTED, Fault.WRONG_SIZE),
    )
    yield "exercise-delete", _first(met, _CACHE, "were gone right after they were deleted", Fault.UNDEAD)
    yield (
        "exercise-list-delete",
        _first(met, _LISTS, "were not listed any more right after they were deleted", Fault.STILL_LISTED),
    )


def _first(met: Counter[Fault], advice: str, sound: str, *faults: Fault) -> Answer:
    for fault in faults:
        if met[fault]:
            return fail(f"{met[fault]} of {ROUNDS} objects {fault.value}", advice)
    return ok(f"{ROUNDS} objects {sound}")


def _stale(met: Counter[Fault]) -> Answer:
    if stale := met[Fault.STALE]:
        return warn(
            f"{stale} of {ROUNDS} objects {Fault.STALE.value}",
            "Look for a cache between this host and the store; puller itself replaces no object.",
        )
    return ok(f"{ROUNDS} objects were read with their new content right after they were replaced")


def _play(store: Store, folder: str) -> Iterator[Fault]:
    """Put, read, list, replace and delete one object. It is absent at first, which a cache may remember."""
    key = f"{folder}/object"
    old, new = f"old {key}".encode(), f"the new content of {key}".encode()
    _is_there(store, key)
    store.put(key, old)
    if (found := _read(store, key, old)) is not None:
        yield found
    sizes = {info.key: info.size for info in store.list(f"{folder}/")}
    if key not in sizes:
        yield Fault.UNLISTED
    elif sizes[key] != len(old):
        yield Fault.WRONG_SIZE
    store.put(key, new)
    if _read(store, key, new) is not None:
        yield Fault.STALE
    store.delete([key])
    if any(info.key == key for info in store.list(f"{folder}/")):
        yield Fault.STILL_LISTED
    if _is_there(store, key):
        yield Fault.UNDEAD


def _read(store: Store, key: str, content: bytes) -> Fault | None:
    try:
        return None if store.get(key, max_size=len(content) * 2) == content else Fault.OTHER
    except ObjectNotFound:
        return Fault.UNREAD
    except DamagedData:  # it is larger
        return Fault.OTHER


def _is_there(store: Store, key: str) -> bool:
    try:
        store.stat(key)
    except ObjectNotFound:
        return False
    return True
