"""A new qcow2 image, written like a raw file.

Through ``qemu-nbd`` each new cluster costs an update of QEMU's tables, so a restore takes twice the time of
one to raw. Here ``qemu-img`` lays the image out once, with a place for every cluster
(``preallocation=metadata``), and the disk's bytes go straight to these places::

    disk     |  0 … 512 MiB  |  512 MiB … 1 GiB  |
    file     header, tables | clusters | table | clusters | …      (as ``qemu-img map`` says)

Clusters that nobody writes stay holes of the file and read as zeros. The tables of all clusters take some 160
MiB for a TiB, so a disk that is mostly empty is better written through ``qemu-nbd``; so is a large one with
small clusters, and one with extended L2 entries, whose places are not in use before QEMU writes to them.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from puller.cancelling import CancelScope
from puller.errors import NbdError
from puller.nbd.image import ImageServer, create_qcow2, places_of
from puller.nbd.writer import Target
from puller.recovery.targets.outputs import (
    Content,
    NewImage,
    Output,
    Publish,
    RawFile,
    create,
    new_file,
    opened_raw,
)
from puller.units import KIB

SPARSE = 0.25
"""Part of a disk's map pages that are in use, below which it counts as mostly empty."""

MAX_TABLES = 32768
"""L2 tables whose places are held in memory at most: 16 TiB in clusters of 64 KiB, 64 GiB in those of 4."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How a qcow2 image is made: bytes of a cluster, ``compat`` (``0.10``, ``1.1``), extended L2 entries.

    ``apart`` is whether it had its data in a file of its own, which a new image has not.
    """

    cluster: int = 64 * KIB
    compat: str = "1.1"
    extended: bool = False
    apart: bool = False

    @classmethod
    def of(cls, facts: dict[str, Any]) -> Layout:
        """That of an image of which ``facts`` is what ``qemu-img info`` says."""
        data = facts.get("format-specific", {}).get("data", {})
        plain = cls()
        return cls(
            int(facts.get("cluster-size", plain.cluster)),
            str(data.get("compat", plain.compat)),
            bool(data.get("extended-l2")),
            "data-file" in data,
        )

    def tables(self, size: int) -> int:
        """How many L2 tables a disk of ``size`` bytes has, at each of which its clusters are interrupted."""
        return -(-size // (self.cluster * self.cluster // 8))

    def options(self) -> dict[str, str]:
        """As options of ``qemu-img create``."""
        extended = {"extended_l2": "on"} if self.extended else {}
        return {"cluster_size": str(self.cluster), "compat": self.compat, **extended}


class Places:
    """Where the bytes of a disk are in its image: (start, length, offset in the file), ascending.

    Raises NbdError unless they are all of a disk of ``size`` bytes: else a write would go elsewhere.
    """

    def __init__(self, places: Sequence[tuple[int, int, int]], size: int) -> None:
        self._places = places
        self._starts = [start for start, _, _ in places]
        ends = [0, *(start + length for start, length, _ in places)]
        if self._starts != ends[:-1] or ends[-1] < size:
            raise NbdError("the new image has no place for all of the disk")

    def of(self, offset: int, length: int) -> Iterator[tuple[int, int, int]]:
        """A range of the disk, cut at the borders of places: (its start, length, file offset)."""
        at = offset
        while at < offset + length:
            start, room, home = self._places[bisect_right(self._starts, at) - 1]
            part = min(offset + length, start + room) - at
            yield at - offset, part, home + at - start
            at += part


class LaidOut:
    """A qcow2 image whose clusters have their places: an Output."""

    def __init__(self, file: RawFile, places: Places) -> None:
        self._file = file
        self._places = places

    def expect(self, offset: int, length: int) -> None:
        """See Output."""
        for _, part, home in self._places.of(offset, length):
            self._file.expect(home, part)

    def write(self, offset: int, content: Content) -> None:
        """See Output."""
        view = memoryview(content)
        for distance, part, home in self._places.of(offset, len(view)):
            self._file.write(home, view[distance : distance + part])

    def zero(self, ranges: Iterable[tuple[int, int]]) -> None:
        """See Output: holes already."""


@contextmanager
def qcow2(  # noqa: PLR0913, PLR0917 - what a file is made of
    path: Path, size: int, publish: Publish, layout: Layout, filled: float, scope: CancelScope
) -> Iterator[Output]:
    """A new qcow2 file of ``size`` bytes, rounded up to the 512 that qcow2 counts in.

    ``filled`` is the part of its map pages that are in use, 0 to 1.
    """
    with new_file(path, publish) as partial:
        create(partial)  # qemu-img keeps the mode of a file that exists; its own would be 0644
        if layout.extended or filled < SPARSE or layout.tables(size) > MAX_TABLES:
            create_qcow2(partial, size, layout.options(), scope)
            with (
                ImageServer(partial, "qcow2", scope=scope) as server,
                Target(server.uri, scope) as target,
            ):
                yield NewImage(target)
                target.flush()
        else:
            create_qcow2(partial, size, {**layout.options(), "preallocation": "metadata"}, scope)
            with opened_raw(partial) as file:
                yield LaidOut(file, Places(places_of(partial, scope), size))
