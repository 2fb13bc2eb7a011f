"""Maps against a naive model: any extents, placed in any order, over any parent, in batches of any size."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from puller.cancelling import CancelScope
from puller.repository.format.address import Address
from puller.repository.format.packname import PackKind
from puller.repository.format.pages import ZERO, Numbers, PackTable, Slots
from puller.repository.reading.mapreader import MapReader
from puller.repository.writing import diskmap
from puller.repository.writing.diskmap import DiskMap
from puller.units import CHUNK, PAGE_CHUNKS, Extent, Kind, chunk_count

PACKS = 5
LARGEST = 4 * PAGE_CHUNKS

Model = dict[int, tuple[int, int]]
"""Pack number and slot by chunk; zero chunks are not in it."""


class Shelf:
    """Map contents in memory: one pack for each batch that was stored."""

    scope = CancelScope()

    def __init__(self) -> None:
        self.table = PackTable()
        for number in range(PACKS):
            self.table.number(bytes([number]) * 16)
        self.batches: dict[bytes, list[bytes]] = {}
        self.reads: list[list[int]] = []
        self.reader = MapReader(self, self.table)  # type: ignore[arg-type]

    def store(self, _pages: Sequence[int], contents: Sequence[bytes]) -> tuple[Numbers, Slots]:
        if not contents:
            return np.zeros(0, np.int64), np.zeros(0, np.uint16)
        pack_id = b"map".ljust(12) + len(self.batches).to_bytes(4, "big")
        self.batches[pack_id] = list(contents)
        number = self.table.number(pack_id)
        return np.full(len(contents), number, np.int64), np.arange(len(contents), dtype=np.uint16)

    def read(self, kind: PackKind, pack_id: bytes, slots: Sequence[int]) -> dict[int, bytes]:
        assert kind is PackKind.MAP
        self.reads.append(list(slots))
        return {slot: self.batches[pack_id][slot] for slot in slots}

    def model(self, root: Address) -> tuple[int, Model]:
        read = self.reader.root(root)
        model: Model = {}
        for page, refs in self.reader.pages(read, range(len(read.pages.packs))).items():
            for position in (refs.packs != ZERO).nonzero()[0].tolist():
                model[page * PAGE_CHUNKS + position] = int(refs.packs[position]), int(refs.slots[position])
        return read.size, model


@st.composite
def generation(draw: st.DrawFn) -> tuple[int, list[Extent]]:
    """A disk's size and ascending extents that do not overlap."""
    size = draw(st.integers(0, LARGEST * CHUNK))
    chunks = chunk_count(size)
    borders = sorted(draw(st.sets(st.integers(0, chunks), max_size=8) | _at_pages(chunks)))
    kinds = st.sampled_from([Kind.DATA, Kind.ZERO, None])
    extents = []
    for first, last in pairwise(borders):
        kind = draw(kinds)
        if kind is not None:
            extents.append(Extent(first * CHUNK, min(last * CHUNK, size) - first * CHUNK, kind))
    return size, extents


def _at_pages(chunks: int) -> st.SearchStrategy[set[int]]:
    return st.sets(st.sampled_from([*range(0, chunks + 1, PAGE_CHUNKS), chunks]), max_size=5)


