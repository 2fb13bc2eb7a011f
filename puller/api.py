"""The use cases as plain functions: what ``import puller`` offers and what the command line calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Literal

from puller.errors import DamagedData, UsageError
from puller.events import Notice, Observer, ignore
from puller.recovery.restore import Request, Restored
from puller.recovery.restore import restore as _restore
from puller.repository import repository as repositories
from puller.repository.index.cache import BUDGET, LEAST_BUDGET
from puller.repository.keys.key_slots import FULL, KeyFile, Password, Secret
from puller.repository.points import Point
from puller.repository.repository import Repository
from puller.repository.writing.effort import HIGHEST, LOWEST
from puller.repository.writing.run import Tuning
from puller.store.location import address, open_store
from puller.store.patience import Patience, holding, long
from puller.store.retrying import RetryingStore
from puller.upkeep.check import CheckReport
from puller.upkeep.check import check as _check
from puller.upkeep.delete import delete as _delete
from puller.upkeep.keys import Key
from puller.upkeep.keys import add_key as _add_key
from puller.upkeep.keys import list_keys as _list_keys
from puller.upkeep.keys import remove_key as _remove_key
from puller.upkeep.prune import GRACE, PruneReport, preview
from puller.upkeep.prune import prune as _prune
from puller.upkeep.retention import Policy
from puller.upkeep.schedule import Reading
from puller.upkeep.stats import Stats
from puller.upkeep.stats import stats as _stats

if TYPE_CHECKING:
    from puller.backups.backup import FrozenHook
    from puller.backups.forget import Forgotten
    from puller.diagnosis.finding import Check

DEFAULT_URI = "qemu:///system"


def create_repository(url: str, *, password: str | None = None, key_file: bytes | None = None) -> Repository:
    """Make a repository at ``url`` (``s3://bucket/prefix``, a folder, ``file:///folder``).

    It is encrypted, and opened by ``password`` or by the content of a key file (32 random bytes or
    more); with neither it is not encrypted. Raises RepositoryExists, NoBucket, StoreError, UsageError.
    """
    store = open_store(url)
    return repositories.create(RetryingStore(store), _secret(password, key_file), address(store))


def open_repository(
    url: str,
    *,
    password: str | None = None,
    key_file: bytes | None = None,
    index_budget: int | None = None,
) -> Repository:
    """Open the repository at ``url``.

    ``index_budget`` is how many bytes this host may keep of the repository's index; None stands for 256 MiB.

    This host remembers its id and whether it is encrypted; ``replaced`` of the repository says what has
    changed since the first time. Raises NoRepository, WrongKey (also with a secret for a repository that is
    not encrypted), UnsupportedFormat, StoreError, UsageError.
    """
    if index_budget is not None and index_budget < LEAST_BUDGET:
        raise UsageError(f"cannot keep an index in {index_budget} bytes: {LEAST_BUDGET} are needed")
    store = open_store(url)
    opened = repositories.open_repository(RetryingStore(store), _secret(password, key_file), address(store))
    opened.index_budget = BUDGET if index_budget is None else index_budget
    return opened


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
    exclude_if_present: Sequence[str] = (),
    full: bool = False,
    compare: bool = False,
    compare_every: timedelta | None = None,
    scratch_dir: str | None = None,
    mode: str = "pull",
    quiesce: str = "auto",
    staging_dir: str | None = None,
    keep_staging: bool = False,
    tags: dict[str, str] | None = None,
    compression: int | Literal["auto"] = 1,
    limit_read: int | None = None,
    limit_upload: int | None = None,
    observer: Observer = ignore,
    on_frozen: FrozenHook | None = None,
) -> Point:
    """Take one restore point of a domain, running or shut off, and return its record.

    ``disks`` and ``exclude`` are target names of the domain, ``exclude_if_present`` such as it need not
    have. A domain without disks to take gets a point with its configuration. ``full`` ignores earlier points.
    ``compare`` reads all of the disks, whatever their dirty bitmaps say, and stores what differs from the
    last point; ``compare_every`` does so for disks that were not read as a whole for that long.
    ``quiesce`` is ``auto``, ``on`` or ``off``: whether the guest agent freezes the file systems for the
    instant of the freeze where it can, by all means, or not at all. ``on_frozen`` is called with the exports
    once the point in time is frozen and before puller reads.

    ``mode`` is ``pull`` or ``push``. In a push QEMU writes images into ``staging_dir``, which are read
    and removed; with ``keep_staging`` they stay, and events of class Kept tell where.

    ``compression`` is a level of zstd, 1 to 19; ``auto`` raises it while the store is slower than
    compression. The limits are in bytes a second, of all disks together; ``limit_upload`` rules packs only.

    Raises NoSuchDomain, NoSuchDisk, UnsupportedDisk, DomainNotRunning, NotQuiesced, JobRunning, Locked,
    ScratchFull, StagingFull, HypervisorError, NbdError, StoreError, UsageError. What fails before the
    commit leaves no job, scratch, staging or new checkpoint behind; what fails after it leaves a whole
    point, and the next run tidies up. An event of class Committed has the point as soon as it stands,
    whatever comes then. Raises JobLeftOpen if the job cannot be ended for 10 minutes after that.
    """
    # A host where one restores need not have libvirt's Python module.
    from puller.backups import backup as transaction
    from puller.hypervisor.guest.quiesce import Quiesce

    if mode not in (transaction.PULL, transaction.PUSH):
        raise UsageError(f"there is no mode {mode}: it is pull or push")
    if full and compare:
        raise UsageError(
            "cannot combine full and compare: a full backup compares with nothing",
            advice="Choose one of the two.",
        )
    plan = transaction.Plan(
        domain=domain,
        connect=connect,
        disks=tuple(disks),
        exclude=tuple(exclude),
        exclude_if_present=tuple(exclude_if_present),
        full=full,
        compare=compare,
        compare_every=compare_every,
        scratch_dir=scratch_dir,
        mode=mode,
        quiesce=Quiesce(quiesce),
        staging_dir=staging_dir,
        keep_staging=keep_staging,
        tags=tags or {},
        tuning=Tuning(level=_level(compression), upload_rate=_rate(limit_upload)),
        read_rate=_rate(limit_read),
    )
    return transaction.backup(repository, plan, observer, on_frozen or transaction.ignore_frozen)


def _level(compression: int | str) -> int | None:
    if compression == "auto":
        return None
    if not isinstance(compression, int) or not LOWEST <= compression <= HIGHEST:
        raise UsageError(f"'{compression}' is no compression: give a level of {LOWEST} to {HIGHEST}, or auto")
    return compression


def _rate(limit: int | None) -> int | None:
    if limit is not None and limit < 1:
        raise UsageError(f"a limit of {limit} bytes a second lets nothing through")
    return limit


def list_points(
    repository: Repository,
    domain: str | None = None,
    *,
    hosts: Sequence[str] = (),
    damaged: Callable[[str, DamagedData], None] | None = None,
) -> list[Point]:
    """The restore points, oldest first; of one domain (name or UUID) and of some ``hosts`` if given.

    A damaged record raises DamagedData, or is told to ``damaged`` with its point id where that is given.
    """
    stored = repository.points
    points = stored.all(damaged) if domain is None else stored.of(domain, damaged)
    return [point for point in points if point.is_from(hosts)]


def restore(  # noqa: PLR0913 - one keyword for each choice that a user has
    repository: Repository,
    point: str,
    *,
    output: str,
    hosts: Sequence[str] = (),
    disks: Sequence[str] = (),
    format: str = "raw",  # noqa: A002 - the field's word
    force: bool = False,
    salvage: bool = False,
    connect: str = DEFAULT_URI,
    observer: Observer = ignore,
) -> Restored:
    """Write the disks of a point to ``output``: a folder, or with one disk a file, device or NBD URI.

    ``point`` is an id, a unique prefix, ``DOMAIN@latest`` or ``DOMAIN@TIME``; of a domain those points count
    that ``hosts`` (names or patterns) have taken, all if none is given. ``force`` overwrites what exists, but
    nothing that is in use: running domains at ``connect`` and at ``DEFAULT_URI`` are asked, and the host
    is. A libvirt that cannot be asked is a notice.

    Raises NoSuchPoint, AmbiguousPoint (also if several hosts have points of the domain and ``hosts`` does not
    say which), NoSuchDisk, OutputRefused, OutputInUse, OutputFailed, DamagedData, StoreError.
    """
    libvirts = (connect, DEFAULT_URI)
    request = Request(output, tuple(dict.fromkeys(disks)), format, force, salvage, libvirts)
    with holding(_patience(point, observer)):
        return _restore(repository, repository.points.select(point, hosts), request, observer)


def check(  # noqa: PLR0913 - one keyword for each choice that a user has
    repository: Repository,
    points: Sequence[str | Point] = (),
    *,
    hosts: Sequence[str] = (),
    read_data: float = 0.0,
    max_age: timedelta | None = None,
    budget: timedelta | int | None = None,
    observer: Observer = ignore,
) -> CheckReport:
    """Verify ``points``, named as for ``restore`` or as records (all if none): structure, and ``read_data``
    percent of the stored data, the least recently verified first.

    With ``max_age`` read all that has not been verified for so long, with ``budget``, a time or a number of
    bytes, as much as it allows; both leave unopened what is not read. What is read and sound is recorded, so
    the next check goes on. Damage is reported, not raised, and recorded for later backups. Raises UsageError,
    NoSuchPoint, AmbiguousPoint, KeyNotHeld, StoreError.
    """
    reading = Reading(read_data, max_age, budget)
    with holding(_patience("repository", observer)):
        chosen = [
            item if isinstance(item, Point) else repository.points.select(item, hosts) for item in points
        ]
        return _check(repository, chosen, reading, observer)


def prune(
    repository: Repository, policy: Policy, *, grace: timedelta = GRACE, observer: Observer = ignore
) -> PruneReport:
    """Remove the points that ``policy`` does not keep, and what has been condemned for ``grace`` or longer.

    A policy without rules keeps all points. With a grace time of nothing, what is unreachable is removed
    at once, and runs that have begun before may fail. Raises UsageError, Locked, DamagedData, StoreError.
    """
    with holding(_patience("repository", observer)):
        return _prune(repository, policy, grace, observer)


def _patience(subject: str, observer: Observer) -> Patience:
    """With a store that gives no answer; ``observer`` is told."""
    return long(lambda text: observer(Notice(subject, text)))


def preview_prune(repository: Repository, policy: Policy) -> PruneReport:
    """What ``prune`` would do with the points, and why; its counts are 0. Raises DamagedData, StoreError."""
    return preview(repository, policy)


def delete(repository: Repository, points: Sequence[str], *, hosts: Sequence[str] = ()) -> tuple[str, ...]:
    """Delete ``points``, named as for ``restore``, and return their ids. ``prune`` frees the space.

    All are looked up before any is deleted. Raises NoSuchPoint, AmbiguousPoint, DamagedData, StoreError.
    """
    return _delete(repository, points, hosts)


def list_keys(
    repository: Repository, *, password: str | None = None, key_file: bytes | None = None
) -> list[Key]:
    """The keys that open the repository, oldest first; the one that the secret opens says so.

    Raises UsageError if the repository is not encrypted, WrongKey if the secret opens none, StoreError.
    """
    return _list_keys(repository, _secret(password, key_file))


def add_key(  # noqa: PLR0913 - one keyword for each choice that a user has
    repository: Repository,
    *,
    password: str | None = None,
    key_file: bytes | None = None,
    new_password: str | None = None,
    new_key_file: bytes | None = None,
    role: str = FULL,
    label: str = "",
) -> str:
    """Let a new password or key file open the repository too, and return the id of its key.

    ``password`` or ``key_file`` is one that opens it already, of the role ``full``. ``role`` is ``full``
    or ``backup-only``. Raises UsageError, KeyNotHeld, WrongKey, StoreError.
    """
    new = _secret(new_password, new_key_file)
    if new is None:
        raise UsageError("the new key needs a password or a key file")
    return _add_key(repository, _secret(password, key_file), new, role, label)


def remove_key(repository: Repository, key: str) -> None:
    """Remove the key with this id. A copy of the store that somebody kept still opens with it.

    Raises UsageError if there is none or it is the last of the role ``full``, KeyNotHeld, StoreError.
    """
    _remove_key(repository, key)


def stats(
    repository: Repository,
    *,
    hosts: Sequence[str] = (),
    damaged: Callable[[str, DamagedData], None] | None = None,
) -> Stats:
    """What the repository holds. ``hosts`` (names or patterns) limits the points that are counted.

    A damaged point record raises DamagedData, or is told to ``damaged`` with its point id, where given.
    """
    return _stats(repository, damaged, hosts)


def doctor(  # noqa: PLR0913 - one keyword for each choice that a user has
    url: str,
    opener: Callable[[], Repository],
    *,
    connect: str = DEFAULT_URI,
    domains: Sequence[str] = (),
    excluded: Sequence[str] = (),
    disks: Sequence[str] = (),
    exclude_disks: Sequence[str] = (),
    mode: str = "pull",
    scratch_dir: str | None = None,
    staging_dir: str | None = None,
) -> list[Check]:
    """Ask host, ``domains`` (all if none) and the store at ``url`` for what would break a backup.

    Domains may be patterns; ``excluded`` are left out. The rest says how ``backup`` would take them.

    ``opener`` opens the repository there; what it raises is a finding, like all else that fails. Raises
    UsageError if ``url`` is none.
    """
    from puller.diagnosis import doctor as examining

    examination = examining.Examination(
        connect,
        tuple(domains),
        tuple(excluded),
        tuple(disks),
        tuple(exclude_disks),
        mode,
        scratch_dir,
        staging_dir,
    )
    return list(examining.doctor(open_store(url), opener, examination))


def forget(
    repository: Repository, domain: str, *, connect: str = DEFAULT_URI, observer: Observer = ignore
) -> Forgotten:
    """Remove this repository's checkpoints and dirty bitmaps from a domain, running or shut off.

    Returns what was removed. Those of other repositories and programs stay, and so do the restore points. The
    next backup is a rehash: it reads all data of every disk and stores only what differs from the last point.

    Raises NoSuchDomain, JobRunning, Locked, UnsupportedDisk, HypervisorError, NbdError, StoreError. For a
    domain that is shut off, Locked also means that another program uses an image, and UnsupportedDisk that an
    image is not on this host. After an error, call it again to remove the rest.
    """
    from puller.backups import forget as forgetting

    return forgetting.forget(repository, domain, connect, observer)
