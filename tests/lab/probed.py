"""A disk and its base as two arrays, for the real sampling of ``puller.backups.bases.probe``."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from puller.backups.bases.probe import Probe
from puller.units import CHUNK, PAGE_CHUNKS, Extent, Kind

PAGES = 1600
"""100 GiB."""

_PACK = 512
"""Chunks of a pack: neighbours on the disk, as a full stores them."""

Contents = NDArray[np.int64]


class Base:
    """What the probe asks a DiskImage; a content is a number, 0 is zeros."""

    def __init__(self, contents: Contents) -> None:
        self.contents = contents
        self.pages: set[int] = set()
        self.footers: set[int] = set()

    def empty_pages(self) -> NDArray[np.bool_]:
        return np.asarray((self.contents.reshape(-1, PAGE_CHUNKS) == 0).all(axis=1))

    def load(self, numbers: Iterable[int]) -> None:
        self.pages.update(numbers)

    def packs_of(self, page: int) -> Contents:
        self.load([page])
        first = page * PAGE_CHUNKS
        numbers = np.arange(first, first + PAGE_CHUNKS) // _PACK
        return np.where(self.contents[first : first + PAGE_CHUNKS] != 0, numbers, -1)

    def is_stored(self, chunk: int) -> bool:
        return bool(self.contents[chunk])

    def content_id(self, chunk: int) -> bytes:
        self.footers.add(chunk // _PACK)
        return bytes(self.contents[chunk : chunk + 1].data)

    def stored_between(self, start: int, end: int) -> Iterator[tuple[int, list[int]]]:
        for page in range((end - 1) // PAGE_CHUNKS, start // PAGE_CHUNKS - 1, -1):
            first = page * PAGE_CHUNKS
            low, high = max(first, start), min(first + PAGE_CHUNKS, end)
            stored = np.flatnonzero(self.contents[low:high]) + low
            if len(stored):
                self.load([page])
                yield first, stored.tolist()


class _Sampling(Probe):
    """The probe's choice of places, over arrays in place of a repository."""

    def __init__(self, base: Base, chance: random.Random, times: int) -> None:
        self._image: Any = base
        self._end = len(base.contents)
        self._times = times
        self._chance = chance

    def mark(self, content: bytes) -> bytes:
        return content if any(content) else b""


class Simulated:
    """A disk that has ``contents`` where the base has others, all of it clean."""

    def __init__(self, base: Contents, contents: Contents, chance: random.Random, times: int = 1) -> None:
        self._base = Base(base)
        self._contents = contents
        self._probe = _Sampling(self._base, chance, times)
        self.size = len(contents) * CHUNK
        self.reads = 0
        self.asked = 0
        self.ranges: list[Extent] = []

    @property
    def pages(self) -> set[int]:
        return self._base.pages

    @property
    def footers(self) -> set[int]:
        return self._base.footers

    def found(self) -> bool:
        probe = self._probe
        return any(probe.differs(number, probe.mark(self.chunk(number))) for number in probe.places(self))

    def dirty(self, start: int = 0, end: int | None = None) -> Iterator[Extent]:
        self.asked += 1
        return iter(())

    def allocation(self, ranges: Iterable[Extent]) -> Iterator[Extent]:
        for extent in ranges:
            self.asked += 1
            self.ranges.append(extent)
            first = extent.offset // CHUNK
            flags = self._contents[first : extent.end // CHUNK] != 0
            borders = [0, *(np.flatnonzero(np.diff(flags)) + 1).tolist(), len(flags)]
            for start, stop in pairwise(borders):
                kind = Kind.DATA if flags[start] else Kind.ZERO
                yield Extent((first + start) * CHUNK, (stop - start) * CHUNK, kind)

    def chunk(self, number: int) -> bytes:
        self.reads += 1
        return bytes(self._contents[number : number + 1].data)

    @classmethod
    def foreign(cls, kind: str, chance: random.Random, pages: int = PAGES) -> Simulated:
        """Another disk's image; the ends of both are zeros, as a guest may leave them."""
        mine, other = _filled(chance, pages, 0.5), _filled(chance, pages, 0.5)
        blank = np.zeros_like(mine)
        few = blank.copy()
        few[[chance.randrange(8, len(few) - 8) for _ in range(20)]] = 1
        pairs = {
            "another image": (mine, other),
            "over a blank one": (blank, other),
            "blank over it": (mine, blank),
            "scattered blank": (few, other),
        }
        return cls(*pairs[kind], chance)

    @classmethod
    def partial(
        cls, share: float, shape: str, chance: random.Random, pages: int = PAGES, times: int = 1
    ) -> Simulated:
        """A ``share`` of the stored chunks has another content and is data still: the hardest to see."""
        mine = _filled(chance, pages, 0.5)
        stored = np.flatnonzero(mine)
        count = round(len(stored) * share)
        random_numbers = np.random.default_rng(chance.getrandbits(32))
        if shape == "scattered":
            hit = random_numbers.choice(stored, count, replace=False)
        else:
            begin = chance.randrange(len(stored) - count + 1)
            hit = stored[begin : begin + count]
        other = mine.copy()
        other[hit] += 1 << 40
        return cls(mine, other, chance, times)


def _filled(chance: random.Random, pages: int, share: float) -> Contents:
    """Runs of 8 MiB in the mean, data and zeros by turns; both ends are zeros."""
    numbers = np.random.default_rng(chance.getrandbits(32))
    runs = numbers.geometric(1 / 128, 2 * pages * PAGE_CHUNKS // 128)
    flags = np.repeat(numbers.random(len(runs)) < share, runs)[: pages * PAGE_CHUNKS]
    contents = np.zeros(pages * PAGE_CHUNKS, np.int64)
    contents[: len(flags)] = np.where(flags, numbers.integers(1, 1 << 40, len(flags)), 0)
    contents[:8] = contents[-8:] = 0
    return contents