def _pieces(extents: list[Extent], rng: random.Random) -> Iterator[list[int]]:
    """The chunks of the data in batches, as codec threads place them: out of order, across extents."""
    chunks = [
        chunk
        for extent in extents
        if extent.kind is Kind.DATA
        for chunk in range(extent.offset // CHUNK, chunk_count(extent.end))
    ]
    step = rng.randint(1, 700)
    batches = [chunks[at : at + step] for at in range(0, len(chunks), step)]
    rng.shuffle(batches)
    yield from batches


def _apply(model: Model, size: int, extents: list[Extent], placed: Model) -> Model:
    named = {chunk for extent in extents for chunk in range(extent.offset // CHUNK, chunk_count(extent.end))}
    return {
        chunk: where for chunk, where in model.items() if chunk < chunk_count(size) and chunk not in named
    } | placed


@settings(max_examples=60, deadline=None)
@given(st.lists(generation(), min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_generations_agree_with_a_naive_model(
    generations: list[tuple[int, list[Extent]]], rng: random.Random
) -> None:
    shelf = Shelf()
    old: Address | None = None
    model: Model = {}
    roots: list[tuple[Address, int, Model]] = []
    with pytest.MonkeyPatch.context() as patch:
        for size, extents in generations:
            patch.setattr(diskmap, "READY_PAGES", rng.randint(1, 3))
            patch.setattr(diskmap, "READY_CHUNKS", rng.choice([1, 10**9]))
            base = None if old is None else shelf.reader.root(old)
            root, placed = _write(shelf, DiskMap(size, base, shelf.reader, shelf.store), extents, rng)
            model = _apply(model, size, extents, placed)
            old = root
            roots.append((root, size, model))
    for root, size, expected in roots:
        assert shelf.model(root) == (size, expected)


def _write(shelf: Shelf, map_: DiskMap, extents: list[Extent], rng: random.Random) -> tuple[Address, Model]:
    for extent in extents:
        map_.announce(extent)
    placed: Model = {}
    for chunks in _pieces(extents, rng):
        packs = np.array([rng.choice([ZERO, *range(PACKS)]) for _ in chunks], np.int64)
        slots = np.array([0 if pack == ZERO else rng.randrange(65536) for pack in packs], np.uint16)
        map_.place(np.array(chunks, np.int64), packs, slots)
        found = zip(chunks, packs.tolist(), slots.tolist(), strict=True)
        placed |= {chunk: (pack, slot) for chunk, pack, slot in found if pack != ZERO}
    pack, slot = map_.finish()
    return Address(shelf.table.pack_id(pack), slot), placed


def test_what_is_announced_twice_is_refused() -> None:
    shelf = Shelf()
    map_ = DiskMap(10 * CHUNK, None, shelf.reader, shelf.store)
    map_.announce(Extent(2 * CHUNK, 4 * CHUNK, Kind.ZERO))
    with pytest.raises(RuntimeError, match="chunk 5 was announced after chunk 5"):
        map_.announce(Extent(5 * CHUNK, CHUNK, Kind.DATA))


def _place(map_: DiskMap, chunks: range) -> None:
    """Each chunk into pack 0 and the slot of its number."""
    numbers = np.array(chunks, np.int64)
    map_.place(numbers, np.zeros_like(numbers), numbers.astype(np.uint16))


def _whole(shelf: Shelf, size: int) -> Address:
    """The root of a disk that is data from its beginning to its end."""
    map_ = DiskMap(size, None, shelf.reader, shelf.store)
    map_.announce(Extent(0, size, Kind.DATA))
    _place(map_, range(chunk_count(size)))
    pack, slot = map_.finish()
    return Address(shelf.table.pack_id(pack), slot)


def test_pages_that_are_full_are_written_before_too_many_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits takes memory, and what is written too early takes requests."""
    monkeypatch.setattr(diskmap, "READY_CHUNKS", 3 * PAGE_CHUNKS)
    shelf = Shelf()
    chunks = 8 * PAGE_CHUNKS - 1
    map_ = DiskMap(chunks * CHUNK, None, shelf.reader, shelf.store)
    map_.announce(Extent(0, chunks * CHUNK, Kind.DATA))
    written = []
    for page in range(8):
        _place(map_, range(page * PAGE_CHUNKS, min((page + 1) * PAGE_CHUNKS, chunks)))
        written.append([len(batch) for batch in shelf.batches.values()])
    assert written == [[], [], [3], [3], [3], [3, 3], [3, 3], [3, 3]]
    map_.finish()
    assert [len(batch) for batch in shelf.batches.values()] == [3, 3, 2, 1]


def test_one_chunk_less_than_too_many_may_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diskmap, "READY_CHUNKS", 2 * PAGE_CHUNKS)
    shelf = Shelf()
    chunks = 2 * PAGE_CHUNKS - 1
    map_ = DiskMap(2 * PAGE_CHUNKS * CHUNK, None, shelf.reader, shelf.store)
    map_.announce(Extent(0, chunks * CHUNK, Kind.DATA))
    map_.announce(Extent(chunks * CHUNK, CHUNK, Kind.ZERO))
    _place(map_, range(chunks))
    assert not shelf.batches
    map_.finish()
    assert [len(batch) for batch in shelf.batches.values()] == [2, 1]


def test_pages_of_few_chunks_are_written_many_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page is complete once the announcements have passed it, however few of its chunks change."""
    monkeypatch.setattr(diskmap, "READY_PAGES", 3)
    shelf = Shelf()
    map_ = DiskMap(7 * PAGE_CHUNKS * CHUNK, None, shelf.reader, shelf.store)
    written = []
    for page in range(7):
        for chunk in (page * PAGE_CHUNKS, page * PAGE_CHUNKS + 9):
            map_.announce(Extent(chunk * CHUNK, CHUNK, Kind.DATA))
            _place(map_, range(chunk, chunk + 1))
        written.append([len(batch) for batch in shelf.batches.values()])
    assert written == [[], [], [], [3], [3], [3], [3, 3]]


@pytest.mark.parametrize(
    ("old", "new", "pages"),
    [
        (PAGE_CHUNKS * CHUNK, 2 * PAGE_CHUNKS * CHUNK, 0),
        (3 * PAGE_CHUNKS * CHUNK, PAGE_CHUNKS * CHUNK, 0),
        (300 * CHUNK - 1, 300 * CHUNK, 0),
        (300 * CHUNK, 301 * CHUNK, 1),
        (2 * PAGE_CHUNKS * CHUNK, (PAGE_CHUNKS + 300) * CHUNK, 1),
    ],
)
def test_only_a_page_that_gets_another_length_is_written_when_a_disk_is_resized(
    old: int, new: int, pages: int
) -> None:
    shelf = Shelf()
    base = shelf.reader.root(_whole(shelf, old))
    before = len(shelf.batches)
    DiskMap(new, base, shelf.reader, shelf.store).finish()
    stored = [len(batch) for batch in list(shelf.batches.values())[before:]]
    assert stored == ([pages, 1] if pages else [1]), "the root is always written"


@pytest.mark.parametrize("kinds", [(Kind.DATA, Kind.DATA), (Kind.DATA, Kind.ZERO), (Kind.ZERO, Kind.DATA)])
@pytest.mark.parametrize("border", [1, 300, 512, PAGE_CHUNKS - 2])
@pytest.mark.parametrize("end", [PAGE_CHUNKS - 1, PAGE_CHUNKS])
def test_only_a_page_that_is_announced_in_part_is_read_from_the_parent(
    kinds: tuple[Kind, Kind], border: int, end: int
) -> None:
    shelf = Shelf()
    base = shelf.reader.root(_whole(shelf, 2 * PAGE_CHUNKS * CHUNK))
    shelf.reads.clear()
    map_ = DiskMap(base.size, base, shelf.reader, shelf.store)
    for start, stop, kind in ((0, border, kinds[0]), (border, end, kinds[1])):
        map_.announce(Extent(start * CHUNK, (stop - start) * CHUNK, kind))
        if kind is Kind.DATA:
            _place(map_, range(start, stop))
    map_.finish()
    assert shelf.reads == ([] if end == PAGE_CHUNKS else [[0]])


def test_what_a_page_is_not_announced_to_change_stays() -> None:
    """Parts of a page whose borders add up to those of the whole page do not make it whole."""
    shelf = Shelf()
    base = shelf.reader.root(_whole(shelf, 2 * PAGE_CHUNKS * CHUNK))
    map_ = DiskMap(base.size, base, shelf.reader, shelf.store)
    for start, stop in ((0, 1), (512, PAGE_CHUNKS - 1)):
        map_.announce(Extent(start * CHUNK, (stop - start) * CHUNK, Kind.ZERO))
    pack, slot = map_.finish()
    _, model = shelf.model(Address(shelf.table.pack_id(pack), slot))
    assert sorted(model) == [*range(1, 512), *range(PAGE_CHUNKS - 1, 2 * PAGE_CHUNKS)]


def test_zeros_over_a_whole_page_leave_no_page() -> None:
    shelf = Shelf()
    base = shelf.reader.root(_whole(shelf, 3 * PAGE_CHUNKS * CHUNK))
    before = len(shelf.batches)
    map_ = DiskMap(base.size, base, shelf.reader, shelf.store)
    map_.announce(Extent(PAGE_CHUNKS * CHUNK, PAGE_CHUNKS * CHUNK, Kind.ZERO))
    shelf.reads.clear()
    pack, slot = map_.finish()
    assert (shelf.reads, len(shelf.batches)) == ([], before + 1), "of the root only"
    _, model = shelf.model(Address(shelf.table.pack_id(pack), slot))
    assert sorted(model) == [*range(PAGE_CHUNKS), *range(2 * PAGE_CHUNKS, 3 * PAGE_CHUNKS)]


def test_4_gib_of_a_full_wait_to_be_written_and_no_more() -> None:
    shelf = Shelf()
    chunks = 130 * PAGE_CHUNKS
    map_ = DiskMap(chunks * CHUNK, None, shelf.reader, shelf.store)
    map_.announce(Extent(0, chunks * CHUNK, Kind.DATA))
    for page in range(130):
        _place(map_, range(page * PAGE_CHUNKS, (page + 1) * PAGE_CHUNKS))
    assert [len(batch) for batch in shelf.batches.values()] == [64, 64]
