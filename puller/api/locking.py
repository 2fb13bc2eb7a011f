"""Locks of restore points."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, get_args

from puller.api.arguments import LockMode, secret_of
from puller.errors import UsageError
from puller.events import Observer, ignore
from puller.repository.records.lockpolicy import LockPolicy
from puller.repository.repository import Repository
from puller.store.location import open_store
from puller.store.objectlock import LockMode as _Mode
from puller.store.options import DEFAULTS, StoreOptions
from puller.store.wrapping.retrying import RetryingStore

if TYPE_CHECKING:
    from puller.upkeep.versions import VersionsReport


def policy_of(mode: LockMode | None, period: timedelta | None) -> LockPolicy | None:
    """Return the lock policy; None if neither argument is given. Raises UsageError."""
    if mode is None and period is None:
        return None
    if mode is None or period is None:
        raise UsageError("a lock needs both a mode and a period", advice="Give lock_mode and lock_period.")
    if mode not in get_args(LockMode):
        raise UsageError(f"invalid lock mode '{mode}'", advice="Use governance or compliance.")
    from puller.upkeep.lock import check_period

    check_period(period.total_seconds())
    return LockPolicy(_Mode(mode), period.total_seconds())


def lock_policy(repository: Repository) -> LockPolicy | None:
    """Return how long, and in which mode, new restore points are locked.

    Args:
        repository: The repository.

    Returns:
        The policy, or None if nothing is locked.

    Raises:
        DamagedData: A record of the policy is damaged.
        StoreError: The store cannot be reached or refuses.

    Example:
        >>> puller.lock_policy(repository).seconds / 86400
        30.0
    """
    return repository.lock_policies.read()


def set_lock(
    repository: Repository, *, mode: LockMode | None = None, period: timedelta | None = None
) -> None:
    """Lock everything that new restore points need, so that nobody can delete it until the locks end.

    Existing points are not locked, but the data that a new point shares with them is.

    Args:
        repository: The repository. Its bucket must have Object Lock.
        mode: ``governance`` or ``compliance``. With neither a mode nor a period, new points are not locked;
            existing locks stay.
        period: How long to lock it, counted from the start of each backup.

    Raises:
        UnsupportedByStore: The store cannot lock objects. It is a StoreError.
        StoreError: The store cannot be reached or refuses.
        UsageError: The mode or the period cannot be used.

    Example:
        >>> puller.set_lock(repository, mode="governance", period=timedelta(days=30))
    """
    from puller.upkeep.lock import set_lock_policy

    set_lock_policy(repository, policy_of(mode, period))


def repair_versions(  # noqa: PLR0913 - one keyword for each choice that a user has
    url: str,
    *,
    password: str | None = None,
    key_file: bytes | None = None,
    since: datetime | None = None,
    dry_run: bool = False,
    store_options: StoreOptions = DEFAULTS,
    observer: Observer = ignore,
) -> VersionsReport:
    """Bring back what somebody deleted or overwrote in a bucket that keeps versions.

    This removes the delete markers and newer versions above the oldest intact version of each object, and
    nothing else. Run ``repair_index`` and ``check`` afterwards.

    Args:
        url: ``s3://bucket/prefix``.
        password: A password that opens the repository.
        key_file: The content of a key file that opens the repository.
        since: Bring back only what was deleted or overwritten at this time or later, by the store's clock.
        dry_run: Count the objects, and change nothing.
        store_options: Options of the store.
        observer: Receives events: steps.

    Returns:
        How many objects of which kind were brought back, and which have no intact version.

    Raises:
        NoRepository: No descriptor can be brought back.
        WrongKey: The password or key file does not open the repository, or none was given.
        Locked: A prune is running.
        UnsupportedByStore: The store keeps no versions. It is a StoreError.
        StoreError: The store cannot be reached or refuses.
        UsageError: An argument cannot be used.

    Example:
        >>> puller.repair_versions("s3://vault/kvm", password="…").unreadable
        ()
    """
    from puller.upkeep import versions

    secret = secret_of(password, key_file)
    moment = since if since is None or since.tzinfo else since.replace(tzinfo=UTC)
    store = RetryingStore(open_store(url, store_options))
    return versions.repair_versions(store, secret, moment, dry_run, observer)
