"""Repositories, their keys and their configuration."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from puller.api.arguments import (
    KeyRole,
    LockMode,
    check_lists,
    secret_of,
    working,
)
from puller.api.locking import policy_of
from puller.cancelling import CancelScope
from puller.errors import DamagedData, UsageError
from puller.events import Observer, ignore
from puller.repository import repository as repositories
from puller.repository.format.sealing import Cipher
from puller.repository.index.budget import BUDGET, LEAST_BUDGET
from puller.repository.keys.key_slots import Secret
from puller.repository.repository import Family, Repository
from puller.store.directory.filesystem import require_file_system
from puller.store.directory.folder import FolderStore
from puller.store.location import address, open_store
from puller.store.options import DEFAULTS, StoreOptions
from puller.store.wrapping.retrying import RetryingStore
from puller.units import MIB

if TYPE_CHECKING:
    from puller.configuration.file import Configuration
    from puller.diagnosis.exercise.exercise import ExerciseReport
    from puller.upkeep.keys import Key
    from puller.upkeep.repair import RepairReport
    from puller.upkeep.stats import Stats


def create_repository(  # noqa: PLR0913 - one keyword for each choice that a user has
    url: str,
    *,
    password: str | None = None,
    key_file: bytes | None = None,
    lock_mode: LockMode | None = None,
    lock_period: timedelta | None = None,
    like: Repository | None = None,
    like_password: str | None = None,
    like_key_file: bytes | None = None,
    store_options: StoreOptions = DEFAULTS,
) -> Repository:
    """Create a repository.

    Without ``password`` and ``key_file`` the repository is not encrypted.

    Args:
        url: ``s3://bucket/prefix``, a directory, or ``file:///directory``. The bucket, or the directory above
            the repository's own, must exist.
        password: The password that opens the repository.
        key_file: The content of a key file that opens the repository: 32 random bytes or more.
        lock_mode: ``governance`` or ``compliance``: lock what restore points need, as ``set_lock`` does. The
            bucket must have Object Lock. None locks nothing.
        lock_period: How long to lock it. Needed with ``lock_mode``.
        like: Use the master secret of this repository, so that ``copy_points`` between the two sends chunks
            as they are sealed. Both are encrypted, or neither is.
        like_password: A password that opens a key of ``like`` whose role is ``full``.
        like_key_file: The content of a key file that does. Default: ``password`` or ``key_file``.
        store_options: Options of the store, such as the storage class. Default: those of the bucket and the
            AWS profile.

    Returns:
        The open repository.

    Raises:
        RepositoryExists: There is a repository at this URL.
        WrongKey, KeyNotHeld: The password or key file opens no key of ``like`` whose role is ``full``.
        NoBucket: The bucket, or the directory above, does not exist.
        StoreError: The store cannot be reached or refuses.
        UnsupportedByStore: The store cannot lock objects, or the directory's file system cannot hold a
            repository. It is a StoreError.
        UsageError: The URL, password or key file cannot be used.

    Example:
        >>> repository = puller.create_repository("s3://backups/kvm", password="…")
    """
    secret = secret_of(password, key_file)
    policy = policy_of(lock_mode, lock_period)
    family = (
        None if like is None else _family(like, secret_of(like_password, like_key_file) or secret, secret)
    )
    store = open_store(url, store_options)
    if isinstance(store, FolderStore):
        require_file_system(Path(store.url))
    repository = repositories.create(RetryingStore(store), secret, address(store), policy, family)
    repository.store_options = store_options
    return repository


def _family(like: Repository, opener: Secret | None, secret: Secret | None) -> Family:
    """Return the family of ``like``, for a repository that ``secret`` will open."""
    if like.keys.cipher is Cipher.NONE and secret is not None:
        raise UsageError(
            f"cannot create an encrypted repository like {like.store.url}, which is not encrypted",
            advice="Create the new one without encryption, or without the master secret of the other.",
        )
    if like.keys.cipher is not Cipher.NONE and secret is None:
        raise UsageError(
            f"cannot create an unencrypted repository like {like.store.url}, which is encrypted",
            advice="Give the new repository a password or a key file.",
        )
    return repositories.family_of(like, opener)


def open_repository(  # noqa: PLR0913 - one keyword for each choice that a user has
    url: str,
    *,
    password: str | None = None,
    key_file: bytes | None = None,
    store_options: StoreOptions = DEFAULTS,
    index_budget: int | None = None,
    scope: CancelScope | None = None,
) -> Repository:
    """Open a repository.

    This host remembers the repository's id and whether it is encrypted. If another repository is there now,
    the attribute ``replaced`` of the result says so.

    Args:
        url: As for ``create_repository``.
        password: A password that opens the repository.
        key_file: The content of a key file that opens the repository.
        store_options: Options of the store, such as the storage class. Default: those of the bucket and the
            AWS profile.
        index_budget: The most that this host keeps of the repository's index, in bytes: 1 MiB or more. None
            stands for 256 MiB.
        scope: Ends all waits for the store when any thread calls its ``cancel``. Without a scope, nothing
            ends them early.

    Returns:
        The open repository. Threads can share it.

    Raises:
        NoRepository: There is no repository at this URL.
        WrongKey: The password or key file does not open the repository, or none was given.
        NotEncrypted: The repository is not encrypted, but a secret was given, or this host remembers an
            encrypted one. It is a WrongKey.
        UnsupportedFormat: A newer version of puller made the repository.
        StoreError: The store cannot be reached or refuses.
        UsageError: The URL or the budget cannot be used, or both a password and a key file were given.

    Example:
        >>> repository = puller.open_repository("s3://backups/kvm", password="…")
    """
    secret = secret_of(password, key_file)
    if index_budget is not None and index_budget < LEAST_BUDGET:
        raise UsageError(
            f"cannot keep an index in {index_budget} bytes",
            advice=f"Give index_budget at least {LEAST_BUDGET} bytes.",
        )
    store = open_store(url, store_options)
    repository = repositories.open_repository(RetryingStore(store, scope), secret, address(store))
    repository.store_options = store_options
    repository.index_budget = BUDGET if index_budget is None else index_budget
    return repository


def exercise_store(
    url: str,
    *,
    size: int = 256 * MIB,
    store_options: StoreOptions = DEFAULTS,
) -> ExerciseReport:
    """Test the store of a repository under load, and measure it.

    This puts about 1,500 small objects, and ``size`` bytes in large ones, under the repository's ``locks/``.
    It deletes all of them at the end, even after a failure. It takes at most 5 minutes, and needs neither a
    password nor a key.

    Args:
        url: As for ``create_repository``. There must be a repository.
        size: The most bytes that are put in large objects: 1 MiB or more. A quarter more are read.
        store_options: Options of the store.

    Returns:
        All findings, including those without a fault, and the figures.

    Raises:
        UsageError: The URL, the size or the options cannot be used.

    Example:
        >>> report = puller.exercise_store("s3://backups/kvm", size=1 << 30)
        >>> [finding.text for finding in report.findings if finding.status is puller.Status.FAIL]
        []
    """
    if size < MIB:
        raise UsageError(
            f"cannot exercise a store with {size} bytes", advice=f"Give size at least {MIB} bytes."
        )
    from puller.diagnosis import doctor
    from puller.diagnosis.exercise.plan import Plan

    return doctor.exercise_store(open_store(url, store_options), Plan(size), str)


def list_keys(
    repository: Repository, *, password: str | None = None, key_file: bytes | None = None
) -> list[Key]:
    """List the keys that open the repository, oldest first.

    Args:
        repository: The repository.
        password: A password. The key that it opens has ``opened`` set.
        key_file: The content of a key file, likewise.

    Returns:
        The keys.

    Raises:
        WrongKey: The password or key file opens no key.
        StoreError: The store cannot be reached or refuses.
        UsageError: The repository is not encrypted.

    Example:
        >>> [(key.kind, key.role) for key in puller.list_keys(repository)]
        [('password', 'full')]
    """
    from puller.upkeep import keys

    return keys.list_keys(repository, secret_of(password, key_file))


def add_key(  # noqa: PLR0913 - one keyword for each choice that a user has
    repository: Repository,
    *,
    password: str | None = None,
    key_file: bytes | None = None,
    new_password: str | None = None,
    new_key_file: bytes | None = None,
    role: KeyRole = "full",
    label: str = "",
) -> str:
    """Add a key: let a new password or key file open the repository too.

    Args:
        repository: The repository, opened with a key whose role is ``full``.
        password: A password that opens a key whose role is ``full``.
        key_file: The content of a key file that does, instead.
        new_password: The new password.
        new_key_file: The content of the new key file, instead: 32 random bytes or more.
        role: ``full`` reads and writes everything. ``backup-only`` cannot read stored guest data.
        label: A text that ``list_keys`` shows. It is not secret. At most 200 characters.

    Returns:
        The id of the new key.

    Raises:
        WrongKey: The password or key file opens no key.
        KeyNotHeld: The role of the key that was given is not ``full``.
        StoreError: The store cannot be reached or refuses.
        UsageError: An argument cannot be used, or the repository is not encrypted.

    Example:
        >>> puller.add_key(repository, password="…", new_key_file=os.urandom(64), role="backup-only")
        '3f6d0a52c81b9e47'
    """
    new = secret_of(new_password, new_key_file)
    if new is None:
        raise UsageError("cannot add a key without a secret", advice="Give new_password or new_key_file.")
    from puller.upkeep import keys

    return keys.add_key(repository, secret_of(password, key_file), new, role, label)


def remove_key(repository: Repository, key: str) -> None:
    """Remove a key, so that it no longer opens the repository.

    A copy of the store that somebody made before still opens with it.

    Args:
        repository: The repository, opened with a key whose role is ``full``.
        key: The id of the key.

    Raises:
        KeyNotHeld: The role of the key that opened the repository is not ``full``.
        StoreError: The store cannot be reached or refuses.
        UsageError: There is no such key, or it is the last one whose role is ``full``.

    Example:
        >>> puller.remove_key(repository, "3f6d0a52c81b9e47")
    """
    from puller.upkeep import keys

    keys.remove_key(repository, key)


def stats(
    repository: Repository,
    *,
    hosts: Sequence[str] = (),
    damaged: Callable[[str, DamagedData], None] | None = None,
) -> Stats:
    """Sum up what the repository holds. Reads all point records and lists all objects.

    Args:
        repository: The repository.
        hosts: Count only points that these hosts took; names or patterns.
        damaged: Called with the id and the error of each point whose record is damaged. Without it, the
            first such record raises DamagedData.

    Returns:
        Counts, and sizes in bytes.

    Raises:
        DamagedData: A record is damaged and ``damaged`` was not given.
        StoreError: The store cannot be reached or refuses.

    Example:
        >>> puller.stats(repository).stored_bytes
        3328599654
    """
    check_lists(hosts=hosts)
    from puller.upkeep import stats as statistics

    return statistics.stats(repository, damaged, hosts)


def repair_index(repository: Repository, *, observer: Observer = ignore) -> RepairReport:
    """Rebuild the index from the packs.

    Restores do not need the index. Backups without it store data again that the repository already has. No
    key that reads guest data is needed.

    Args:
        repository: The repository.
        observer: Receives events: steps and progress.

    Returns:
        How many packs the new index names, how many old index objects were removed, and which packs are
        damaged and left out.

    Raises:
        Locked: A prune or another repair is running.
        DamagedData: A condemned record is damaged; nothing was touched.
        StoreError: The store cannot be reached or refuses.

    Example:
        >>> puller.repair_index(repository).damaged
        ()
    """
    from puller.upkeep import repair

    return repair.repair_index(working(repository, "repository", observer), observer)


def read_configuration(path: str | None = None) -> Configuration:
    """Read a configuration file.

    Args:
        path: The file. Default: ``/etc/puller/puller.toml``; if that cannot be read, the configuration is
            empty.

    Returns:
        The configuration. ``jobs`` has its jobs by name, ``repositories`` its repositories.

    Raises:
        ConfigurationError: The file has mistakes. It is a UsageError, and names all of them.
        UsageError: The file cannot be read.

    Example:
        >>> job = puller.read_configuration("/etc/puller/puller.toml").job("nightly")
    """
    from puller.configuration import file

    return file.load(path)
