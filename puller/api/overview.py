"""What happened to all machines of one or several repositories."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from puller.api.arguments import check_lists
from puller.errors import DamagedData
from puller.overview.machine import MachineStatus
from puller.overview.survey import survey
from puller.repository.repository import Repository


def status(
    repositories: Sequence[Repository],
    *,
    hosts: Sequence[str] = (),
    exclude: Sequence[str] = (),
    damaged: Callable[[str, DamagedData], None] | None = None,
) -> tuple[MachineStatus, ...]:
    """Tell for each machine when it was backed up and proven last, and whether it is late.

    No host is asked: all that is told stands in the repositories. A machine is late by the interval of its
    job (the key ``interval``), else by the rhythm of its points.

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
    return survey(repositories, datetime.now(UTC), hosts, exclude, damaged)
