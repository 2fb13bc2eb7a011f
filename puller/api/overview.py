"""The state and the recent days of all machines in one or several repositories."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from puller.api.arguments import check_lists
from puller.configuration.alarms import DEFAULTS, Thresholds
from puller.errors import DamagedData, UsageError
from puller.overview.alarm import Alarm
from puller.overview.machine import MachineStatus
from puller.overview.report import Report
from puller.overview.survey import Question, survey
from puller.overview.watching import watch
from puller.repository.points import Point
from puller.repository.repository import Repository

LONGEST_REPORT = 400
"""Most days of a report."""

COMPARED = 8
"""Points of each machine whose maps a report compares: each costs one or two small reads for a disk."""


def alarms(repository: Repository, point: Point, *, thresholds: Thresholds = DEFAULTS) -> list[Alarm]:
    """Return signs that a point looks wrong, compared with the earlier points of its machine.

    Much more change than ever, new data that no longer compresses, and disks that are smaller or missing are
    signs of an attack or a mistake. A machine with few points has no history, and so no alarms.

    Args:
        repository: The repository.
        point: The point, such as one that :func:`puller.backup` returned.
        thresholds: The thresholds above which a point looks wrong, such as
            ``read_configuration(...).alarms``.

    Returns:
        The alarms, each with its sign and its numbers.

    Raises:
        StoreError: The store cannot be reached or refuses.

    Example:
        >>> [alarm.text for alarm in puller.alarms(repository, point)]
        ['21.3 GiB changed, 53 % of the disks; before that at most 1.2 GiB']
    """
    return watch(repository, point, thresholds)


def status(
    repositories: Sequence[Repository],
    *,
    hosts: Sequence[str] = (),
    exclude: Sequence[str] = (),
    damaged: Callable[[str, DamagedData], None] | None = None,
) -> tuple[MachineStatus, ...]:
    """Return when each machine was last backed up and proven, and whether it is late.

    This reads only the repositories and contacts no host. Whether a machine is late depends on the interval
    of its job (the key ``interval``), or else on an interval estimated from its points.

    Args:
        repositories: The repositories.
        hosts: Only machines whose newest point these hosts took; names or patterns.
        exclude: Leave out these domains; names, patterns or UUIDs.
        damaged: Called with the id and the error of each point whose record is damaged. Without it, the
            first such record raises DamagedData.

    Returns:
        The machines: the late ones first, then by name.

    Raises:
        DamagedData: A record is damaged and ``damaged`` was not given.
        StoreError: A store cannot be reached or refuses.

    Example:
        >>> [machine.domain for machine in puller.status([repository]) if machine.late]
        ['db1']
    """
    check_lists(hosts=hosts, exclude=exclude)
    asked = Question(1, tuple(hosts), tuple(exclude))
    found = survey(repositories, asked, datetime.now(UTC), damaged)
    return tuple(machine.status for machine in found.machines)


def report(  # noqa: PLR0913 - one keyword for each choice that a user has
    repositories: Sequence[Repository],
    *,
    days: int = 90,
    hosts: Sequence[str] = (),
    exclude: Sequence[str] = (),
    thresholds: Thresholds = DEFAULTS,
    damaged: Callable[[str, DamagedData], None] | None = None,
) -> Report:
    """Return the data of the page that ``puller report`` writes: all machines and their last days.

    Args:
        repositories: The repositories.
        days: How many days, in UTC, today included.
        hosts: Only machines whose newest point these hosts took; names or patterns.
        exclude: Leave out these domains; names, patterns or UUIDs.
        thresholds: As for :func:`puller.alarms`.
        damaged: As for :func:`puller.status`.

    Returns:
        The machines with their days and sizes, and sums by host and by repository.

    Raises:
        DamagedData: A record is damaged and ``damaged`` was not given.
        StoreError: A store cannot be reached or refuses.
        UsageError: ``days`` is out of range.

    Example:
        >>> puller.report([repository], days=7).machines[0].days[-1].state
        'kept'
    """
    check_lists(hosts=hosts, exclude=exclude)
    if not 1 <= days <= LONGEST_REPORT:
        raise UsageError(f"cannot report on {days} days", advice=f"Use 1 to {LONGEST_REPORT} days.")
    asked = Question(days, tuple(hosts), tuple(exclude), thresholds, COMPARED)
    return survey(repositories, asked, datetime.now(UTC), damaged)
