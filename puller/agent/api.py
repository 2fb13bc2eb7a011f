"""The use cases as plain functions: what ``import puller`` offers and what the command line calls."""

from __future__ import annotations

from collections.abc import Sequence

from puller.agent.backup import Frozen, Plan, ignore_frozen
from puller.agent.backup import backup as _backup
from puller.agent.check import CheckReport
from puller.agent.check import check as _check
from puller.agent.restore import Request, Restored
from puller.agent.restore import restore as _restore
from puller.agent.stats import Stats
from puller.agent.stats import stats as _stats
from puller.events import Observer, ignore
from puller.repository import repository as repositories
from puller.repository.points import Point
from puller.repository.repository import Repository
from puller.repository.slots import KeyFile, Password, Secret
from puller.store.location import open_store

DEFAULT_URI = "qemu:///system"


def create_repository(url: str, *, password: str | None = None, key_file: bytes | None = None) -> Repository:
    """Make a repository at ``url`` (``s3://bucket/prefix``, a folder, ``file:///folder``).

    It is encrypted, and opened by ``password`` or by the content of a key file (32 random bytes or
    more); with neither it is not encrypted. Raises RepositoryExists, NoBucket, StoreError, UsageError.
    """
    return repositories.create(open_store(url), _secret(password, key_file))


def open_repository(url: str, *, password: str | None = None, key_file: bytes | None = None) -> Repository:
    """Open the repository at ``url``. Raises NoRepository, WrongKey, UnsupportedFormat, StoreError."""
    return repositories.open_repository(open_store(url), _secret(password, key_file))


def _secret(password: str | None, key_file: bytes | None) -> Secret | None:
    if key_file is not None:
        return KeyFile(key_file)
    return None if password is None else Password(password)


def backup(  # noqa: PLR0913 - one keyword for each choice that a user has
    repository: Repository,
    domain: str,
    *,
    connect: str = DEFAULT_URI,
    disks: Sequence[str] = (),
    exclude: Sequence[str] = (),
    full: bool = False,
    scratch_dir: str | None = None,
    tags: dict[str, str] | None = None,
    observer: Observer = ignore,
    on_frozen: Frozen = ignore_frozen,
) -> Point:
    """Take one restore point of a running domain and return its record.

    ``disks`` and ``exclude`` are target names; ``full`` ignores earlier points. ``on_frozen`` is called
    with the exports once the point in time is frozen and before puller reads. Raises NoSuchDomain,
    NoSuchDisk, UnsupportedDisk, DomainNotRunning, JobRunning, Locked, ScratchFull, HypervisorError,
    NbdError, StoreError; whatever it raises, no job, scratch or new checkpoint is left behind.
    """
    plan = Plan(domain, connect, tuple(disks), tuple(exclude), full, scratch_dir, tags or {})
    return _backup(repository, plan, observer, on_frozen)


def list_points(repository: Repository, domain: str | None = None) -> list[Point]:
    """The restore points, oldest first; of one domain (name or UUID) if given. Raises DamagedData."""
    points = repository.points.all()
    return [point for point in points if domain is None or domain in (point.domain, point.uuid)]


def restore(  # noqa: PLR0913 - one keyword for each choice that a user has
    repository: Repository,
    point: str,
    *,
    output: str,
    disks: Sequence[str] = (),
    format: str = "raw",  # noqa: A002 - the field's word
    force: bool = False,
    salvage: bool = False,
    observer: Observer = ignore,
) -> Restored:
    """Write the disks of a point to ``output``: a folder, or with one disk a file, device or NBD URI.

    ``point`` is an id, a unique prefix, ``DOMAIN@latest`` or ``DOMAIN@TIME``. Raises NoSuchPoint,
    AmbiguousPoint, NoSuchDisk, OutputRefused, OutputFailed, DamagedData, StoreError.
    """
    request = Request(output, tuple(disks), format, force, salvage)
    return _restore(repository, repository.points.select(point), request, observer)


def check(
    repository: Repository,
    points: Sequence[str] = (),
    *,
    read_data: float = 0.0,
    observer: Observer = ignore,
) -> CheckReport:
    """Verify ``points`` (all if none): structure, and ``read_data`` percent of the stored chunks.

    Damage is reported, not raised. Raises NoSuchPoint, AmbiguousPoint, StoreError.
    """
    return _check(repository, points, read_data, observer)


def stats(repository: Repository) -> Stats:
    """What the repository holds."""
    return _stats(repository)
