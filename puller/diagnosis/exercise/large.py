"""Large objects: their content, and ranges of it."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from puller.cancelling import CancelScope
from puller.diagnosis.exercise.consistency import Named
from puller.diagnosis.exercise.ground import Ground
from puller.diagnosis.exercise.plan import RANGE, RANGES, Plan
from puller.diagnosis.finding import Answer, fail, ok, warn
from puller.errors import DamagedData, ObjectNotFound, StoreError
from puller.store.base import Store
from puller.store.parallel import each

if TYPE_CHECKING:
    from puller.store.s3.bucket import Bucket

READS = "Do not back up to this store: it does not return what it has stored."

_GAP = 4 << 10
"""Bytes between two ranges of one read."""


def examine(ground: Ground, plan: Plan, bucket: Bucket | None) -> Iterator[Named]:
    """Yield the names and answers of the checks; ``bucket`` is None for a directory. Raises StoreError."""
    content = memoryview(os.urandom(plan.large + 4096))
    # They differ, so that one in place of the other is noticed.
    bodies = {
        f"{ground.folder}large/0": content[: plan.large],
        f"{ground.folder}large/1": content[4096 : plan.large + 4096],
    }
    for key, body in bodies.items():
        ground.store.put(key, body)
    whole = [compare(ground.store, key, body) for key, body in bodies.items()]
    yield "exercise-large", judge(whole, "large objects")
    key = next(iter(bodies))
    yield "exercise-ranges", _ranges(ground, key, bodies[key])
    yield "exercise-tail", _tails(ground.store, key, bodies[key])
    if bucket is not None:
        yield "exercise-if-match", _if_match(ground.store, bucket, key)


def compare(store: Store, key: str, body: memoryview) -> str:
    """Return what is wrong with a read of the object; empty if it returned ``body``."""
    try:
        found = store.get(key, max_size=len(body))
    except ObjectNotFound:
        return "could not be read"
    except DamagedData:
        return "are longer than what was put"
    if len(found) < len(body):
        return "are shorter than what was put"
    return "" if found == body else "had other content than was put"


def judge(outcomes: Sequence[str], things: str) -> Answer:
    """Return the answer to several outcomes of ``compare``."""
    for outcome in sorted({outcome for outcome in outcomes if outcome}):
        return fail(f"{outcomes.count(outcome)} of {len(outcomes)} {things} {outcome}", READS)
    return ok(f"{len(outcomes)} {things} had the content that was put")


def _ranges(ground: Ground, key: str, body: memoryview) -> Answer:
    """Read ranges of all kinds: at the start, across the end, behind others, of one byte."""
    chance = random.Random(len(body))
    longest = min(RANGE, len(body))
    inside = [(chance.randrange(len(body)), chance.randint(1, longest)) for _ in range(RANGES - 4)]
    wanted = [(0, 1), (0, len(body)), (len(body) - 1, 1), (len(body) - 10, 100), *inside]

    def read(scope: CancelScope, part: tuple[int, int]) -> str:
        found = ground.store.within(scope).get_range(key, *part)
        return _compare_range(found, body[part[0] : part[0] + part[1]])

    several = [(start, stop - start - 1) for start, stop in pairwise(range(0, 10 * _GAP, _GAP))]
    outcomes = list(each(ground.scope, read, wanted, 8))
    outcomes += [
        _compare_range(found, body[start : start + length])
        for found, (start, length) in zip(ground.store.get_ranges(key, several), several, strict=True)
    ]
    for outcome in sorted({outcome for outcome in outcomes if outcome}):
        return fail(f"{outcomes.count(outcome)} of {len(outcomes)} ranges {outcome}", READS)
    return ok(f"{len(outcomes)} ranges had the right content")


def _compare_range(found: bytes, expected: memoryview) -> str:
    if len(found) != len(expected):
        return "had another length than requested"
    return "" if found == expected else "had other content than was put"


def _tails(store: Store, key: str, body: memoryview) -> Answer:
    """Read the end of the object, as for the list of chunks of a pack."""
    for length in (10, 1000, len(body) + 1000):
        found, info = store.get_tail(key, length)
        if found != body[max(0, len(body) - length) :]:
            return fail(f"the last {length} bytes of a large object had other content than was put", READS)
        if info.size != len(body):
            return fail(
                f"a read of the end of a large object gave its size as {info.size} instead of {len(body)}",
                READS,
            )
    return ok("the ends of a large object had the right content")


def _if_match(store: Store, bucket: Bucket, key: str) -> Answer:
    try:
        served, refused = bucket.serves_range_if(key, store.stat(key).etag), True
        refused = not bucket.serves_range_if(key, '"00000000000000000000000000000000"')
    except StoreError as error:
        return warn(error.message, "Let no other program replace objects under the repository's prefix.")
    if not served:
        return fail("ranged reads with If-Match of the object's own ETag are refused", READS)
    if not refused:
        return warn(
            "the store ignores If-Match on ranged reads",
            "Let no other program replace objects under the repository's prefix: a read would not notice it.",
        )
    return ok("ranged reads honour If-Match")
