"""What a guest changes between two backups."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.disk import Layout
from benchmarks.host import Domain
from puller.units import CHUNK, MIB


@dataclass(frozen=True, slots=True)
class Change:
    """``count`` runs of ``length`` bytes, scattered over the files; ``count`` 0 means nothing changes."""

    name: str
    count: int
    length: int

    def apply(self, domain: Domain, layout: Layout, sample: Path, turn: int) -> None:
        """Write new content through the domain's device, at the same places each time.

        It is taken out of the image ``sample`` at odd positions that depend on ``turn``: as compressible as
        the disk, but no chunk of it is on the disk.
        """
        source = domain.image.with_suffix(".written")
        contents = self._contents(sample, turn)
        for offset in self._offsets(layout):
            source.write_bytes(next(contents))
            domain.write(source, offset, self.length)
        source.unlink(missing_ok=True)

    def _offsets(self, layout: Layout) -> list[int]:
        runs = layout.files // self.length
        return [
            self.length * run for run in sorted(random.Random(self.count).sample(range(runs), self.count))
        ]

    def _contents(self, sample: Path, turn: int) -> Iterator[bytes]:
        at = 64 * MIB + turn * 4099 + 1
        with sample.open("rb") as data:
            while True:
                data.seek(at)
                yield data.read(self.length)
                at += self.length + 1021
                at %= sample.stat().st_size - 64 * MIB


def changes(layout: Layout) -> tuple[Change, ...]:
    """Of the sizes that are compared; the shares are of the disk's whole size."""
    chunks = layout.size // CHUNK
    return (
        Change("nothing changed", 0, CHUNK),
        Change("100 scattered chunks", 100, CHUNK),
        Change("1 % scattered", chunks // 100, CHUNK),
        Change("5 % clustered", chunks // 20 * CHUNK // (4 * MIB), 4 * MIB),
    )
