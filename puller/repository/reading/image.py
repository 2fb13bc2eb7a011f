"""Reading of a stored disk: its map is turned into jobs that each read one pack.

::

    pages of a window ─► (chunk, pack, slot) sorted by pack and slot ─► one PackJob for each pack
                                                                          │ spans of near slots
                                                                          ▼
                                                          ranged reads, verified chunks

Because of the sorting by pack, a point that consists of many incrementals reads each pack's part of the
window once, so it costs about as much as a full.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from puller.cancelling import CancelScope, Scoped
from puller.errors import DamagedData, ObjectChanged
from puller.repository.format.address import Address
from puller.repository.format.chunk_slot import Piece
from puller.repository.format.footer import Ids
from puller.repository.format.packname import PackKind
from puller.repository.format.pages import ZERO, PackTable, Refs, Root, chunks_in_page
from puller.repository.reading.damage import Damage, read_pages
from puller.repository.reading.mapreader import MapReader
from puller.repository.reading.packs import OPENINGS, PackReader, Span, StoredPack, merge
from puller.store.parallel import READERS, each
from puller.units import CHUNK, PAGE_CHUNKS, chunk_count

WINDOW_PAGES = 16
"""Pages (1 GiB of disk) that are sorted together."""


@dataclass(frozen=True)
class PackJob:
    """Chunks of a disk in one pack; ``chunks`` and ``slots`` ascend by slot."""

    pack_id: bytes
    chunks: NDArray[np.int64]
    slots: NDArray[np.uint16]

    def pieces(self, count: int) -> Iterator[PackJob]:
        """Cut the job into jobs of at most ``count`` chunks."""
        for start in range(0, len(self.chunks), count):
            stop = start + count
            yield PackJob(self.pack_id, self.chunks[start:stop], self.slots[start:stop])


Flags = NDArray[np.bool_]

T = TypeVar("T")

Take = Callable[[StoredPack, Span, memoryview], Iterator[tuple[int, T | DamagedData]]]
"""Takes the slots of a span out of its stored bytes."""


@dataclass(frozen=True, slots=True)
class Window:
    """A part of a disk of ``size`` bytes, from chunk ``first``: the jobs that bring its stored chunks, and
    what its map has lost. ``chosen`` says of each chunk whether it is wanted at all.
    """

    first: int
    size: int
    chosen: Flags
    jobs: tuple[PackJob, ...]
    damage: tuple[Damage, ...]

    @property
    def offset(self) -> int:
        """First byte."""
        return self.first * CHUNK

    @property
    def end(self) -> int:
        """The byte behind the last one."""
        return min((self.first + len(self.chosen)) * CHUNK, self.size)

    def gaps(self) -> Iterator[tuple[int, int]]:
        """(offset, length) of what is wanted and no job brings: it is zero, or its map is lost."""
        return self._ranges(self.chosen & ~self._brought())

    def zeros(self) -> Iterator[tuple[int, int]]:
        """The gaps without what the map has lost."""
        flags = self.chosen & ~self._brought()
        for lost in self.damage:
            begin = lost.offset // CHUNK - self.first
            flags[begin : begin + chunk_count(lost.length)] = False
        return self._ranges(flags)

    def filled(self) -> Iterator[tuple[int, int]]:
        """(offset, length) of what the jobs bring."""
        return self._ranges(self._brought())

    def _brought(self) -> Flags:
        brought = np.zeros(len(self.chosen), np.bool_)
        for job in self.jobs:
            brought[job.chunks - self.first] = True
        return brought

    def _ranges(self, flags: Flags) -> Iterator[tuple[int, int]]:
        for begin, stop in runs(flags):
            offset = (self.first + begin) * CHUNK
            yield offset, min((self.first + stop) * CHUNK, self.size) - offset


def runs(flags: Flags) -> list[tuple[int, int]]:
    """The runs of true ``flags``: the first of each, and the one behind its last."""
    padded = np.concatenate([[False], flags, [False]])
    borders = np.flatnonzero(padded[1:] != padded[:-1]).tolist()
    return list(zip(borders[::2], borders[1::2], strict=True))


def _jobs(first_chunk: int, refs: Refs, table: PackTable) -> Iterator[PackJob]:
    present = np.flatnonzero(refs.packs != ZERO)
    packs, slots = refs.packs[present], refs.slots[present]
    order = np.lexsort((slots, packs))
    borders = np.flatnonzero(np.diff(packs[order])) + 1
    for part in np.split(order, borders):
        if len(part):
            pack_id = table.pack_id(int(packs[part[0]]))
            yield PackJob(pack_id, present[part] + first_chunk, slots[part])


class DiskImage(Scoped):
    """One disk of a restore point. Raises DamagedData or MissingObject if its root cannot be read."""

    def __init__(self, maps: MapReader, packs: PackReader, root: Address) -> None:
        self._maps = maps
        self._packs = packs
        self.scope = maps.scope
        self._root: Root = maps.root(root)
        self._loaded: dict[int, Refs] = {}

    @property
    def root(self) -> Root:
        """Where its pages are."""
        return self._root

    @property
    def size(self) -> int:
        """Size of the disk in bytes."""
        return self._root.size

    def stored_between(self, start: int, end: int) -> Iterator[tuple[int, list[int]]]:
        """Backwards from chunk ``end`` to ``start``, page by page: its first chunk, and the stored chunks
        of it that lie between the two. Raises DamagedData.
        """
        pages = self._root.pages.packs[: -(-end // PAGE_CHUNKS)]
        numbers = np.flatnonzero(pages != ZERO)[::-1]
        for page in numbers[numbers >= start // PAGE_CHUNKS].tolist():
            refs = self._loaded.get(page) or self._maps.pages(self._root, [page])[page]
            first = page * PAGE_CHUNKS
            stored = np.flatnonzero(refs.packs != ZERO) + first
            yield first, stored[(stored >= start) & (stored < end)].tolist()

    def empty_pages(self) -> NDArray[np.bool_]:
        """Return for each page whether all of it is zero, from the root."""
        return np.asarray(self._root.pages.packs == ZERO)

    def load(self, numbers: Sequence[int]) -> None:
        """Read these pages together and cache them. Raises DamagedData."""
        missing = [number for number in numbers if number not in self._loaded]
        self._loaded |= self._maps.pages(self._root, missing)

    def packs_of(self, page: int) -> NDArray[np.int64]:
        """Return the pack number of each chunk of a page, below 0 for zeros. Raises DamagedData."""
        self.load([page])
        return self._loaded[page].packs

    def is_stored(self, chunk: int) -> bool:
        """Return whether the chunk is not zero. Raises DamagedData."""
        page, position = divmod(chunk, PAGE_CHUNKS)
        return bool(self.packs_of(page)[position] != ZERO)

    def content_id(self, chunk: int) -> bytes:
        """Return the id of a stored chunk's content, from its pack's footer. Raises DamagedData."""
        page, position = divmod(chunk, PAGE_CHUNKS)
        self.load([page])
        refs = self._loaded[page]
        pack_id = self._maps.table.pack_id(int(refs.packs[position]))
        footer = self._packs.open(PackKind.DATA, pack_id).footer
        slot = int(refs.slots[position])
        if slot >= footer.count:
            raise DamagedData(f"a map names slot {slot} of a pack of {footer.count}")
        return footer.slot_id(slot)

    def open_packs(self, chunks: Iterable[int]) -> None:
        """Read the footers that ``content_id`` needs for these chunks, several at a time; zeros need none.

        What cannot be read is left to ``content_id``. Raises DamagedData.
        """
        places = [divmod(chunk, PAGE_CHUNKS) for chunk in chunks]
        self.load([page for page, _ in places])
        numbers = {int(self._loaded[page].packs[position]) for page, position in places} - {ZERO}

        def read(scope: CancelScope, number: int) -> None:
            with suppress(DamagedData):
                self._packs.within(scope).open(PackKind.DATA, self._maps.table.pack_id(number))

        deque(each(self.scope, read, numbers, READERS), maxlen=0)

    def needs(self, packs: Collection[bytes]) -> bool:
        """Return whether a page or a chunk of the disk is in one of ``packs``, by id. Raises DamagedData.

        Reads all pages of the disk.
        """
        wanted = [self._maps.table.number(pack) for pack in packs]
        if np.isin(self._root.pages.packs, wanted).any():
            return True
        return any(
            np.isin(refs.packs, wanted).any()
            for first in range(0, len(self._root.pages.packs), WINDOW_PAGES)
            for refs in self._maps.pages(self._root, self._window_pages(first)).values()
        )

    def _window_pages(self, first: int) -> range:
        return range(first, min(first + WINDOW_PAGES, len(self._root.pages.packs)))

    def windows(self) -> Iterator[Window]:
        """Yield the windows of the disk, from its beginning to its end."""
        for first in range(0, len(self._root.pages.packs), WINDOW_PAGES):
            numbers = self._window_pages(first)
            yield self._window(numbers, {number: self._all_of(number) for number in numbers})

    def windows_of(self, chosen: Mapping[int, Flags]) -> Iterator[Window]:
        """The windows that hold ``chosen`` chunks, in disk order: a flag for each chunk, by page.

        Pages that are not in ``chosen`` are not read.
        """
        for _, members in groupby(sorted(chosen), key=lambda page: page // WINDOW_PAGES):
            pages = list(members)
            numbers = range(pages[0], pages[-1] + 1)
            yield self._window(numbers, {number: chosen[number] for number in pages})

    def _all_of(self, page: int) -> Flags:
        return np.ones(chunks_in_page(self.size, page), np.bool_)

    def _window(self, numbers: range, chosen: Mapping[int, Flags]) -> Window:
        damage: list[Damage] = []
        found = dict(read_pages(self._maps, self._root, sorted(chosen), damage))
        absent = [np.zeros(chunks_in_page(self.size, number), np.bool_) for number in numbers]
        flags = [chosen.get(number, none) for number, none in zip(numbers, absent, strict=True)]
        columns = [
            found.get(number) or Refs.zeros(len(none)) for number, none in zip(numbers, absent, strict=True)
        ]
        wanted = np.concatenate(flags)
        packs = np.where(wanted, np.concatenate([page.packs for page in columns]), ZERO)
        refs = Refs(packs, np.concatenate([page.slots for page in columns]))
        first = numbers[0] * PAGE_CHUNKS
        return Window(first, self.size, wanted, tuple(_jobs(first, refs, self._maps.table)), tuple(damage))

    def ids(self, job: PackJob) -> Ids:
        """The ids of the chunks of ``job``, out of the pack's footer. Raises DamagedData."""
        footer = self._packs.open(PackKind.DATA, job.pack_id).footer
        if int(job.slots.max()) >= footer.count:
            raise DamagedData(f"a map names slot {int(job.slots.max())} of a pack of {footer.count}")
        return footer.ids[job.slots]

    def read(self, job: PackJob) -> Iterator[tuple[int, bytes] | Damage]:
        """Yield the verified chunks of ``job`` as (offset on disk, content), the disk's last one cut to size.

        For unreadable parts, yield a Damage instead. Raises StoreError, KeyNotHeld.
        """
        for item in self._taken(job, self._packs.contents):
            if isinstance(item, Damage):
                yield item
            else:
                start, content = item
                yield start, content if start + CHUNK <= self.size else content[: self.size - start]

    def read_sealed(self, job: PackJob) -> Iterator[tuple[int, Piece] | Damage]:
        """Yield the chunks of ``job`` as (offset on disk, as it is stored). See ``PackReader.sealed``.

        For unreadable parts, yield a Damage instead. Raises StoreError.
        """
        return self._taken(job, self._packs.sealed)

    def _taken(self, job: PackJob, take: Take[T]) -> Iterator[tuple[int, T] | Damage]:
        done = 0
        for attempt in range(OPENINGS):
            try:
                pack = self._packs.open(PackKind.DATA, job.pack_id)
                for item in self._read(pack, job, done, take):
                    done += 1
                    yield item
                return
            except ObjectChanged:
                # Prune has compacted the pack since its footer was read: the next footer has the new places.
                self._packs.forget(job.pack_id)
                if attempt == OPENINGS - 1:
                    raise
            except DamagedData as error:
                yield from (self._damage(int(chunk), error.message) for chunk in job.chunks[done:])
                return

    def _read(
        self, pack: StoredPack, job: PackJob, skip: int, take: Take[T]
    ) -> Iterator[tuple[int, T] | Damage]:
        chunks, slots = job.chunks[skip:], job.slots[skip:]
        inside = int(np.searchsorted(slots, pack.footer.count))
        # A list, because numpy would convert the whole column for each slot.
        held = slots.tolist()
        spans = list(merge(pack.footer, np.unique(slots[:inside]).tolist()))
        for span, stored in self._packs.fetch(pack, spans):
            for slot, item in take(pack, span, stored):
                for chunk in chunks[bisect_left(held, slot) : bisect_right(held, slot)].tolist():
                    if isinstance(item, DamagedData):
                        yield self._damage(chunk, item.message)
                    else:
                        yield chunk * CHUNK, item
        for chunk in chunks[inside:].tolist():
            yield self._damage(chunk, f"{pack.name} has {pack.footer.count} slots, a map names more")

    def _damage(self, chunk: int, reason: str) -> Damage:
        start = chunk * CHUNK
        return Damage(start, min(CHUNK, self.size - start), reason)
