"""From a point back to disks and domains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from puller.api.arguments import (
    DEFAULT_URI,
    DISCONNECT,
    KEEP,
    ImageFormat,
    check_format,
    check_lists,
    working,
)
from puller.api.machines import backup
from puller.errors import RollbackUnfinished, UsageError
from puller.events import Notice, Observer, ignore
from puller.recovery.diff import LIVE, PointDifference, diff_points, disk_difference
from puller.recovery.restore import Request, Restored
from puller.recovery.restore import restore as _restore
from puller.repository.points import Point
from puller.repository.repository import Repository

if TYPE_CHECKING:
    from puller.recovery.recreation import Recreated
    from puller.recovery.rollback import RolledBack


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
    check_format(format)
    check_lists(hosts=hosts, disks=disks)
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
    bound = working(repository, point, observer)
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
    from puller.hypervisor.domain.definition.restoredxml import Networks
    from puller.recovery import recreation

    if output is None and pool is None and not places:
        raise UsageError("no place is given for the disks", advice="Give output, pool or places.")
    check_format(format)
    check_lists(hosts=hosts, disks=disks)
    targets, libvirts = tuple(dict.fromkeys(disks)), (connect, DEFAULT_URI)
    request = Request(output, targets, places or {}, format, force=force, libvirts=libvirts)
    named = None if network in {KEEP, DISCONNECT} else network
    networks = Networks(network == DISCONNECT, named, map_networks or {})
    wanted = recreation.Recreation(connect, request, name, pool, networks, start, dry_run)
    bound = working(repository, point, observer)
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

    check_lists(hosts=hosts, disks=disks)
    request = rolling.Request(connect, tuple(dict.fromkeys(disks)), compare, dry_run, salvage)
    bound = working(repository, point, observer)
    chosen = bound.points.select(point, hosts)
    if backup_first and not dry_run:
        rolling.refuse(bound, chosen, request, ignore)  # it is told of by the rollback itself
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
    check_lists(hosts=hosts, disks=disks)
    bound = working(repository, point, observer)
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
