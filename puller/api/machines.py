"""Domains on this host: backed up, examined, and freed of checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Literal

from puller.api.arguments import (
    DEFAULT_URI,
    check_choice,
    check_level,
    check_lists,
    check_pace,
    check_rate,
    check_size,
    check_times,
    secret_of,
)
from puller.api.repositories import open_repository
from puller.cancelling import CancelScope
from puller.configuration.job import Mode, QuiesceMode
from puller.configuration.quantities import Pace
from puller.configuration.schema import Command
from puller.errors import UsageError
from puller.events import Observer, ignore
from puller.repository.points import Point
from puller.repository.repository import Repository
from puller.repository.writing.run import LEAST_MEMORY, Tuning
from puller.store.location import open_store
from puller.store.options import DEFAULTS, StoreOptions

if TYPE_CHECKING:
    from puller.backups.backup import FrozenHook
    from puller.backups.forget import Forgotten
    from puller.backups.freeze import Freeze
    from puller.diagnosis.finding import Finding
    from puller.hypervisor.guest.quiescing import Quiescing


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
    quiesce_timeout: timedelta | None = None,
    quiesce_mountpoints: Sequence[str] = (),
    guest_before: Command | None = None,
    guest_after: Command | None = None,
    staging_dir: str | None = None,
    keep_staging: bool = False,
    tags: dict[str, str] | None = None,
    checkpoint: bool = True,
    attach_limit: int | None = None,
    compression: int | Literal["auto", "fast"] = 1,
    pace: Pace = "gentle",
    limit_upload: int | None = None,
    memory: int | None = None,
    nbd_tls: str | None = None,
    nbd_ports: str | None = None,
    nbd_address: str | None = None,
    insecure_nbd: bool = False,
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
        connect: The connection URI of libvirt, or ``qmp:///PATH`` for a QEMU without libvirt.
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
        quiesce_timeout: How long the guest agent may take to freeze, and to thaw, in whole seconds. Default:
            10 s.
        quiesce_mountpoints: The only file systems of the guest to freeze, such as ``/srv``. Default: all.
        guest_before: A command that the guest agent runs in the guest before the freeze. With ``on``, the
            backup fails if it does.
        guest_after: A command that it runs once the guest is thawed, even if something failed meanwhile.
        staging_dir: Directory for the images of a push. Default: the scratch directory.
        keep_staging: Keep the images of a push. A ``Kept`` event names the path of each.
        tags: Names and values to store in the point.
        checkpoint: Create a checkpoint, by which the next backup finds what changed. Without it, backups
            build on the checkpoints that exist, and read all data where there is none.
        attach_limit: The largest CD-ROM image or floppy disk in a drive that the point holds, in bytes; 0 for
            none. Default: 16 MiB. A note names those left out.
        compression: The zstd level, 1 to 19 (smallest); ``fast``, which uses less CPU than 1 and stores
            slightly more; or ``auto``, 1 to 10, raised while the upload is the bottleneck.
        pace: How fast disks are read. ``gentle``: fewer reads at once while they are slow, and compression at
            a low priority, so that guests keep their speed. ``full``: as fast as possible. A number: gently,
            and all disks together at most at this rate, in bytes per second.
        limit_upload: The highest average upload rate of packs, in bytes per second. Default: no limit.
        memory: The most memory that the run may use, in bytes; at least 256 MiB. Default: 384 MiB. More
            allows more uploads at once to a distant store.
        nbd_tls: Directory with the certificates by which disks of another host are read over TLS:
            ``ca-cert.pem``, ``client-cert.pem``, ``client-key.pem``. Default: they are read through ssh.
        nbd_ports: The ports at which QEMU may listen then, such as ``10809-10872``, the default.
        nbd_address: The address of the other host at which QEMU listens. Default: that of ``connect``.
        insecure_nbd: Read disks of another host over TCP in clear text.
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
    from puller.hypervisor.domain.attachable import MEDIUM_LIMIT
    from puller.hypervisor.job.tcp import over_tcp

    check_choice("mode", mode, Mode)
    check_lists(disks=disks, exclude=exclude, exclude_if_present=exclude_if_present)
    check_times(compare_every=compare_every)
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
        quiescing=_quiescing(quiesce, quiesce_timeout, quiesce_mountpoints, guest_before, guest_after),
        staging_dir=staging_dir,
        keep_staging=keep_staging,
        checkpoint=checkpoint,
        tags=tags or {},
        tuning=_tuning(compression, limit_upload, memory, pace),
        pace=check_pace(pace),
        attach_limit=MEDIUM_LIMIT if attach_limit is None else check_size(attach_limit),
        tcp=over_tcp(nbd_tls, nbd_ports, nbd_address, insecure=insecure_nbd),
    )
    return transaction.backup(repository, plan, observer, on_frozen or transaction.ignore_frozen)


def _tuning(compression: int | str, limit_upload: int | None, memory: int | None, pace: Pace) -> Tuning:
    level, rate, gentle = check_level(compression), check_rate(limit_upload), pace != "full"
    if memory is None:
        return Tuning(level=level, upload_rate=rate, gentle=gentle)
    if memory < LEAST_MEMORY:
        raise UsageError(
            f"cannot back up in {memory} bytes of memory", advice="Use 256 MiB or more, or leave it out."
        )
    return Tuning(level=level, upload_rate=rate, memory=memory, gentle=gentle)


def _quiescing(
    quiesce: QuiesceMode,
    timeout: timedelta | None,
    mountpoints: Sequence[str],
    before: Command | None,
    after: Command | None,
) -> Quiescing:
    """Return the choices of a freeze of the guest. Raises UsageError."""
    from puller.hypervisor.guest.quiescing import FREEZE_SECONDS, GuestCommand, Quiesce, Quiescing

    check_choice("quiesce", quiesce, QuiesceMode)
    check_times(quiesce_timeout=timeout)
    check_lists(quiesce_mountpoints=mountpoints)
    seconds = FREEZE_SECONDS if timeout is None else max(1, round(timeout.total_seconds()))
    commands = [
        None if command is None else GuestCommand(tuple(command.command), command.timeout)
        for command in (before, after)
    ]
    return Quiescing(Quiesce(quiesce), seconds, tuple(mountpoints), *commands)


def doctor(  # noqa: PLR0913 - one keyword for each choice that a user has
    repository: Repository | str,
    *,
    password: str | None = None,
    key_file: bytes | None = None,
    store_options: StoreOptions = DEFAULTS,
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
        store_options: Options of the store, if ``repository`` is a URL.
        connect: The connection URI of libvirt, or ``qmp:///PATH`` for a QEMU without libvirt.
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
    secret = secret_of(password, key_file)
    if secret is not None and not isinstance(repository, str):
        raise UsageError("an open repository needs no password", advice="Give the URL, or no password.")
    check_choice("mode", mode, Mode)
    check_lists(domains=domains, exclude_domains=exclude_domains, disks=disks, exclude=exclude)
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
            return open_repository(url, password=password, key_file=key_file, store_options=store_options)
        return repository

    # Not the store of the open repository: what the place itself can do is the question.
    options = store_options if isinstance(repository, str) else repository.store_options
    return list(diagnosis.doctor(open_store(url, options), opener, examination))


def freeze(  # noqa: PLR0913 - one keyword for each choice that a user has
    domain: str,
    command: str,
    *,
    connect: str = DEFAULT_URI,
    disks: Sequence[str] = (),
    exclude: Sequence[str] = (),
    since: str | None = None,
    repository: Repository | None = None,
    checkpoint: bool = False,
    scratch_dir: str | None = None,
    quiesce: QuiesceMode = "auto",
    quiesce_timeout: timedelta | None = None,
    quiesce_mountpoints: Sequence[str] = (),
    guest_before: Command | None = None,
    guest_after: Command | None = None,
    observer: Observer = ignore,
) -> Freeze:
    """Freeze the disks of a domain together, and serve them over NBD while ``command`` runs.

    The command finds the exports in its environment, as the page *Frozen disks for other programs* says.
    When it ends, also when it fails or this function does, the job is ended and its scratch removed.

    Args:
        domain: The domain's name or UUID. It may be running or shut off.
        command: Words for ``/bin/sh -c``. What it prints goes to stderr.
        connect: The connection URI of libvirt, or ``qmp:///PATH`` for a QEMU without libvirt.
        disks: As for ``backup``.
        exclude: As for ``backup``.
        since: A checkpoint of the domain, or a point of ``repository``. Changes since then are marked in a
            metadata context of each export whose disk has a usable bitmap.
        repository: The repository of the point ``since``.
        checkpoint: Create a checkpoint at the same instant. It is deleted if the command fails; otherwise it
            is the caller's.
        scratch_dir: As for ``backup``.
        quiesce: As for ``backup``.
        quiesce_timeout: As for ``backup``.
        quiesce_mountpoints: As for ``backup``.
        guest_before: As for ``backup``.
        guest_after: As for ``backup``.
        observer: Receives events: notices.

    Returns:
        What was frozen, with the exit code of the command, also if that is not 0; the negative number of the
        signal that ended it.

    Raises:
        NoSuchDomain, NoSuchDisk, UnsupportedDisk, NotQuiesced, JobRunning, ScratchFull: As for ``backup``.
        NoSuchPoint: No point matches ``since``.
        CheckpointUnusable: No disk has a usable dirty bitmap since ``since``. The command did not run.
        DomainNotRunning: The domain was powered off meanwhile.
        Locked: A backup or another freeze of the domain is running.
        CommandFailed: The command cannot be run.
        HypervisorError, NbdError: libvirt or QEMU cannot be reached or refuses.
        StoreError: The store of ``repository`` cannot be reached or refuses.
        UsageError: An argument cannot be used; nothing was touched.

    Example:
        >>> done = puller.freeze("web1", 'nbdcopy "$PULLER_URI_vda" /mnt/web1.raw', checkpoint=True)
        >>> done.checkpoint
        'puller-thirdparties-20261123T150231Z-338c893f'
    """
    from puller.backups import freeze as freezing

    check_lists(disks=disks, exclude=exclude)
    plan = freezing.FreezePlan(
        domain=domain,
        connect=connect,
        disks=tuple(disks),
        exclude=tuple(exclude),
        since=since,
        repository=repository,
        checkpoint=checkpoint,
        scratch_dir=scratch_dir,
        quiescing=_quiescing(quiesce, quiesce_timeout, quiesce_mountpoints, guest_before, guest_after),
    )
    scope = CancelScope() if repository is None else repository.scope
    return freezing.freeze(plan, command, observer, scope.child())


def forget(
    repository: Repository, domain: str, *, connect: str = DEFAULT_URI, observer: Observer = ignore
) -> Forgotten:
    """Remove this repository's checkpoints and dirty bitmaps from a domain, running or shut off.

    Those of other repositories and programs stay, and so do the restore points. The next backup is a rehash:
    it reads all data of every disk and stores only what differs from the last point.

    Args:
        repository: The repository.
        domain: The domain's name or UUID.
        connect: The connection URI of libvirt, or ``qmp:///PATH`` for a QEMU without libvirt.
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
