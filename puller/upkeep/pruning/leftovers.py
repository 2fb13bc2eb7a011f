"""Leftovers of puts and tests that a crash or a power cut interrupted: these are not objects."""

from __future__ import annotations

from puller.repository.collecting.disposal import Disposal
from puller.repository.collecting.lease import PREFIX
from puller.repository.format.names import FOLDERS, is_trial
from puller.store.base import Store

AGE = 86400.0
"""Seconds after which a leftover counts as abandoned: no put takes a day."""


def sweep(store: Store, disposal: Disposal, now: float) -> None:
    """Remove leftovers that are a day old at ``now``, the store's time. Raises StoreError."""
    limit = now - AGE
    trials = [info.key for info in store.list(PREFIX) if is_trial(info.key) and info.modified < limit]
    if trials:
        disposal.attempt(lambda: store.delete(trials))
    disposal.attempt(lambda: store.sweep(FOLDERS, limit))
