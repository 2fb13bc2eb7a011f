"""Restore drills."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from puller.api.arguments import DEFAULT_URI, check_lists, check_times, working
from puller.configuration.drills import DrillSettings
from puller.configuration.evidence import Evidence
from puller.configuration.evidence import evidence as _evidence
from puller.errors import UsageError
from puller.events import Observer, ignore
from puller.repository.points import Point
from puller.repository.repository import Repository
from puller.repository.shard import WHOLE, Shard
from puller.units import KIB

if TYPE_CHECKING:
    from puller.recovery.proving.drill import Conditions
    from puller.recovery.proving.prove import Drills


def prove(  # noqa: PLR0913 - one keyword for each choice that a user has
    repository: Repository,
    points: Sequence[str | Point] = (),
    *,
    hosts: Sequence[str] = (),
    count: int | None = None,
    max_age: timedelta | None = None,
    shard: Shard = WHOLE,
    evidence: str | None = None,
    timeout: timedelta | None = None,
    memory: int | None = None,
    parallel: int | None = None,
    emulate: bool | None = None,
    directory: str | None = None,
    settings: DrillSettings | None = None,
    connect: str = DEFAULT_URI,
    observer: Observer = ignore,
) -> Drills:
    """Hold restore drills: start machines from their points, isolated, and wait until they show life.

    The verdicts are stored in the repository; everything else is thrown away. docs/drills.md describes what a
    drill does. A point whose drill cannot be held does not stop the others, and a KeyboardInterrupt stops
    all: the result has the errors.

    Args:
        repository: The repository. Its key must be able to read guest data.
        points: Points as for :func:`puller.restore`, names or UUIDs of domains, whose newest points are
            meant, or objects from ``list_points``. Default: the newest point of each domain.
        hosts: Use only points that these hosts took; names or patterns.
        count: Hold only so many drills: of the domains whose last drill is longest ago. One that cannot be
            drilled does not count.
        max_age: Hold only drills of domains whose last drill is longer ago than this, or was never held.
        shard: Hold only drills of the domains in this part, such as ``Shard(1, 4)``.
        evidence: What to wait for: ``agent``, ``console:TEXT``, ``tcp:PORT`` or ``command:PROGRAM``. Default:
            what ``settings`` say, else the first that the guest offers.
        timeout: How long to wait for it. Default: 5 minutes.
        memory: Most bytes of memory of a machine. Default: that of the domain.
        parallel: Number of drills at once. Default: 1.
        emulate: Emulate the processor where this host cannot run the machine.
        directory: Directory for what the machines write. Default: ``/var/lib/puller/drills``.
        settings: What counts where no argument is given, such as ``read_configuration().prove``.
        connect: The connection URI of libvirt.
        observer: Receives events: steps and notices.

    Returns:
        The verdicts, and the errors of drills that could not be held.

    Raises:
        NoSuchPoint: No point or domain matches; nothing was started.
        AmbiguousPoint: Several points match, or several hosts have points of the domain.
        KeyNotHeld: The key that opened the repository may not read guest data.
        UsageError: An argument cannot be used; nothing was started.
        StoreError: The store cannot be reached or refuses.

    Example:
        >>> drills = puller.prove(repository, ["web1"], evidence="console:login:")
        >>> [(drill.point.domain, drill.proof.verdict) for drill in drills.held]
        [('web1', 'proven')]
    """
    from puller.recovery.proving import prove as proving

    check_lists(points=points, hosts=hosts)
    check_times(timeout=timeout, max_age=max_age)
    chosen = settings or DrillSettings()
    bound = working(repository, "repository", observer)
    bound.keys.require_guest_data()
    wanted = _parse(evidence)
    time, bytes_ = timeout or chosen.timeout, memory or chosen.memory

    def conditions_of(point: Point) -> Conditions:
        from puller.recovery.proving.drill import TIMEOUT, Conditions
        from puller.recovery.proving.workplace import default_directory

        return Conditions(
            connect,
            Path(directory) if directory else chosen.directory or default_directory(),
            wanted or chosen.evidence_of(point.domain, point.uuid),
            TIMEOUT if time is None else time.total_seconds(),
            None if bytes_ is None else bytes_ // KIB,
            emulate=chosen.emulate if emulate is None else emulate,
        )

    found = shard.of(proving.choose(bound, points, hosts))
    if max_age is not None:
        found = proving.not_since(bound, found, max_age)
    if count is not None or not points:
        found = proving.longest_ago(bound, found)
    return proving.prove(bound, found, conditions_of, parallel or chosen.parallel, observer, count)


def _parse(word: str | None) -> Evidence | None:
    try:
        return None if word is None else _evidence(word)
    except ValueError as error:
        raise UsageError(str(error)) from error
