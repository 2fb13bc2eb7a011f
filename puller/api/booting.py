"""Machines that run from a restore point, and instant recovery."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from puller.api.arguments import DEFAULT_URI, check_lists, check_rate, working
from puller.cancelling import CancelScope
from puller.errors import UsageError
from puller.events import Observer, ignore
from puller.recovery.booting import record
from puller.repository.repository import Repository
from puller.units import MIB

if TYPE_CHECKING:
    from puller.recovery.booting.boot import BootedMachine
    from puller.recovery.booting.listing import ListedMachine
    from puller.recovery.booting.record import Booted

NO_NETWORK = "none"
"""What ``boot`` takes for ``network`` beside the name of one."""


def boot(  # noqa: PLR0913 - one keyword for each choice that a user has
    repository: Repository,
    point: str,
    *,
    name: str | None = None,
    network: str = NO_NETWORK,
    memory: int | None = None,
    storage: str | None = None,
    hosts: Sequence[str] = (),
    connect: str = DEFAULT_URI,
    observer: Observer = ignore,
) -> BootedMachine:
    """Boot a machine from a point, within seconds.

    Its disks are read from the repository as the guest needs them; what the guest writes goes to overlays.
    A process that outlives the caller serves the disks. If the boot fails, nothing stays.

    Args:
        repository: The repository. The server gets its keys.
        point: The point; see :func:`puller.restore`.
        name: The name of the machine. Default: the domain's name with ``-boot``.
        network: ``none``, which takes the cables of all interfaces out, or the libvirt network to connect
            them to.
        memory: Its memory, in bytes, at least 1 MiB. Default: as the domain had.
        storage: The directory for the overlays. Default: ``/var/lib/puller/booted``.
        hosts: Use only points that these hosts took; names or patterns.
        connect: The connection URI of the libvirt that gets the machine.
        observer: Receives events: notices.

    Returns:
        The record of the machine, and the seconds that the boot took.

    Raises:
        DomainExists: libvirt has a domain of this name; nothing was touched.
        HypervisorError: libvirt cannot be reached or refuses.
        KeyNotHeld: The key that opened the repository may not read guest data.
        NoSuchPoint, AmbiguousPoint: No point matches, or several.
        OutputRefused: A directory or file that would be made exists; nothing was touched.
        ServeFailed: The server of the disks does not start.
        StoreError, DamagedData: The repository cannot be read.
        UsageError: An argument cannot be used; nothing was touched.

    Example:
        >>> made = puller.boot(repository, "web1@latest", network="default")
        >>> made.record.name
        'web1-boot'
    """
    from puller.recovery.booting import boot as transaction

    check_lists(hosts=hosts)
    if memory is not None and memory < MIB:
        raise UsageError(f"cannot give a machine {memory} bytes of memory", advice="Use 1 MiB or more.")
    bound = working(repository, point, observer)
    request = transaction.BootRequest(
        connect,
        name,
        None if network == NO_NETWORK else network,
        memory,
        None if storage is None else Path(storage),
        os.environ,
    )
    return transaction.boot(bound, bound.points.select(point, hosts), request, observer)


def find_booted(name: str) -> Booted:
    """Return the record of a booted machine.

    Args:
        name: The name of the machine.

    Returns:
        The record; its ``repository`` is a URL.

    Raises:
        NotBooted: No machine of this name was booted.

    Example:
        >>> puller.find_booted("web1-boot").state
        'running'
    """
    return record.read(name)


def list_booted() -> list[ListedMachine]:
    """List the machines that this user has booted on this host, by name.

    Returns:
        The record of each, whether its domain is active (None if libvirt does not say), and whether its
        server answers.

    Raises:
        PullerError: A record cannot be read.

    Example:
        >>> [machine.record.name for machine in puller.list_booted()]
        ['web1-boot']
    """
    from puller.recovery.booting.listing import listed

    return listed(CancelScope())


def resume_booted(repository: Repository, name: str, *, observer: Observer = ignore) -> Booted:
    """Put a booted machine together again: start its server and its domain, each unless it runs.

    Args:
        repository: The repository that the machine was booted from.
        name: The name of the machine.
        observer: Receives events: notices.

    Returns:
        The record of the machine.

    Raises:
        NotBooted: No machine of this name was booted.
        Locked: Another puller on this host resumes or discards it.
        UsageError: The machine was not booted to the end, or from another repository.
        HypervisorError, ServeFailed, StoreError: As for :func:`puller.boot`.

    Example:
        >>> puller.resume_booted(repository, "web1-boot").state
        'running'
    """
    from puller.recovery.booting.resume import resume

    booted = _booted_from(repository, name)
    resume(booted, working(repository, name, observer), os.environ)
    return booted


def pull_booted(
    repository: Repository, name: str, *, limit: int | None = None, observer: Observer = ignore
) -> Booted:
    """Pull the data of a booted machine in behind its running guest, until the machine stands alone.

    QEMU does the work: it goes on if the caller ends, and a later call watches again. The guest runs on
    whatever fails.

    Args:
        repository: The repository that the machine was booted from.
        name: The name of the machine.
        limit: The highest rate, in bytes per second. Default: no limit.
        observer: Receives events: progress and notices.

    Returns:
        The record of the machine, which needs neither the repository nor a server any more.

    Raises:
        NotBooted: No machine of this name was booted, or it was discarded meanwhile.
        DomainNotRunning: The machine is off: see :func:`puller.resume_booted`.
        PullIncomplete: Data of the point is damaged.
        HypervisorError: libvirt cannot be reached for 150 s, or refuses.
        UsageError: An argument cannot be used; nothing was touched.

    Example:
        >>> puller.pull_booted(repository, "web1-boot", limit=100 << 20).state
        'standalone'
    """
    from puller.recovery.booting.pulling import pull

    booted = _booted_from(repository, name)
    rate = check_rate(limit)
    return (
        booted
        if booted.state == "standalone"
        else pull(booted, working(repository, name, observer), rate, observer)
    )


def discard_booted(name: str, *, repository: Repository | None = None, observer: Observer = ignore) -> None:
    """Remove a booted machine and all that its guest has written.

    Args:
        name: The name of the machine.
        repository: The repository that it was booted from. Without it, the point stays kept.
        observer: Receives events: notices.

    Raises:
        NotBooted: No machine of this name was booted.
        Locked: Another puller on this host boots or resumes it.
        UsageError: The machine stands alone.
        HypervisorError: libvirt cannot be reached or refuses.

    Example:
        >>> puller.discard_booted("web1-boot", repository=repository)
    """
    from puller.hypervisor.connection import Host
    from puller.recovery.booting.discard import discard

    booted = record.read(name)
    with Host.connect(booted.connect) as host:
        discard(booted, host, repository, observer)


def _booted_from(repository: Repository, name: str) -> Booted:
    booted = record.read(name)
    if booted.repository != repository.store.url:
        raise UsageError(
            f"machine {name} was booted from the repository {booted.repository}, not {repository.store.url}",
            advice="Leave out -r and PULLER_REPOSITORY, or name that repository.",
        )
    return booted
