"""The use cases as plain functions: what ``import puller`` offers and what the command line calls.

Sizes are in bytes, rates in bytes per second, and times have a time zone. Input that cannot be carried out is
refused with UsageError before anything is touched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, get_args

from puller.cancelling import CancelScope
from puller.configuration.job import Mode, QuiesceMode
from puller.errors import DamagedData, RollbackUnfinished, UsageError
from puller.events import Notice, Observer, ignore
from puller.recovery.diff import LIVE, PointDifference, diff_points, disk_difference
from puller.recovery.restore import Request, Restored
from puller.recovery.restore import restore as _restore
from puller.repository import repository as repositories
from puller.repository.index.cache import BUDGET, LEAST_BUDGET
from puller.repository.keys.key_slots import KeyFile, Password, Secret
from puller.repository.points import Point
from puller.repository.records.kept import Keep
from puller.repository.repository import Repository
from puller.repository.writing.effort import HIGHEST, LOWEST
from puller.repository.writing.run import Tuning
from puller.store.location import address, open_store
from puller.store.retrying import RetryingStore
from puller.upkeep.check import CheckReport
from puller.upkeep.check import check as _check
from puller.upkeep.delete import delete as _delete
from puller.upkeep.keep import KeptPoint, kept_points
from puller.upkeep.keep import keep as _keep
from puller.upkeep.keep import release as _release
from puller.upkeep.keys import Key
from puller.upkeep.keys import add_key as _add_key
from puller.upkeep.keys import list_keys as _list_keys
from puller.upkeep.keys import remove_key as _remove_key
from puller.upkeep.prune import GRACE, PruneReport, preview
from puller.upkeep.prune import prune as _prune
from puller.upkeep.repair import RepairReport
from puller.upkeep.repair import repair_index as _repair_index
from puller.upkeep.retention import Policy
from puller.upkeep.schedule import Reading
from puller.upkeep.stats import Stats
from puller.upkeep.stats import stats as _stats

if TYPE_CHECKING:
    from puller.backups.backup import FrozenHook
    from puller.backups.forget import Forgotten
    from puller.configuration.file import Configuration
    from puller.diagnosis.finding import Finding
    from puller.recovery.recreation import Recreated
    from puller.recovery.rollback import RolledBack

DEFAULT_URI = "qemu:///system"

ImageFormat = Literal["raw", "qcow2"]
"""The format of restored image files."""

KEEP, DISCONNECT = "keep", "disconnect"
"""What ``recreate`` takes for ``network`` beside the name of one."""

KeyRole = Literal["full", "backup-only"]
"""What a key can do: everything, or all that needs no stored guest data."""


def create_repository(url: str, *, password: str | None = None, key_file: bytes | None = None) -> Repository:
    """Create a repository.

    Without ``password`` and ``key_file`` the repository is not encrypted.

    Args:
        url: ``s3://bucket/prefix``, a directory, or ``file:///directory``. The bucket, or the directory above
            the repository's own, must exist.
        password: The password that opens the repository.
        key_file: The content of a key file that opens the repository: 32 random bytes or more.

    Returns:
        The open repository.

    Raises:
        RepositoryExists: There is a repository at this URL.
        NoBucket: The bucket, or the directory above, does not exist.
        StoreError: The store cannot be reached or refuses.
        UsageError: The URL, password or key file cannot be used.

    Example:
        >>> repository = puller.create_repository("s3://backups/kvm", password="…")
    """
    secret = _secret(password, key_file)
    store = open_store(url)
    return repositories.create(RetryingStore(store), secret, address(store))


def open_repository(
    url: str,
    *,
    password: str | None = None,
    key_file: bytes | None = None,
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
    secret = _secret(password, key_file)
    if index_budget is not None and index_budget < LEAST_BUDGET:
        raise UsageError(
            f"cannot keep an index in {index_budget} bytes",
            advice=f"Give index_budget at least {LEAST_BUDGET} bytes.",
        )
    store = open_store(url)
    repository = repositories.open_repository(RetryingStore(store, scope), secret, address(store))
    repository.index_budget = BUDGET if index_budget is None else index_budget
    return repository


def _secret(password: str | None, key_file: bytes | None) -> Secret | None:
    if password is not None and key_file is not None:
        raise UsageError("cannot use both a password and a key file", advice="Give one of the two.")
    if key_file is not None:
        return KeyFile(key_file)
    return None if password is None else Password(password)


def _check_choice(name: str, value: object, allowed: Any) -> None:
    """``allowed`` is one of the Literals above."""
    words = get_args(allowed)
    if value not in words:
        raise UsageError(f"invalid {name} '{value}'", advice=f"Set {name} to one of: {', '.join(words)}.")


def _check_lists(**lists: Sequence[object]) -> None:
    """A text is a sequence too, of its letters."""
    for name, value in lists.items():
        if isinstance(value, str):
            raise UsageError(f"{name} is the text '{value}'", advice=f"Use a list: {name}=['{value}'].")


def _check_times(**times: object) -> None:
    """A number would be of an unknown unit, and a text is for the command line."""
    for name, value in times.items():
        if value is not None and not isinstance(value, timedelta):
            raise UsageError(
                f"invalid {name} '{value}'", advice=f"Set {name} to a timedelta, such as timedelta(hours=36)."
            )


def _check_budget(value: object) -> None:
    """True is an integer too."""
    is_known = isinstance(value, timedelta | int) and not isinstance(value, bool)
    if value is not None and not is_known:
        raise UsageError(
            f"invalid budget '{value}'", advice="Set budget to a timedelta, or to a number of bytes, an int."
        )


def _check_until(value: object) -> None:
    """A date has no time of day."""
    if value is not None and not isinstance(value, datetime):
        raise UsageError(
            f"invalid until '{value}'",
            advice="Set until to a datetime, such as datetime(2027, 1, 31, tzinfo=UTC).",
        )


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
    mode: Mode = "pull",
    quiesce: QuiesceMode = "auto",
    staging_dir: str | None = None,
    keep_staging: bool = False,
    tags: dict[str, str] | None = None,
    compression: int | Literal["auto"] = 1,
    limit_read: int | None = None,
    limit_upload: int | None = None,
    observer: Observer = ignore,
    on_frozen: FrozenHook | None = None,
) -> Point:
    """Take one restore point of a domain, running or shut off.

    If the backup fails before the commit, no job, scratch image, staging image or new checkpoint stays. If it
    fails after the commit, the point stands, and the next backup tidies up. ``observer`` receives a
    ``Committed`` event with the point at the commit.

    Args:
        repository: Where to store the point.
        domain: The domain's name or UUID.
        connect: The connection URI of libvirt.
        disks: Targets of the only disks to back up, such as ``vda``. Without them, all disks that hold data
            are backed up, except shareable, transient, vhost-user and vhost-vdpa disks and luns. A domain
            without disks gets a point with its configuration alone.
        exclude: Targets of disks to leave out. The domain must have them.
        exclude_if_present: Targets of disks to leave out if the domain has them.
        full: Read all data of every disk, and build upon no earlier point.
        compare: Read all data of every disk without the dirty bitmaps, and store what differs from the last
            point. Cannot be combined with ``full``.
        compare_every: Do the same for disks whose last whole read is older than this.
        scratch_dir: Directory for the scratch images that hold overwritten guest data while the backup runs.
            Default: that of the domain's first image.
        mode: ``pull``: puller reads the frozen disks over NBD. ``push``: QEMU writes images into
            ``staging_dir``, which puller then reads and removes.
        quiesce: Whether to freeze the guest's file systems for the instant of the backup. ``auto``: if the
            guest agent answers. ``on``: fail if it cannot. ``off``: never.
        staging_dir: Directory for the images of a push. Default: the scratch directory.
        keep_staging: Keep the images of a push. A ``Kept`` event names the path of each.
        tags: Names and values to store in the point.
        compression: The zstd level, 1 (fastest) to 19 (smallest), or ``auto``: 1 to 10, raised while the
            upload is the bottleneck.
        limit_read: The highest read rate of all disks together, in bytes per second. Default: no limit.
        limit_upload: The highest average upload rate of packs, in bytes per second. Default: no limit.
        observer: Receives events: steps, progress and notices. An exception that it raises ends the backup.
        on_frozen: Called with the exports of the frozen disks before puller reads them. The content of the
            disks does not change until the backup ends.

    Returns:
        The record of the point; ``point.point`` is its id.

    Raises:
        NoSuchDomain: libvirt knows no such domain.
        NoSuchDisk: The domain has no such disk.
        UnsupportedDisk: A disk cannot be backed up.
        DomainNotRunning: The domain was powered off during the backup, or is in a state that excludes one.
        NotQuiesced: ``quiesce`` is ``on`` and the guest cannot be frozen.
        JobRunning: The domain has a backup job that is not puller's.
        Locked: Another run of puller backs up the domain.
        Overtaken: A prune may remove data that the point needs. Run the backup again.
        ScratchFull, StagingFull: Not enough space for scratch or staging images.
        HypervisorError, NbdError: libvirt or QEMU cannot be reached or refuses.
        StoreError: The store cannot be reached or refuses.
        DamagedData: An object that the backup needs is damaged.
        JobLeftOpen: The point stands, but its backup job could not be ended for 10 minutes.
        UsageError: An argument cannot be used; nothing was touched.

    Example:
        >>> point = puller.backup(repository, "web1", exclude=["vdb"], quiesce="on")
        >>> point.kind
        'incremental'
    """
    # A host where one restores need not have libvirt's Python module.
    from puller.backups import backup as transaction
    from puller.hypervisor.guest.quiesce import Quiesce

    _check_choice("mode", mode, Mode)
    _check_choice("quiesce", quiesce, QuiesceMode)
    _check_lists(disks=disks, exclude=exclude, exclude_if_present=exclude_if_present)
    _check_times(compare_every=compare_every)
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
        raise UsageError(
            f"invalid compression '{compression}'", advice=f"Use a level from {LOWEST} to {HIGHEST}, or auto."
        )
    return compression


def _rate(limit: int | None) -> int | None:
    if limit is not None and limit < 1:
        raise UsageError(
            f"invalid limit of {limit} bytes per second", advice="Use 1 or more, or leave out the limit."
        )
    return limit


def list_points(
    repository: Repository,
    domain: str | None = None,
    *,
    hosts: Sequence[str] = (),
    damaged: Callable[[str, DamagedData], None] | None = None,
) -> list[Point]:
    """List restore points, oldest first.

    Args:
        repository: The repository.
        domain: Only points of this domain (name or UUID).
        hosts: Only points that these hosts took; names or patterns.
        damaged: Called with the id and the error of each point whose record is damaged. Without it, the
            first such record raises DamagedData.

    Returns:
        The records of the points.

    Raises:
        DamagedData: A record is damaged and ``damaged`` was not given.
        StoreError: The store cannot be reached or refuses.

    Example:
        >>> [point.point for point in puller.list_points(repository, "web1")]
        ['20261123T150231Z-338c893f']
    """
    _check_lists(hosts=hosts)
    stored = repository.points
    points = stored.all(damaged) if domain is None else stored.of(domain, damaged)
    return [point for point in points if point.is_from(hosts)]


def restore(  # noqa: PLR0913 - one keyword for each choice that a user has
    repository: Repository,
    point: str,
    *,
    output: str | None = None,
    hosts: Sequence[str] = (),
    disks: Sequence[str] = (),
    places: Mapping[str, str] | None = None,
    format: ImageFormat | None = None,  # noqa: A002 - the field's word
    force: bool = False,
    salvage: bool = False,
    zero_rest: bool = False,
    connect: str = DEFAULT_URI,
    observer: Observer = ignore,
) -> Restored:
    """Restore the disks of a point, all at the same time.

    Nothing appears under its name before it is complete. Running domains at ``connect`` and at
    ``qemu:///system`` and the host itself are asked whether they use the output; an output that is in use is
    never overwritten. A libvirt that cannot be asked is a ``Notice``.

    Args:
        repository: The repository.
        point: The point's id, a unique prefix of it, ``DOMAIN@latest``, or ``DOMAIN@TIME``: the newest point
            at or before TIME.
        output: A directory, created if needed. With one disk also a file, a block device, or the URI of an
            NBD export. None if ``places`` names all disks to restore.
        hosts: Use only points that these hosts took; names or patterns.
        disks: Targets of the only disks to restore. Default: all.
        places: By target, the file, block device or NBD URI that a disk goes to instead of ``output``.
        format: The format of image files. Default: what a file's suffix says (``.raw``, ``.img``,
            ``.qcow2``), or else the format that the disk had, with the layout that it had as qcow2.
        force: Overwrite files that exist.
        salvage: Write a damaged disk too, with zeros in place of what is lost. Without it, a damaged disk
            raises DamagedData.
        zero_rest: Write zeros behind a disk that is shorter than its block device. Without it, the rest stays
            as it is.
        connect: The connection URI of a libvirt whose domains may use the output.
        observer: Receives events: progress and notices.

    Returns:
        The id of the point, what was written where, and with ``salvage`` what is damaged.

    Raises:
        NoSuchPoint: No point matches.
        AmbiguousPoint: Several points match, or several hosts have points of the domain.
        NoSuchDisk: The point has no such disk.
        OutputRefused: The output exists, is too small or cannot be written; nothing was touched.
        OutputInUse: The output is used by a domain, a mount or a program. It is an OutputRefused.
        OutputFailed: The output became full or failed.
        DamagedData: A disk is damaged and ``salvage`` was not given.
        KeyNotHeld: The key that opened the repository may not read guest data.
        StoreError: The store cannot be reached or refuses.
        UsageError: An argument cannot be used; nothing was touched.

    Example:
        >>> restored = puller.restore(repository, "web1@latest", output="/restore/web1", format="qcow2")
        >>> restored.disks[0].output
        '/restore/web1/vda.qcow2'
    """
    if output is None and not places:
        raise UsageError("no place is given for the disks", advice="Give output, places, or both.")
    _check_format(format)
    _check_lists(hosts=hosts, disks=disks)
    request = Request(
        output,
        tuple(dict.fromkeys(disks)),
        places or {},
        format,
        force=force,
        salvage=salvage,
        zero_rest=zero_rest,
        libvirts=(connect, DEFAULT_URI),
    )
    bound = _working(repository, point, observer)
    return _restore(bound, bound.points.select(point, hosts), request, observer)


def recreate(  # noqa: PLR0913 - one keyword for each choice that a user has
    repository: Repository,
    point: str,
    *,
    output: str | None = None,
    name: str | None = None,
    pool: str | None = None,
    hosts: Sequence[str] = (),
    disks: Sequence[str] = (),
    places: Mapping[str, str] | None = None,
    format: ImageFormat | None = None,  # noqa: A002 - the field's word
    network: str = KEEP,
    map_networks: Mapping[str, str] | None = None,
    start: bool = False,
    dry_run: bool = False,
    force: bool = False,
    connect: str = DEFAULT_URI,
    observer: Observer = ignore,
) -> Recreated:
    """Restore the disks of a point and define its domain on them: as itself, or as a copy.

    A copy gets a UUID, MAC addresses, firmware variables and TPM state of its own, so it can run beside the
    original. Nothing is defined before all disks are complete.

    Args:
        repository: The repository.
        point: The point; see :func:`puller.restore`.
        output: A directory for the disks that have no other place, and for the point's attachments.
        name: The name of a copy. Default: the domain itself, which must not exist then.
        pool: A storage pool of libvirt; the disks that have no place go to new volumes of it.
        hosts: Use only points that these hosts took; names or patterns.
        disks: Targets of the only disks to restore. Default: all.
        places: By target, the file or block device that a disk goes to.
        format: The format of image files; see :func:`puller.restore`.
        network: ``keep``, ``disconnect``, or the libvirt network to connect all interfaces to.
        map_networks: Other names for networks and bridges, by the old name.
        start: Start the domain.
        dry_run: Restore and define nothing; the result has the XML that would be defined.
        force: Overwrite files and devices that exist.
        connect: The connection URI of the libvirt that gets the domain.
        observer: Receives events: progress and notices.

    Returns:
        The domain's name, UUID and XML, and what was restored.

    Raises:
        DomainExists: libvirt has a domain of this name or UUID; nothing was touched.
        HypervisorError: libvirt cannot be reached or refuses. Disks that were restored stay.
        PullerError: As for :func:`puller.restore`.

    Example:
        >>> made = puller.recreate(repository, "web1@latest", output="/restore/web1", name="web1-test")
        >>> made.name
        'web1-test'
    """
    from puller.hypervisor.domain.restoredxml import Networks
    from puller.recovery import recreation

    if output is None and pool is None and not places:
        raise UsageError("no place is given for the disks", advice="Give output, pool or places.")
    _check_format(format)
    _check_lists(hosts=hosts, disks=disks)
    targets, libvirts = tuple(dict.fromkeys(disks)), (connect, DEFAULT_URI)
    request = Request(output, targets, places or {}, format, force=force, libvirts=libvirts)
    named = None if network in {KEEP, DISCONNECT} else network
    networks = Networks(network == DISCONNECT, named, map_networks or {})
    wanted = recreation.Recreation(connect, request, name, pool, networks, start, dry_run)
    bound = _working(repository, point, observer)
    return recreation.recreate(bound, bound.points.select(point, hosts), wanted, observer)


def rollback(  # noqa: PLR0913 - one keyword for each choice that a user has
    repository: Repository,
    point: str,
    *,
    hosts: Sequence[str] = (),
    disks: Sequence[str] = (),
    compare: bool = False,
    dry_run: bool = False,
    salvage: bool = False,
    backup_first: bool = False,
    connect: str = DEFAULT_URI,
    observer: Observer = ignore,
) -> RolledBack:
    """Put the disks of a domain that is shut off back to a point, by writing only what differs.

    Dirty bitmaps and the maps of the points tell what differs. The bitmaps record the rollback, so the next
    backup is incremental. If one is interrupted, call it again: it completes, and until then ``backup``
    refuses the disk.

    Args:
        repository: The repository.
        point: The point; see :func:`puller.restore`.
        hosts: Use only points that these hosts took; names or patterns.
        disks: Targets of the only disks to roll back. Default: all disks of the point.
        compare: Read the disks to find what differs, whatever the bitmaps say.
        dry_run: Find what differs and write nothing.
        salvage: Write zeros in place of data that the point has lost. Without it, that data stays as it is on
            the disk, and DamagedData is raised.
        backup_first: Take a point of the present state before.
        connect: The connection URI of libvirt.
        observer: Receives events: progress and notices.

    Returns:
        The domain, and by disk how many bytes differed, were written and were read to compare.

    Raises:
        NoSuchPoint: No point matches.
        NoSuchDomain: libvirt has no domain of the point's UUID.
        NoSuchDisk: The point or the domain has no such disk.
        DomainRunning: The domain runs or has a saved state.
        Locked: Another puller works on the domain, or a program uses an image.
        OutputRefused: An image does not exist, is in use or is too small; nothing was touched.
        OutputFailed: An image's storage became full or failed. Call again when that is mended.
        KeyNotHeld: The key that opened the repository may not read guest data; nothing was touched.
        DamagedData: Data of the point is damaged and ``salvage`` was not given.
        HypervisorError: libvirt cannot be reached or refuses, or a disk is of a kind that is not supported.
        NbdError: An image cannot be served or written.
        StoreError: The store cannot be reached or refuses.

    Example:
        >>> done = puller.rollback(repository, "web1@latest", dry_run=True)
        >>> [(disk.disk, disk.changed_bytes) for disk in done.disks]
        [('vda', 1310720)]
    """
    from puller.recovery import rollback as rolling

    _check_lists(hosts=hosts, disks=disks)
    request = rolling.Request(connect, tuple(dict.fromkeys(disks)), compare, dry_run, salvage)
    bound = _working(repository, point, observer)
    chosen = bound.points.select(point, hosts)
    if backup_first and not dry_run:
        rolling.refuse(bound, chosen, request, observer)
        _back_up_first(bound, chosen, connect, observer)
    return rolling.rollback(bound, chosen, request, observer)


def diff(  # noqa: PLR0913 - one keyword for each choice that a user has
    repository: Repository,
    point: str,
    other: str = LIVE,
    *,
    hosts: Sequence[str] = (),
    disks: Sequence[str] = (),
    connect: str = DEFAULT_URI,
    observer: Observer = ignore,
) -> PointDifference:
    """Compare two points by their maps, or a point with the domain's disks as they are now.

    Args:
        repository: The repository.
        point: The point; see :func:`puller.restore`.
        other: Another point, or ``live``: the disks of the domain, which must be shut off.
        hosts: Use only points that these hosts took; names or patterns.
        disks: Targets of the only disks to compare. Default: all that both have.
        connect: The connection URI of libvirt, for ``live``.
        observer: Receives events: notices.

    Returns:
        By disk, the ranges that differ, in bytes and whole chunks of 64 KiB; with ``live`` those that
        :func:`puller.rollback` would write.

    Raises:
        NoSuchPoint: No point matches.
        NoSuchDisk: The points do not both have a disk.
        DamagedData: A map is damaged.
        StoreError: The store cannot be reached or refuses.
        PullerError: With ``live``, as for :func:`puller.rollback`.

    Example:
        >>> found = puller.diff(repository, "web1@2026-11-27", "web1@latest")
        >>> found.disks[0].changed_bytes
        1310720
    """
    _check_lists(hosts=hosts, disks=disks)
    bound = _working(repository, point, observer)
    first = bound.points.select(point, hosts)
    if other != LIVE:
        return diff_points(bound, first, bound.points.select(other, hosts), tuple(disks))
    from puller.recovery import rollback as rolling

    request = rolling.Request(connect, tuple(dict.fromkeys(disks)))
    found = rolling.differences(bound, first, request, observer)
    parts = tuple(disk_difference(item.disk, item.changes) for item in found)
    return PointDifference(first.point, LIVE, parts)


def _back_up_first(repository: Repository, point: Point, connect: str, observer: Observer) -> None:
    """Take a point, except where an earlier rollback was not completed, which this one will do."""
    try:
        backup(repository, point.uuid, connect=connect, observer=observer)
    except RollbackUnfinished as error:
        observer(Notice(point.point, f"no point of the present state is taken: {error.message}"))


def _check_format(value: str | None) -> None:
    if value is not None:
        _check_choice("format", value, ImageFormat)


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
    """Verify that points can be restored.

    Damage is returned, not raised, and recorded in the repository: later backups store the content again.
    What is read and intact is recorded too, so the next check continues with what was verified longest ago.

    Args:
        repository: The repository.
        points: Points to verify, named as for ``restore``, or as records. Default: all.
        hosts: Use only points that these hosts took where ``points`` names a domain; names or patterns.
        read_data: Percentage of the stored data to read and verify, 0 to 100, the least recently verified
            first. With 0 and neither of the next two, only the structure is verified: every object that a
            point needs must exist.
        max_age: Read all data that no check has verified for this long. Other packs only need to exist.
        budget: Stop reading after this time, or this number of bytes. At least one pack is read.
        observer: Receives events: progress and notices.

    Returns:
        What was verified, and the errors that were found.

    Raises:
        NoSuchPoint, AmbiguousPoint: A name in ``points`` matches no point, or several.
        KeyNotHeld: Data is to be read and the key may not read guest data.
        StoreError: The store cannot be reached or refuses.
        UsageError: ``read_data`` is not a percentage, or ``max_age`` or ``budget`` is negative or of another
            type; nothing was touched.

    Example:
        >>> report = puller.check(repository, read_data=5.0)
        >>> report.errors
        ()
    """
    _check_lists(points=points, hosts=hosts)
    _check_times(max_age=max_age)
    _check_budget(budget)
    reading = Reading(read_data, max_age, budget)
    bound = _working(repository, "repository", observer)
    chosen = [item if isinstance(item, Point) else bound.points.select(item, hosts) for item in points]
    return _check(bound, chosen, reading, observer)


def prune(
    repository: Repository, policy: Policy, *, grace: timedelta = GRACE, observer: Observer = ignore
) -> PruneReport:
    """Delete the points that a policy does not keep, and the data that no point needs any more.

    Can run beside backups. Data that no point needs is condemned first; a later prune deletes it once
    ``grace`` has passed.

    Args:
        repository: The repository.
        policy: The rules. A policy without rules keeps all points.
        grace: How long condemned data waits before it is deleted. With ``timedelta(0)`` it is deleted at
            once, and backups that are running may fail.
        observer: Receives events: steps, progress and notices.

    Returns:
        What was deleted, and the decision for each point with its reasons.

    Raises:
        Locked: Another prune or repair is running.
        DamagedData: A record is damaged, so it is not known what it needs.
        StoreError: The store cannot be reached or refuses.
        UsageError: ``grace`` is negative or is not a timedelta.

    Example:
        >>> report = puller.prune(repository, puller.Policy(daily=7, weekly=4))
        >>> report.removed
        ('20261101T010004Z-9b1c03aa',)
    """
    _check_times(grace=grace)
    return _prune(_working(repository, "repository", observer), policy, grace, observer)


def _working(repository: Repository, subject: str, observer: Observer) -> Repository:
    """The repository with the deadlines of work that would be lost; ``observer`` is told of outages."""
    return repository.within(repository.scope.working(lambda text: observer(Notice(subject, text))))


def preview_prune(repository: Repository, policy: Policy) -> PruneReport:
    """Decide about each point as ``prune`` would, and change nothing.

    Args:
        repository: The repository.
        policy: The rules.

    Returns:
        The report of ``prune``, with the decision for each point. Its counts are 0.

    Raises:
        DamagedData: A point's record is damaged.
        StoreError: The store cannot be reached or refuses.

    Example:
        >>> report = puller.preview_prune(repository, puller.Policy(last=3))
        >>> [(decision.point, decision.reasons) for decision in report.decisions if decision.keep]
        [('20261123T150231Z-338c893f', ('newest of its domain', 'last 1'))]
    """
    return preview(repository, policy)


def delete(repository: Repository, points: Sequence[str], *, hosts: Sequence[str] = ()) -> tuple[str, ...]:
    """Delete points. ``prune`` then frees the space.

    All points are looked up before any is deleted.

    Args:
        repository: The repository.
        points: Points to delete, named as for ``restore``.
        hosts: Use only points that these hosts took where ``points`` names a domain; names or patterns.

    Returns:
        The ids of the deleted points.

    Raises:
        NoSuchPoint, AmbiguousPoint: A name matches no point, or several; nothing was deleted.
        PointKept: ``keep`` holds one of the points; nothing was deleted.
        DamagedData: A record that has to be read is damaged.
        StoreError: The store cannot be reached or refuses.

    Example:
        >>> puller.delete(repository, ["20261123T150231Z-338c893f"])
        ('20261123T150231Z-338c893f',)
    """
    _check_lists(points=points, hosts=hosts)
    return _delete(repository, points, hosts)


def keep(  # noqa: PLR0913 - one keyword for each choice that a user has
    repository: Repository,
    point: str,
    *,
    hosts: Sequence[str] = (),
    until: datetime | None = None,
    note: str = "",
    observer: Observer = ignore,
) -> KeptPoint:
    """Protect a point from ``prune`` and ``delete``. An earlier protection of the point is replaced.

    If a prune is running it may have decided before, and may still delete the point: an event of class Notice
    says so.

    Args:
        repository: The repository.
        point: The point, named as for ``restore``.
        hosts: Use only points that these hosts took where ``point`` names a domain; names or patterns.
        until: Protect the point until this time, in UTC unless it has a zone; without it, until ``release``.
        note: Store why the point is kept, in 1000 characters at most.
        observer: Called with each event.

    Returns:
        What protects the point now. It may last longer than asked for, if older keeps cannot be deleted.

    Raises:
        NoSuchPoint, AmbiguousPoint: The name matches no point, or several; or the point was just deleted.
        DamagedData: A record that has to be read is damaged.
        StoreError: The store cannot be reached or refuses.
        UsageError: ``until`` is in the past or is not a datetime, or ``note`` is too long.

    Example:
        >>> puller.keep(repository, "web1@latest", note="before the upgrade").kept
        True
    """
    _check_lists(hosts=hosts)
    _check_until(until)
    return _keep(repository, point, Keep(until, note), hosts, observer)


def release(repository: Repository, point: str, *, hosts: Sequence[str] = ()) -> KeptPoint:
    """End all that ``keep`` has done for a point. A point that is not kept is not an error.

    Args:
        repository: The repository.
        point: The point, named as for ``restore``.
        hosts: Use only points that these hosts took where ``point`` names a domain; names or patterns.

    Returns:
        The point, which nothing protects now. ``released`` says whether it was kept before.

    Raises:
        NoSuchPoint, AmbiguousPoint: The name matches no point, or several.
        DamagedData: A record that has to be read is damaged.
        StoreError: The store cannot be reached or refuses.

    Example:
        >>> puller.release(repository, "web1@latest").kept
        False
    """
    _check_lists(hosts=hosts)
    return _release(repository, point, hosts)


def list_kept(repository: Repository) -> list[KeptPoint]:
    """List the points that ``keep`` protects now, by id.

    A point whose keep cannot be read is protected without end, until ``release``.

    Args:
        repository: The repository.

    Returns:
        The kept points.

    Raises:
        StoreError: The store cannot be reached or refuses.

    Example:
        >>> [kept.point for kept in puller.list_kept(repository)]
        ['20261123T150231Z-338c893f']
    """
    return kept_points(repository)


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
    return _list_keys(repository, _secret(password, key_file))


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
    new = _secret(new_password, new_key_file)
    if new is None:
        raise UsageError("cannot add a key without a secret", advice="Give new_password or new_key_file.")
    return _add_key(repository, _secret(password, key_file), new, role, label)


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
    _remove_key(repository, key)


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
    _check_lists(hosts=hosts)
    return _stats(repository, damaged, hosts)


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
    return _repair_index(_working(repository, "repository", observer), observer)


def doctor(  # noqa: PLR0913 - one keyword for each choice that a user has
    repository: Repository | str,
    *,
    password: str | None = None,
    key_file: bytes | None = None,
    connect: str = DEFAULT_URI,
    domains: Sequence[str] = (),
    exclude_domains: Sequence[str] = (),
    disks: Sequence[str] = (),
    exclude: Sequence[str] = (),
    mode: Mode = "pull",
    scratch_dir: str | None = None,
    staging_dir: str | None = None,
) -> list[Finding]:
    """Find problems that would make a backup fail: of the store, the host and the domains.

    Nothing is changed on the host. To test the credentials, one object is put under the repository's
    ``locks/`` and deleted again. What fails is a finding, not an exception.

    Args:
        repository: The URL of the repository, or the open repository.
        password: A password that opens the repository, if ``repository`` is a URL.
        key_file: The content of a key file that opens it, instead.
        connect: The connection URI of libvirt.
        domains: Names, UUIDs or patterns of the domains to examine. Default: all.
        exclude_domains: Names, UUIDs or patterns of domains to leave out.
        disks: As for ``backup``.
        exclude: As for ``backup``. A disk that none of the domains has is a warning.
        mode: As for ``backup``.
        scratch_dir: As for ``backup``.
        staging_dir: As for ``backup``.

    Returns:
        All findings, those that are in order too.

    Raises:
        UsageError: An argument cannot be used.

    Example:
        >>> findings = puller.doctor("s3://backups/kvm", password="…", domains=["web1"])
        >>> [finding.text for finding in findings if finding.status is puller.Status.FAIL]
        []
    """
    secret = _secret(password, key_file)
    if secret is not None and not isinstance(repository, str):
        raise UsageError("an open repository needs no password", advice="Give the URL, or no password.")
    _check_choice("mode", mode, Mode)
    _check_lists(domains=domains, exclude_domains=exclude_domains, disks=disks, exclude=exclude)
    from puller.diagnosis import doctor as diagnosis

    examination = diagnosis.Examination(
        connect,
        tuple(domains),
        tuple(exclude_domains),
        tuple(disks),
        tuple(exclude),
        mode,
        scratch_dir,
        staging_dir,
    )
    url = repository if isinstance(repository, str) else repository.store.url

    def opener() -> Repository:
        if isinstance(repository, str):
            return open_repository(url, password=password, key_file=key_file)
        return repository

    # Not the store of the open repository: what the place itself can do is the question.
    return list(diagnosis.doctor(open_store(url), opener, examination))


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


def forget(
    repository: Repository, domain: str, *, connect: str = DEFAULT_URI, observer: Observer = ignore
) -> Forgotten:
    """Remove this repository's checkpoints and dirty bitmaps from a domain, running or shut off.

    Those of other repositories and programs stay, and so do the restore points. The next backup is a rehash:
    it reads all data of every disk and stores only what differs from the last point.

    Args:
        repository: The repository.
        domain: The domain's name or UUID.
        connect: The connection URI of libvirt.
        observer: Receives events: notices.

    Returns:
        The names of the checkpoints and bitmaps that were removed.

    Raises:
        NoSuchDomain: libvirt knows no such domain.
        JobRunning: The domain has a backup job.
        Locked: A backup of the domain is running; if the domain is shut off, also that another program uses
            an image.
        UnsupportedDisk: The domain is shut off, and an image is not on this host.
        HypervisorError, NbdError: libvirt or QEMU cannot be reached or refuses. Call ``forget`` again to
            remove the rest.
        StoreError: The store cannot be reached or refuses.

    Example:
        >>> puller.forget(repository, "web1").checkpoints
        ('puller-5d2f0c9be2a1-20261123T150231Z-338c893f',)
    """
    from puller.backups import forget as forgetting

    return forgetting.forget(repository, domain, connect, observer)
