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
from puller.repository.format.footer import PackKind
from puller.repository.format.pages import ZERO, Address, Numbers, PackTable, Slots
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
        self.reader = MapReader(self, self.table)  # type: ignore[arg-type]

    def store(self, _pages: Sequence[int], contents: Sequence[bytes]) -> tuple[Numbers, Slots]:
        pack_id = b"map".ljust(12) + len(self.batches).to_bytes(4, "big")
        self.batches[pack_id] = list(contents)
        number = self.table.number(pack_id)
        return np.full(len(contents), number, np.int64), np.arange(len(contents), dtype=np.uint16)

    def read(self, kind: PackKind, pack_id: bytes, slots: Sequence[int]) -> dict[int, bytes]:
        assert kind is PackKind.MAP
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
