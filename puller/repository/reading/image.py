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
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from puller.cancelling import Scoped
from puller.errors import DamagedData, ObjectChanged
from puller.repository.format.footer import PackKind
from puller.repository.format.pages import ZERO, Address, PackTable, Refs, Root
from puller.repository.reading.damage import Damage, read_pages
from puller.repository.reading.mapreader import MapReader
from puller.repository.reading.packs import OPENINGS, PackReader, StoredPack, merge
from puller.units import CHUNK, PAGE_CHUNKS

WINDOW_PAGES = 16
"""Pages (1 GiB of disk) that are sorted together."""


@dataclass(frozen=True)
class PackJob:
    """Chunks of a disk in one pack; ``chunks`` and ``slots`` ascend by slot."""

    pack_id: bytes
    chunks: NDArray[np.int64]
    slots: NDArray[np.uint16]


@dataclass(frozen=True, slots=True)
class Window:
    """A range of a disk: its begin and end in bytes, its jobs, and the lost parts of its map."""

    offset: int
    end: int
    jobs: tuple[PackJob, ...]
    damage: tuple[Damage, ...]

    def gaps(self) -> Iterator[tuple[int, int]]:
        """Yield (offset, length) of the parts without a job, which are zero or whose map is lost."""
        chunks = np.sort(np.concatenate([np.zeros(0, np.int64), *(job.chunks for job in self.jobs)])) * CHUNK
        starts = np.concatenate([[self.offset], chunks + CHUNK])
        lengths = np.concatenate([chunks, [self.end]]) - starts
        wide = lengths > 0
        yield from zip(starts[wide].tolist(), lengths[wide].tolist(), strict=True)

    def filled(self) -> Iterator[tuple[int, int]]:
        """Yield (offset, length) of the parts that jobs read, which are between the gaps."""
        begin = self.offset
        for start, length in (*self.gaps(), (self.end, 0)):
            if begin < start:
                yield begin, start - begin
            begin = start + length


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
            yield self._window(self._window_pages(first))

    def _window(self, numbers: range) -> Window:
        damage: list[Damage] = []
        found = dict(read_pages(self._maps, self._root, numbers, damage))
        columns = [found[number] for number in numbers]
        packs, slots = [page.packs for page in columns], [page.slots for page in columns]
        refs = Refs(np.concatenate(packs), np.concatenate(slots))
        first = numbers[0] * PAGE_CHUNKS
        end = min((numbers[-1] + 1) * PAGE_CHUNKS * CHUNK, self.size)
        return Window(first * CHUNK, end, tuple(_jobs(first, refs, self._maps.table)), tuple(damage))

    def read(self, job: PackJob) -> Iterator[tuple[int, bytes] | Damage]:
        """Yield the verified chunks of ``job`` as (offset on disk, content), the disk's last one cut to size.

        For unreadable parts, yield a Damage instead. Raises StoreError, KeyNotHeld.
        """
        done = 0
        for attempt in range(OPENINGS):
            try:
                pack = self._packs.open(PackKind.DATA, job.pack_id)
                for item in self._read(pack, job, done):
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

    def _read(self, pack: StoredPack, job: PackJob, skip: int) -> Iterator[tuple[int, bytes] | Damage]:
        chunks, slots = job.chunks[skip:], job.slots[skip:]
        inside = int(np.searchsorted(slots, pack.footer.count))
        # A list, because numpy would convert the whole column for each slot.
        held = slots.tolist()
        for span in merge(pack.footer, np.unique(slots[:inside]).tolist()):
            stored = self._packs.fetch(pack, span)
            for slot, content in self._packs.contents(pack, span, stored):
                for chunk in chunks[bisect_left(held, slot) : bisect_right(held, slot)].tolist():
                    yield self._chunk(chunk, content)
        for chunk in chunks[inside:].tolist():
            yield self._damage(chunk, f"{pack.name} has {pack.footer.count} slots, a map names more")

    def _chunk(self, chunk: int, content: bytes | DamagedData) -> tuple[int, bytes] | Damage:
        if isinstance(content, DamagedData):
            return self._damage(chunk, content.message)
        start = chunk * CHUNK
        return start, content if start + CHUNK <= self.size else content[: self.size - start]

    def _damage(self, chunk: int, reason: str) -> Damage:
        start = chunk * CHUNK
        return Damage(start, min(CHUNK, self.size - start), reason)
