"""Where on a machine's disks change happens: from the roots of its newest points' maps.

A root names each page of a disk, which maps 64 MiB. A page with another address has changed. No page and no
guest data is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from puller.errors import DamagedData
from puller.repository.format.pages import Root
from puller.repository.points import Point
from puller.repository.repository import Repository
from puller.units import CHUNK, PAGE_CHUNKS

CELLS = 48
"""The most parts that a disk is shown in."""


@dataclass(frozen=True, slots=True)
class DiskPlaces:
    """How often each part of a disk changed.

    Attributes:
        disk: The disk's target.
        part_bytes: The size of a part; the last one may be smaller.
        pairs: How many times two points in a row were compared.
        changed: For each part, how often anything in it had changed.
    """

    disk: str
    part_bytes: int
    pairs: int
    changed: tuple[int, ...]


def places_of(repository: Repository, points: Sequence[Point], count: int) -> tuple[DiskPlaces, ...]:
    """Compare the last ``count`` of a machine's ``points``, oldest first, each with the one before it.

    A disk without two readable maps of its present size is left out. Raises StoreError.
    """
    recent = points[-count:] if count > 1 else []
    disks = [disk.disk for disk in recent[-1].disks] if recent else []
    found = (_places(disk, list(_roots(repository, recent, disk))) for disk in disks)
    return tuple(places for places in found if places is not None)


def _roots(repository: Repository, points: Sequence[Point], disk: str) -> Iterator[Root]:
    records = [record for point in points if (record := point.disk(disk)) is not None]
    addresses = []
    for record in records:
        if record.size == records[-1].size:
            try:
                addresses.append(record.root.address)
            except DamagedData:
                continue
    for root in repository.maps.roots(addresses):
        if isinstance(root, Root) and root.size == records[-1].size:
            yield root


def _places(disk: str, roots: Sequence[Root]) -> DiskPlaces | None:
    if len(roots) < 2 or not len(roots[0].pages.packs):
        return None
    pages = len(roots[0].pages.packs)
    width = -(-pages // CELLS)
    starts = np.arange(0, pages, width)
    changed = sum(
        (np.maximum.reduceat(_differ(old, new), starts) for old, new in pairwise(roots)),
        start=np.zeros(len(starts), np.int64),
    )
    return DiskPlaces(disk, width * PAGE_CHUNKS * CHUNK, len(roots) - 1, tuple(map(int, changed)))


def _differ(old: Root, new: Root) -> NDArray[np.int64]:
    """Return 1 for each page whose address differs, else 0."""
    differs = (old.pages.packs != new.pages.packs) | (old.pages.slots != new.pages.slots)
    return np.asarray(differs, np.int64)
