"""The probe: find out whether a dirty bitmap belongs to the content of its disk.

A bitmap is stored in the image. A copy of one image over another brings a bitmap along whose name fits, which
calls almost everything clean, and which has no relation to the base. Only the content shows that. Of the
content that the bitmap calls clean, the probe compares::

    the first and the last chunks of the disk     where labels and superblocks are
    the last stored chunk of each quarter         lost on a disk that was shrunk and has grown again
    pages of the map, at random places            zero or data, in both directions, and a few contents
    pages that the base has as zero altogether    chunks that the image has as data there, read and tested

The random places are spread over the whole disk and differ in each run. An image that says *data* where
the base has zeros is not a difference by itself (preallocated, or zeros were written): the chunk is read.
Only the footers of packs are read, for the ids.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, islice, pairwise
from typing import Protocol, TypeVar

import numpy as np

from puller.cancelling import Scoped
from puller.errors import DamagedData
from puller.nbd.block_status import WINDOW
from puller.nbd.export import Export
from puller.repository.format.chunk_slot import content_id
from puller.repository.points import DiskRecord
from puller.repository.reading.image import DiskImage, Flags, runs
from puller.repository.repository import Repository
from puller.units import CHUNK, PAGE_CHUNKS, Extent, Kind, chunk_count

FOREIGN = "its content does not match its dirty bitmap"

HARDER = 10
"""Factor for the number of random places if the image file or the run of QEMU changed."""

_STRETCHES = 4
"""Clones of one disk are equal in most places; each place costs a page of the map and a pack's footer."""

_EDGE = 4
"""Chunks at either end of the disk: partition tables, labels and superblocks of file systems."""

_PAGES = 16
"""Pages of the map that are compared; see docs/reliability.md for what they find."""

_CONTENTS = 2
"""Stored chunks of such a page that are compared by their ids, of one pack."""

_SUSPECTS = 4
"""Chunks of such a page that are zero in the base and data in the image, or the other way round."""

_BLANK = 1024
"""Pages that are zero in the base and whose allocation is queried."""

_A_REQUEST = WINDOW // (PAGE_CHUNKS * CHUNK)
"""Blank pages that one request can ask for."""

_AT_ONCE = 18 * _A_REQUEST
"""Blank pages whose allocation is held at once: a MiB of flags."""

_FAR_APART = 16
"""Runs of pages up to which each is asked for its changes by itself."""

_BLANK_SUSPECTS = 64
"""Chunks of these pages that are data in the image and are read."""

_TOGETHER = 32
"""Chunks that are read at the same time."""

_ZEROS = bytes(CHUNK)

T = TypeVar("T")


class Compared(Protocol):
    """A disk to be compared with the base; see Export."""

    size: int

    def dirty(self, start: int = 0, end: int | None = None) -> Iterator[Extent]:
        """Yield the changes since the base."""
        ...

    def allocation(self, ranges: Iterable[Extent]) -> Iterator[Extent]:
        """Yield data and zeros of ``ranges``."""
        ...

    def chunk(self, number: int) -> bytes:
        """Return the content of one chunk."""
        ...


def find_mismatch(
    repository: Repository, disk: Export, record: DiskRecord, *, image_changed: bool = False
) -> str | None:
    """Return why the bitmap of ``disk`` cannot belong to the base, or None if the probe finds nothing.

    ``image_changed`` asks for a more thorough probe. A base whose map cannot be read is rejected.
    """
    try:
        probe = Probe(repository, record, disk.size, image_changed=image_changed)
        places = probe.places(disk)
        while numbers := list(islice(places, _TOGETHER)):
            if probe.any_differs(numbers, disk.chunks(numbers)):
                return FOREIGN
    except DamagedData as error:
        return f"its last map is damaged: {error.message}"
    return None


