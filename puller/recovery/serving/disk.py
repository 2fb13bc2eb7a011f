"""One served disk: reads of any range, and which ranges are holes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from puller.errors import DamagedData, PullerError
from puller.recovery.serving.chunks import ChunkCache, Content, Place
from puller.recovery.serving.fetching import Fetcher, Wanted
from puller.recovery.serving.pages import MapPages
from puller.recovery.serving.sequences import SEGMENT, Sequences
from puller.repository.format.pages import ZERO, Refs, chunks_in_page
from puller.repository.reading.damage import Damage
from puller.repository.reading.image import DiskImage, runs
from puller.repository.repository import Repository
from puller.units import CHUNK, PAGE_CHUNKS, chunk_count

MOST_PAGES = 16
"""Map pages that one question for holes looks at: 1 GiB of disk. A client asks again for the rest."""


@dataclass(frozen=True, slots=True)
class Run:
    """``length`` bytes of a disk that are all stored, or all zero."""

    offset: int
    length: int
    stored: bool


class ServedDisk:
    """The disk ``name``, read from ``image``. Safe for many threads."""

    def __init__(
        self, name: str, repository: Repository, image: DiskImage, cache: ChunkCache, fetcher: Fetcher
    ) -> None:
        self.name = name
        self.size = image.size
        self._image = image
        self._pages = MapPages(repository.maps, image.root)
        self._cache = cache
        self._fetcher = fetcher
        self._sequences = Sequences(chunk_count(image.size), cache.capacity, self._is_hole)

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill ``buffer`` with the disk's bytes from ``offset``.

        Raises DamagedData, which names the range that is lost, StoreError, KeyNotHeld.
        """
        first, end = offset // CHUNK, chunk_count(offset + len(buffer))
        places = self._places(first, end)
        if places:
            self._read_ahead(first, end)
        contents = self._contents(places)
        for chunk in range(first, end):
            place = places.get(chunk)
            self._copy(chunk, contents[place] if place else b"", buffer, offset)

    def runs(self, offset: int, length: int) -> Iterator[Run]:
        """Yield what of the range is stored and what is zero, in whole chunks, perhaps only its beginning.

        A range whose map is damaged counts as stored: it is not zero, and a read says what it is.
        """
        page = offset // CHUNK // PAGE_CHUNKS
        last = min(page + MOST_PAGES, -(-chunk_count(offset + length) // PAGE_CHUNKS))
        for number in range(page, last):
            start = number * PAGE_CHUNKS
            for begin, stop, stored in self._runs_of(number):
                cut = min((start + stop) * CHUNK, self.size)
                yield Run((start + begin) * CHUNK, cut - (start + begin) * CHUNK, stored)

    def _runs_of(self, number: int) -> Iterator[tuple[int, int, bool]]:
        """Yield the runs of one page: the first chunk, the one behind the last, whether they are stored."""
        count = chunks_in_page(self.size, number)
        try:
            flags = self._pages.page(number).packs != ZERO
        except DamagedData:
            yield 0, count, True
            return
        at = 0
        for begin, stop in runs(flags):
            if begin > at:
                yield at, begin, False
            yield begin, stop, True
            at = stop
        if at < count:
            yield at, count, False

    def _places(self, first: int, end: int) -> dict[int, Place]:
        """Return the places of the stored chunks from ``first`` to before ``end``. Raises DamagedData."""
        found: dict[int, Place] = {}
        for number in range(first // PAGE_CHUNKS, (end - 1) // PAGE_CHUNKS + 1):
            start = number * PAGE_CHUNKS
            begin, stop = max(first - start, 0), min(end - start, PAGE_CHUNKS)
            page = self._page(number)
            packs, slots = page.packs[begin:stop].tolist(), page.slots[begin:stop].tolist()
            for chunk, pack, slot in zip(range(start + begin, start + stop), packs, slots, strict=True):
                if pack != ZERO:
                    found[chunk] = Place(pack, slot, min(CHUNK, self.size - chunk * CHUNK))
        return found

    def _page(self, number: int) -> Refs:
        try:
            return self._pages.page(number)
        except DamagedData as error:
            start = number * PAGE_CHUNKS * CHUNK
            length = chunks_in_page(self.size, number) * CHUNK
            raise lost(self.name, Damage(start, min(length, self.size - start), error.message)) from error

    def _is_hole(self, segment: int) -> bool:
        return self._pages.is_hole(segment * SEGMENT, (segment + 1) * SEGMENT)

    def _read_ahead(self, first: int, end: int) -> None:
        """Let the crew fetch what a sequential reader needs, now and next.

        It is claimed at once, so that the reader's requests wait for one fetch instead of making their own.
        """
        for segment in self._sequences.touch(first, end):
            is_needed = segment * SEGMENT < end
            if not self._fetcher.has_room and not is_needed:
                self._sequences.forget(segment)
                continue
            try:
                wanted = self._claim_of(segment)
            except PullerError:  # who reads there hears of it
                continue
            if not self._fetcher.ahead(self._image, wanted):
                self._fetcher.fetch(self._image, wanted)

    def _claim_of(self, segment: int) -> Wanted:
        """Claim what of the segment nobody has. Raises DamagedData, StoreError."""
        places = self._places(*self._sequences.chunks_of(segment))
        return _wanted(places, self._cache.claim(places.values()).mine)

    def _contents(self, places: Mapping[int, Place]) -> dict[Place, bytes]:
        """Return the contents at ``places``, by chunk. Raises DamagedData with the first that is lost.

        What seems lost is read once more: another thread may have asked for it before the store came back.
        """
        found, missed = self._fetch(places)
        if missed:
            again, lasting = self._fetch({chunk: place for chunk, place in places.items() if place in missed})
            for place, damage in lasting.items():
                raise lost(self.name, self._here(places, place, damage))
            found |= again
        return found

    def _fetch(self, places: Mapping[int, Place]) -> tuple[dict[Place, bytes], dict[Place, Damage]]:
        """Return what this thread or another one could fetch, and why the rest seems lost."""
        claim = self._cache.claim(places.values())
        self._fetcher.fetch(self._image, _wanted(places, claim.mine))
        found: dict[Place, bytes] = dict(claim.found)
        missed: dict[Place, Damage] = {}
        for place, future in (claim.mine | claim.awaited).items():
            content: Content = future.result()
            if isinstance(content, Damage):
                missed[place] = content
            else:
                found[place] = content
        return found, missed

    def _here(self, places: Mapping[int, Place], place: Place, damage: Damage) -> Damage:
        """Say where this reader meets the damage: the chunk may have been fetched for another one, with the
        same content, perhaps of another disk.
        """
        chunk = min(chunk for chunk, other in places.items() if other == place)
        return Damage(chunk * CHUNK, place.length, damage.reason)

    def _copy(self, chunk: int, content: bytes, buffer: memoryview, offset: int) -> None:
        """Copy what of the chunk lies in the range of ``buffer``; an empty ``content`` is zero."""
        start = chunk * CHUNK
        begin, stop = max(start, offset), min(start + CHUNK, offset + len(buffer))
        part = content[begin - start : stop - start] if content else bytes(stop - begin)
        buffer[begin - offset : stop - offset] = part


def lost(disk: str, damage: Damage) -> DamagedData:
    """Return the error for a range that cannot be read."""
    last = damage.offset + damage.length - 1
    return DamagedData(f"disk {disk} is damaged from byte {damage.offset} to {last}: {damage.reason}")


def _wanted(places: Mapping[int, Place], mine: Mapping[Place, object]) -> Wanted:
    return {place: chunk for chunk, place in places.items() if place in mine}
