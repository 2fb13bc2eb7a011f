"""Change the lock policy of a repository (docs/immutability.md)."""

from __future__ import annotations

from puller.errors import UsageError
from puller.repository.locking import Extension, StoreClock, vital_names
from puller.repository.records.lockpolicy import LONGEST, LockPolicy
from puller.repository.repository import Repository


def check_period(seconds: float) -> None:
    """Raise UsageError unless a lock can last this long."""
    if not 0 < seconds <= LONGEST:
        raise UsageError(
            f"cannot lock for {seconds / 86400:g} days",
            advice=f"Choose a period of at most {LONGEST / 86400:.0f} days.",
        )


def set_lock_policy(repository: Repository, policy: LockPolicy | None) -> None:
    """Replace the policy; None stands for no locks. See ``puller.set_lock``.

    The new record is put before older ones are deleted: in between, the stricter policy holds.
    """
    store, policies = repository.store, repository.lock_policies
    if policy is not None:
        check_period(policy.seconds)
        store.locks.require()
    older = policies.names()
    if policy is None and not older:
        return
    policies.put(policy)
    if policy is not None:
        clock = StoreClock(store)
        extension = Extension(store, repository.packs, policy, clock, clock.now() + policy.seconds)
        for _ in extension.objects(vital_names(store)):
            pass
    policies.delete(older)
