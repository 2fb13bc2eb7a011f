"""Conditional puts of one key by many writers at once."""

from __future__ import annotations

from collections.abc import Iterator

from puller.cancelling import CancelScope
from puller.diagnosis.exercise.consistency import Named
from puller.diagnosis.exercise.ground import Ground, numbered
from puller.diagnosis.exercise.plan import RACES, WRITERS
from puller.diagnosis.finding import Answer, fail, ok, warn
from puller.errors import DamagedData, ObjectExists, ObjectNotFound, UnsupportedByStore
from puller.store.base import Store
from puller.store.parallel import each

_ADVICE = "Use another server or release: two writers could replace each other's points and descriptors."

UNCONDITIONAL = warn(
    "the store does not honour If-None-Match",
    "Never run two 'puller init' at once: this store cannot separate them.",
)


def examine(ground: Ground) -> Iterator[Named]:
    """Yield the name and answer of the check. Raises StoreError."""
    try:
        winners = [_race(ground, key) for key in numbered(f"{ground.folder}races/", RACES)]
    except UnsupportedByStore:
        yield "exercise-races", UNCONDITIONAL
    else:
        yield "exercise-races", _judge(ground.store, winners)


def _race(ground: Ground, key: str) -> tuple[str, list[bytes]]:
    """Return the key and the bodies of the writers that have won."""

    def write(scope: CancelScope, number: int) -> bytes | None:
        body = f"writer {number} of {key}".encode()
        try:
            ground.store.within(scope).put_new(key, body)
        except ObjectExists:
            return None
        return body

    return key, [body for body in each(ground.scope, write, range(WRITERS), WRITERS) if body is not None]


def _judge(store: Store, races: list[tuple[str, list[bytes]]]) -> Answer:
    numbers = [len(won) for _, won in races]
    if all(number == WRITERS for number in numbers):
        return UNCONDITIONAL
    if several := sum(number > 1 for number in numbers):
        return fail(f"several of {WRITERS} writers of one new key won in {several} of {RACES} races", _ADVICE)
    if none := sum(number == 0 for number in numbers):
        return fail(f"none of {WRITERS} writers of one new key won in {none} of {RACES} races", _ADVICE)
    if replaced := sum(_content(store, key) != won[0] for key, won in races):
        return fail(f"the winner's content was replaced in {replaced} of {RACES} races", _ADVICE)
    return ok(f"one of {WRITERS} writers of one new key won in each of {RACES} races")


def _content(store: Store, key: str) -> bytes:
    try:
        return store.get(key, max_size=4096)
    except (ObjectNotFound, DamagedData):
        return b""
