"""What a repository holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from puller.errors import DamagedData
from puller.repository.repository import Repository


@dataclass(frozen=True, slots=True)
class Stats:
    """Counts, and bytes: ``logical_bytes`` is what all points would take restored, sparse parts included."""

    domains: int
    points: int
    logical_bytes: int
    stored_bytes: int
    packs: int
    objects: int


def stats(repository: Repository, damaged: Callable[[str, DamagedData], None] | None = None) -> Stats:
    """Read all point records and list all objects.

    A damaged record raises DamagedData, or is told to ``damaged`` with its point id, where that is given,
    and does not count. Raises StoreError.
    """
    points = repository.points.all(damaged)
    sizes: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    for info in repository.objects():
        room = info.key.split("/", 1)[0]
        sizes[room] += info.size
        counts[room] += 1
    return Stats(
        domains=len({point.uuid for point in points}),
        points=len(points),
        logical_bytes=sum(disk.size for point in points for disk in point.disks),
        stored_bytes=sizes.total(),
        packs=counts["packs"] + counts["maps"],
        objects=counts.total(),
    )
