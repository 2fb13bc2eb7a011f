"""The store: whether it answers, what the credentials allow, and the settings of its bucket."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

from puller.cancelling import CancelScope
from puller.diagnosis.finding import Answer, Finding, Status, ask, fail, ok, warn
from puller.errors import ObjectNotFound, StoreDenied, StoreError, UnsupportedByStore
from puller.repository.collecting.lease import PREFIX
from puller.repository.format.descriptor import NAME
from puller.repository.records.lockpolicy import PREFIX as LOCKING
from puller.repository.writing.pending import PREFIX as PENDING
from puller.store.base import Store
from puller.store.silence import request
from puller.store.trial import OPERATIONS, Trial, latency, try_store
from puller.store.wrapping.retrying import RetryingStore

if TYPE_CHECKING:
    from puller.store.s3.bucket import Bucket, LifecycleRule

SLOW = 1.0
"""Seconds of one lookup from which doctor warns. Every backup waits for several dozen of them."""

SKEW = 60.0
"""Seconds between the two clocks from which doctor warns; S3 refuses all requests at 900."""

_MAY_NOT_DELETE = "Allow s3:DeleteObject to prune and delete; a host that only backs up works without it."


def examine(store: Store, now: Callable[[], float] = time.time) -> Iterator[Finding]:
    """Check the store; checks that need its answer are skipped if it gives none."""
    asked = RetryingStore(store)  # no wait for an answer exceeds the policy of its scope
    reached = ask("store", store.url, partial(_reach, asked))
    yield reached
    if reached.status is Status.FAIL:
        return
    trial = try_store(asked, (PREFIX, PENDING), now) if holds_repository(asked) else None
    if trial is not None:
        yield from _examine_rights(store.url, trial)
    bucket = bucket_of(store)
    if bucket is not None and not (trial and trial.broke_off):
        yield from _examine_bucket(asked, bucket)


def holds_repository(store: Store) -> bool:
    """Return whether there may be a repository.

    Nothing is tried without one: a mistyped URL must leave no object in a foreign place.
    """
    try:
        store.stat(NAME)
    except ObjectNotFound:
        return False
    except StoreError:
        return True  # denied: the trial shows more
    return True


def _examine_rights(url: str, trial: Trial) -> Iterator[Finding]:
    for operation in OPERATIONS:
        yield ask(operation, url, partial(_right, url, trial, operation))
    yield ask("conditional-writes", url, partial(_conditional, trial))
    yield ask("clock", url, partial(_clock, trial))


def bucket_of(store: Store) -> Bucket | None:
    """Return the bucket of the store; None for a directory."""
    if not store.url.startswith("s3://"):
        return None
    # botocore is slow to load, and users of directories do not need it.
    from puller.store.s3.s3 import S3Store

    return store.bucket if isinstance(store, S3Store) else None


def _examine_bucket(store: Store, bucket: Bucket) -> Iterator[Finding]:
    url = store.url
    yield ask("versioning", url, partial(_where_told, partial(_versioning, store, bucket)))
    yield ask("object-lock", url, partial(_where_told, partial(_object_lock, bucket)))
    yield ask("lifecycle", url, partial(_where_told, partial(_lifecycle, bucket)))
    yield ask("differences", url, partial(_differences, bucket))


def _reach(store: Store) -> Answer:
    seconds = latency(store, NAME)
    text = f"answers in {seconds * 1000:.0f} ms"
    return ok(text) if seconds < SLOW else warn(text, "Use a nearer endpoint or a faster connection.")


def _right(url: str, trial: Trial, operation: str) -> Answer:
    if operation not in trial.outcomes:
        return _untried(trial, operation)
    error = trial.outcomes[operation]
    if error is None:
        return ok("allowed")
    in_bucket = isinstance(error, StoreDenied) and url.startswith("s3://")
    if operation == "delete" and isinstance(error, StoreDenied) and trial.outcomes["list"] is None:
        return warn(error.message, _MAY_NOT_DELETE if in_bucket else error.advice)
    return fail(error.message, error.advice)


def _untried(trial: Trial, operation: str) -> Answer:
    if trial.broke_off:
        return ok("not tried, because the store has stopped answering")
    if "put" in trial.outcomes:
        return ok("not tried, because the put failed")
    return warn(
        f"{operation} was not tried, because the object could not be deleted again",
        "Run doctor with credentials that may delete, or run a backup with these.",
    )


def _conditional(trial: Trial) -> Answer:
    match trial.conditional:
        case True:
            return ok("the store honours If-None-Match")
        case False:
            return warn(
                "the store does not honour If-None-Match",
                "Never run two 'puller init' at once: this store cannot separate them.",
            )
    return ok("not tried")


def _clock(trial: Trial) -> Answer:
    if trial.ahead is None:
        return ok("not known")
    if abs(trial.ahead) < SKEW:
        return ok("the clocks of host and store agree")
    way = "behind" if trial.ahead > 0 else "ahead of"
    return warn(
        f"this host's clock is {abs(trial.ahead):.0f} s {way} the store's clock",
        "Set this host's clock, with chrony or systemd-timesyncd; S3 refuses requests at 15 minutes.",
    )


def _where_told(question: Callable[[], Answer]) -> Answer:
    """A backup works without permission to read the bucket's settings, so lacking it is not a fault."""
    try:
        return request(CancelScope(), question)
    except (StoreDenied, UnsupportedByStore) as error:
        return ok(f"not known: {error.message}")


def _versioning(store: Store, bucket: Bucket) -> Answer:
    if not bucket.keeps_versions():
        return ok("no versions are kept")
    if any(rule.drops_versions for rule in _rules(bucket)):
        return ok("versions are kept, and a lifecycle rule removes old ones")
    if any(store.list(LOCKING)):
        return ok("versions are kept, and prune removes old ones once their locks end")
    return warn(
        "the bucket keeps a version of every deleted object forever: prune frees no space",
        "Add a lifecycle rule with NoncurrentVersionExpiration of a few days for the repository's prefix.",
    )


def _rules(bucket: Bucket) -> tuple[LifecycleRule, ...]:
    try:
        return bucket.lifecycle()
    except (StoreDenied, UnsupportedByStore):
        return ()


def _object_lock(bucket: Bucket) -> Answer:
    retention = bucket.default_retention()
    if retention is None:
        return ok("no default retention")
    return warn(
        f"Object Lock keeps each new object by default ({retention}): prune frees no space before that",
        "Keep it as a protection against deletion by intruders, and expect deleted data to use space "
        "for that time.",
    )


def _lifecycle(bucket: Bucket) -> Answer:
    rules = bucket.lifecycle()
    if expiring := [rule.name for rule in rules if rule.expires]:
        return fail(
            f"lifecycle rule {expiring[0]} deletes the repository's objects by age and will damage points",
            "Remove the rule, or exclude the repository's prefix from it; prune deletes unneeded data.",
        )
    if archiving := [rule.name for rule in rules if rule.archives]:
        return fail(
            f"lifecycle rule {archiving[0]} moves the repository's objects to an archive tier",
            "Remove the rule, or exclude the repository's prefix from it: archived objects cannot be read.",
        )
    return ok(
        f"lifecycle rules for the repository's prefix: {len(rules)}; none deletes or archives its objects"
    )


def _differences(bucket: Bucket) -> Answer:
    """Omit conditional writes, which have a check of their own."""
    from puller.store.s3.differences import NO_LONGER_CONDITIONAL

    met = [notice for notice in bucket.differences.notices if notice != NO_LONGER_CONDITIONAL]
    return ok("; ".join(met) or "none was met")
