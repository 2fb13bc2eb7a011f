"""Many small objects: a list of several answers, reads of any of them, and a deletion of all at once."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Sequence

from puller.cancelling import CancelScope
from puller.diagnosis.exercise.consistency import Named
from puller.diagnosis.exercise.ground import Ground, numbered
from puller.diagnosis.exercise.plan import CONNECTIONS, LISTED, SAMPLED
from puller.diagnosis.finding import Answer, fail, ok
from puller.errors import DamagedData, ObjectNotFound
from puller.store.base import ObjectInfo
from puller.store.parallel import each

_LISTS = "Use another server or release: prune and check rely on whole lists, and would damage points."
_READS = "Do not back up to this store: it does not return what it has stored."


def examine(ground: Ground) -> Iterator[Named]:
    """Yield the names and answers of the checks. Raises StoreError."""
    folder = f"{ground.folder}many/"
    keys = numbered(folder, LISTED)

    def put(scope: CancelScope, key: str) -> None:
        ground.store.within(scope).put(key, _body(key))

    def read(scope: CancelScope, key: str) -> bool:
        try:
            return ground.store.within(scope).get(key, max_size=8192) == _body(key)
        except (ObjectNotFound, DamagedData):
            return False

    deque(each(ground.scope, put, keys, CONNECTIONS[-1]), maxlen=0)
    yield "exercise-list-long", _compare(keys, tuple(ground.store.list(folder)))
    sample = keys[:: LISTED // SAMPLED][:SAMPLED]
    wrong = sum(not same for same in each(ground.scope, read, sample, CONNECTIONS[-1]))
    yield "exercise-small", _small(wrong)
    ground.store.delete(keys)
    yield "exercise-delete-many", _deleted(sum(1 for _ in ground.store.list(folder)))


def _body(key: str) -> bytes:
    """Return a content of its own for each key, of 1 to 4096 bytes."""
    number = int(key[-5:])
    return f"{number:05} {key} ".encode().ljust(4096, b".")[: number * 97 % 4096 + 1]


def _compare(keys: Sequence[str], listed: Sequence[ObjectInfo]) -> Answer:
    counted = Counter(info.key for info in listed)
    sizes = {key: len(_body(key)) for key in keys}
    wrong = sum(info.size != sizes[info.key] for info in listed if info.key in sizes)
    order = [info.key for info in listed]
    if missing := sum(key not in counted for key in keys):
        return fail(f"{missing} of {len(keys)} objects were missing in one list", _LISTS)
    if repeated := sum(count > 1 for count in counted.values()):
        return fail(f"{repeated} of {len(keys)} objects were repeated in one list", _LISTS)
    if wrong:
        return fail(f"{wrong} of {len(keys)} objects had a wrong size in one list", _LISTS)
    if order != sorted(order):
        return fail(f"a list of {len(keys)} objects was not in the order of keys", _LISTS)
    return ok(f"a list of {len(keys)} objects was complete, in order and without repetitions")


def _small(wrong: int) -> Answer:
    if wrong:
        return fail(f"{wrong} of {SAMPLED} small objects had other content or could not be read", _READS)
    return ok(f"{SAMPLED} small objects had the content that was put")


def _deleted(left: int) -> Answer:
    if left:
        return fail(
            f"{left} of {LISTED} objects were still listed after a deletion of all of them",
            "Use another server or release: prune would free less than it reports.",
        )
    return ok(f"{LISTED} objects were gone after a deletion of all of them")