class Probe(Scoped):
    """Chooses places of a disk of ``size`` bytes and compares them with the base. Raises DamagedData."""

    def __init__(
        self,
        repository: Repository,
        record: DiskRecord,
        size: int,
        *,
        image_changed: bool = False,
        chance: random.Random | None = None,
    ) -> None:
        self._image = DiskImage(repository.maps, repository.packs, record.root.address)
        self._id_key = repository.keys.id_key
        # If the sizes differ, everything behind the smaller one is read anyway.
        self._end = chunk_count(size) if record.size == size else min(record.size, size) // CHUNK
        self._times = HARDER if image_changed else 1
        self._chance = chance or random.Random()

    def mark(self, content: bytes) -> bytes:
        """Return the mark of a content for comparison: its id, empty for zeros."""
        return b"" if _ZEROS.startswith(content) else content_id(self._id_key, content)

    def is_zero(self, number: int) -> bool:
        """Return whether the base has zeros in the chunk."""
        return not self._image.is_stored(number)

    def differs(self, number: int, mark: bytes) -> bool:
        """Return whether the content of the base has another ``mark``."""
        if self.is_zero(number) or not mark:
            return self.is_zero(number) == bool(mark)
        return self._image.content_id(number) != mark

    def any_differs(self, numbers: Sequence[int], contents: Sequence[bytes]) -> bool:
        """Return whether one of some chunks has a content that ``differs``."""
        marks = dict(zip(numbers, map(self.mark, contents), strict=True))
        self._image.open_packs(number for number, mark in marks.items() if mark)
        return any(self.differs(number, mark) for number, mark in marks.items())

    def places(self, disk: Compared, depth: int = 1) -> Iterator[int]:
        """Choose clean chunks to compare; ``depth`` is how many at the end of each quarter."""
        yield from self._edges(disk)
        for start, stop in sample_ranges(self._image, self._end):
            yield from islice(self._last_clean(disk, start, stop), depth)
        yield from self._sampled(disk)
        yield from self._blank(disk)

    def _edges(self, disk: Compared) -> Iterator[int]:
        ends = sorted({*range(self._end)[:_EDGE], *range(self._end)[-_EDGE:]})
        return (number for number in ends if _clean(disk, number, number + 1)[0])

    def _last_clean(self, disk: Compared, start: int, stop: int) -> Iterator[int]:
        for first, stored in self._image.stored_between(start, stop):
            clean = _clean(disk, first, first + PAGE_CHUNKS)
            yield from (number for number in reversed(stored) if clean[number - first])

    def _pages(self, *, empty: bool) -> list[int]:
        found: list[int] = np.flatnonzero(self._empty_pages() == empty).tolist()
        return found

    def _empty_pages(self) -> Flags:
        return self._image.empty_pages()[: -(-self._end // PAGE_CHUNKS)]

    def _sampled(self, disk: Compared) -> Iterator[int]:
        pages = spread(self._pages(empty=False), _PAGES * self._times, self._chance)
        self._image.load(pages)
        for page in pages:
            yield from self._of_page(disk, page)

    def _of_page(self, disk: Compared, page: int) -> Iterator[int]:
        first = page * PAGE_CHUNKS
        stop = min(first + PAGE_CHUNKS, self._end)
        clean, data = _clean(disk, first, stop), _data(disk, first, stop)
        packs = self._image.packs_of(page)[: stop - first]
        stored = packs >= 0
        for unlike in (clean & data & ~stored, clean & ~data & stored):
            yield from self._some(unlike, first, _SUSPECTS)
        alike = clean & data & stored
        if alike.any():
            pack = self._chance.choice(packs[alike].tolist())
            yield from self._some(alike & (packs == pack), first, _CONTENTS)

    def _some(self, flags: Flags, first: int, count: int) -> list[int]:
        return spread((np.flatnonzero(flags) + first).tolist(), count, self._chance)

    def _blank(self, disk: Compared) -> Iterator[int]:
        suspects: list[int] = []
        limit = _BLANK_SUSPECTS * self._times
        for first, stop in self._blank_runs():
            begin, end = first * PAGE_CHUNKS, min(stop * PAGE_CHUNKS, self._end)
            data = _data(disk, begin, end)
            for start, behind in _near(data):
                clean = _clean(disk, begin + start, begin + behind)
                found = (np.flatnonzero(data[start:behind] & clean) + begin + start).tolist()
                suspects += spread(found, limit, self._chance)
        yield from spread(suspects, limit, self._chance)

    def _blank_runs(self) -> Iterable[tuple[int, int]]:
        """Some of the pages that the base has as zero; all of them, where that takes fewer requests."""
        some = _BLANK * self._times
        whole = runs(self._empty_pages())
        requests = sum(-(-(stop - first) // _A_REQUEST) for first, stop in whole)
        if self._times == 1 or requests > some:
            return _runs(spread(self._pages(empty=True), some, self._chance))
        return (
            (start, min(start + _AT_ONCE, stop))
            for first, stop in whole
            for start in range(first, stop, _AT_ONCE)
        )


def _near(flags: Flags) -> list[tuple[int, int]]:
    """Return a few ranges, of whole pages from the first flag on, that have all that are set."""
    # Not np.unique: its first call loads numpy.ma, which takes a fifth of a probe's time.
    pages = np.logical_or.reduceat(flags, np.arange(0, len(flags), PAGE_CHUNKS))
    found = list(_runs(np.flatnonzero(pages).tolist()))
    if len(found) > _FAR_APART:
        found = [(found[0][0], found[-1][1])]
    return [(first * PAGE_CHUNKS, min(stop * PAGE_CHUNKS, len(flags))) for first, stop in found]


def spread(items: Sequence[T], count: int, chance: random.Random) -> list[T]:
    """Return one random item of each of ``count`` equal parts, or all if there are no more than that::

    items    . . . . | . . . . | . . . .
    taken      x           x     x
    """
    if len(items) <= count:
        return list(items)
    borders = [len(items) * part // count for part in range(count + 1)]
    return [items[chance.randrange(start, stop)] for start, stop in pairwise(borders)]


def sample_ranges(image: DiskImage, end: int) -> list[tuple[int, int]]:
    """Return the parts of a disk whose ends are probed, as (first chunk, chunk after the part).

    They go backwards from the last stored chunk before ``end``. Raises DamagedData.
    """
    behind = next((stored[-1] + 1 for _, stored in image.stored_between(0, end) if stored), 0)
    borders = [behind * part // _STRETCHES for part in range(_STRETCHES + 1)]
    return [(start, stop) for start, stop in reversed(list(pairwise(borders))) if start < stop]


def _runs(pages: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Return runs of neighbours in ascending ``pages``, as (first, after the last): a request for each."""
    for _, run in groupby(enumerate(pages), key=lambda item: item[1] - item[0]):
        numbers = [page for _, page in run]
        yield numbers[0], numbers[-1] + 1


def _clean(disk: Compared, first: int, stop: int) -> Flags:
    """Return for each chunk from ``first`` up to ``stop`` whether no byte of it changed."""
    return ~_touched(disk.dirty(first * CHUNK, stop * CHUNK), first, stop)


def _data(disk: Compared, first: int, stop: int) -> Flags:
    """Return for each chunk from ``first`` up to ``stop`` whether a byte of it may differ from zero."""
    begin, end = first * CHUNK, min(stop * CHUNK, disk.size)
    asked = [Extent(begin, end - begin, Kind.DATA)] if begin < end else []
    found = (extent for extent in disk.allocation(asked) if extent.kind is Kind.DATA)
    return _touched(found, first, stop)


def _touched(extents: Iterable[Extent], first: int, stop: int) -> Flags:
    flags = np.zeros(stop - first, np.bool_)
    for extent in extents:
        flags[max(extent.offset // CHUNK - first, 0) : max(chunk_count(extent.end) - first, 0)] = True
    return flags
