"""Statistics of a repository."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from puller.errors import DamagedData
from puller.repository.format.packname import parse_pack_name
from puller.repository.points import Point
from puller.repository.records.proofs import Proof
from puller.repository.repository import Repository


@dataclass(frozen=True, slots=True)
class Cost:
    """Space that a domain needs, as backed up by ``host``.

    ``domain`` is the domain's name in its newest point, ``logical_bytes`` the size of its points if they were
    restored. ``added_bytes`` counts the bytes that its existing points added to the store when they were
    taken: data shared by several domains counts for the first of them. ``last_drill`` is the time of the
    domain's last restore drill, None without one; ``last_verdict`` is ``proven``, ``partial`` or ``failed``.
    """

    domain: str
    uuid: str
    points: int
    oldest: datetime
    newest: datetime
    logical_bytes: int
    added_bytes: int
    host: str = ""
    last_drill: datetime | None = None
    last_verdict: str | None = None


@dataclass(frozen=True, slots=True)
class Stats:
    """Sizes of a repository.

    ``logical_bytes`` is the size of all points if they were restored, sparse parts included, and
    ``stored_bytes`` the size of all objects. ``costs`` lists the most expensive domain first.
    """

    domains: int
    points: int
    logical_bytes: int
    stored_bytes: int
    packs: int
    objects: int
    costs: tuple[Cost, ...]


def stats(
    repository: Repository,
    damaged: Callable[[str, DamagedData], None] | None = None,
    hosts: Collection[str] = (),
) -> Stats:
    """Read all point records and list all objects. Of ``hosts``, names or patterns, only the points count.

    A damaged record raises DamagedData; if ``damaged`` is given, that is called with the point id instead,
    and the point does not count. Raises StoreError.
    """
    points = [point for point in repository.points.all(damaged) if point.is_from(hosts)]
    sizes: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    packs, last = 0, b""
    for info in repository.objects():
        room = info.key.split("/", 1)[0]
        sizes[room] += info.size
        counts[room] += 1
        pack = parse_pack_name(info.key)
        if pack is not None and info.size and pack[1] != last:  # generations of a pack follow each other
            packs, last = packs + 1, pack[1]
    return Stats(
        domains=len({point.uuid for point in points}),
        points=len(points),
        logical_bytes=sum(disk.size for point in points for disk in point.disks),
        stored_bytes=sizes.total(),
        packs=packs,
        objects=counts.total(),
        costs=_costs(points, repository.proofs.newest_of_domains()),
    )


def _costs(points: Sequence[Point], proofs: Mapping[str, Proof]) -> tuple[Cost, ...]:
    domains: defaultdict[tuple[str, str], list[Point]] = defaultdict(list)
    for point in points:
        domains[point.uuid, point.host].append(point)
    costs = [_cost(of_one, proofs.get(of_one[-1].uuid)) for of_one in domains.values()]
    return tuple(sorted(costs, key=lambda cost: (-cost.added_bytes, cost.domain, cost.uuid, cost.host)))


def _cost(points: Sequence[Point], proof: Proof | None) -> Cost:
    """``points`` are those of one domain on one host, oldest first."""
    disks = [disk for point in points for disk in point.disks]
    return Cost(
        domain=points[-1].domain,
        uuid=points[-1].uuid,
        points=len(points),
        oldest=points[0].time,
        newest=points[-1].time,
        logical_bytes=sum(disk.size for disk in disks),
        added_bytes=sum(disk.stored_bytes for disk in disks),
        host=points[-1].host,
        last_drill=None if proof is None else proof.time,
        last_verdict=None if proof is None else proof.verdict,
    )
