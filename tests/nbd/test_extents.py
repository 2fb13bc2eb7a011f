"""Extent arithmetic against models that hold a kind for every byte or chunk."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterable, Iterator
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from puller.nbd.extents import clipped, grouped, merged, overlaid, rounded, split, widened
from puller.units import CHUNK, GIB, KIB, Extent, Kind

SECTOR = 512
DATA, ZERO = Kind.DATA, Kind.ZERO

Model = list[Kind | None]
"""The kind of every sector of a disk, None where a stream says nothing."""


_STEPS = st.one_of(st.integers(1, 200), st.sampled_from([1, CHUNK // SECTOR]))


def disks() -> st.SearchStrategy[int]:
    """Size of a small disk in sectors, often one that ends within a chunk."""
    return st.integers(1, 5 * CHUNK // SECTOR)


@st.composite
def streams(
    draw: st.DrawFn, sectors: int, kinds: Iterable[Kind | None], granularity: int = 1
) -> list[Extent]:
    """Ascending extents of a disk; neighbours of equal kind may touch, as servers send them."""
    extents, at = [], 0
    for step, kind in draw(st.lists(st.tuples(_STEPS, st.sampled_from(list(kinds))), max_size=20)):
        end = min(sectors, -(-(at + step) // granularity) * granularity)
        if kind is not None and at < end:
            extents.append(Extent(at * SECTOR, (end - at) * SECTOR, kind))
        at = end
    return extents


def model(extents: Iterable[Extent], sectors: int) -> Model:
    found: Model = [None] * sectors
    for extent in extents:
        for sector in range(extent.offset // SECTOR, extent.end // SECTOR):
            found[sector] = extent.kind
    return found


def ascending(extents: list[Extent]) -> bool:
    """Whether the stream is in order, without empty extents, overlaps or neighbours left unmerged."""
    return all(extent.length > 0 for extent in extents) and all(
        one.end < two.offset or (one.end == two.offset and one.kind is not two.kind)
        for one, two in pairwise(extents)
    )


@given(st.data())
def test_merged_tells_the_same_in_fewest_extents(data: st.DataObject) -> None:
    sectors = data.draw(disks())
    extents = data.draw(streams(sectors, (DATA, ZERO, None)))
    result = list(merged(extents))
    assert model(result, sectors) == model(extents, sectors)
    assert ascending(result)


def test_merged_joins_overlaps() -> None:
    overlapping = [Extent(0, 10, DATA), Extent(5, 2, DATA), Extent(8, 4, DATA)]
    assert list(merged(overlapping)) == [Extent(0, 12, DATA)]


@given(st.data())
def test_clipped_keeps_the_range(data: st.DataObject) -> None:
    sectors = data.draw(disks())
    extents = data.draw(streams(sectors, (DATA, ZERO, None)))
    start, end = sorted(data.draw(st.tuples(*[st.integers(0, sectors)] * 2)))
    expected = [kind if start <= at < end else None for at, kind in enumerate(model(extents, sectors))]
    assert model(clipped(extents, start * SECTOR, end * SECTOR), sectors) == expected


def test_clipped_reads_no_further_than_the_range() -> None:
    def endless() -> Iterator[Extent]:
        at = 0
        while True:
            yield Extent(at, 10, DATA)
            at += 10

    assert sum(extent.length for extent in clipped(endless(), 25, 105)) == 80


@given(st.data())
def test_overlaid_gives_dirty_bytes_the_kind_of_the_allocation(data: st.DataObject) -> None:
    sectors = data.draw(disks())
    dirty = data.draw(streams(sectors, (DATA, None), granularity=data.draw(st.sampled_from([1, 8, 128]))))
    allocation = data.draw(streams(sectors, (DATA, ZERO, None)))
    known = zip(model(dirty, sectors), model(allocation, sectors), strict=True)
    expected = [(kind or DATA) if changed else None for changed, kind in known]
    result = list(overlaid(dirty, allocation))
    assert model(result, sectors) == expected
    assert all(one.end <= two.offset for one, two in pairwise(result))


@given(st.data())
def test_rounded_follows_the_rule_for_every_chunk(data: st.DataObject) -> None:
    sectors = data.draw(disks())
    size = sectors * SECTOR
    extents = data.draw(streams(sectors, (DATA, ZERO, None), data.draw(st.sampled_from([1, 8, 128]))))
    result = list(rounded(extents, size))
    assert ascending(result)
    assert all(extent.offset % CHUNK == 0 for extent in result)
    assert all(extent.end % CHUNK == 0 or extent.end == size for extent in result)
    told, found = model(extents, sectors), model(result, sectors)
    for start in range(0, sectors, CHUNK // SECTOR):
        chunk = set(told[start : start + CHUNK // SECTOR])
        expected = None if chunk == {None} else ZERO if chunk == {ZERO} else DATA
        assert set(found[start : start + CHUNK // SECTOR]) == {expected}


@given(st.data())
def test_widened_covers_every_chunk_that_is_touched(data: st.DataObject) -> None:
    sectors = data.draw(disks())
    extents = data.draw(streams(sectors, (DATA, None)))
    result = list(widened(extents, sectors * SECTOR))
    assert ascending(result)
    told, found = model(extents, sectors), model(result, sectors)
    for start in range(0, sectors, CHUNK // SECTOR):
        chunk = slice(start, start + CHUNK // SECTOR)
        assert set(found[chunk]) == {DATA if any(told[chunk]) else None}


@given(st.data(), st.integers(1, 400))
def test_split_cuts_at_every_multiple(data: st.DataObject, step: int) -> None:
    sectors = data.draw(disks())
    extents = data.draw(streams(sectors, (DATA, ZERO, None)))
    result = list(split(extents, step * SECTOR))
    assert model(result, sectors) == model(extents, sectors)
    assert all(piece.offset // (step * SECTOR) == (piece.end - 1) // (step * SECTOR) for piece in result)


@given(st.data(), st.integers(0, 200), st.integers(1, 400), st.integers(1, 5))
def test_groups_keep_all_ranges_within_gap_span_and_number(
    data: st.DataObject, gap: int, span: int, most: int
) -> None:
    sectors = data.draw(disks())
    ranges = data.draw(streams(sectors, (DATA, None)))
    groups = list(grouped(ranges, gap=gap * SECTOR, span=span * SECTOR, most=most))
    assert [piece for group in groups for piece in group] == list(split(ranges, span * SECTOR))
    for group in groups:
        assert len(group) <= most
        assert group[0].offset // (span * SECTOR) == (group[-1].end - 1) // (span * SECTOR)
        assert all(two.offset - one.end <= gap * SECTOR for one, two in pairwise(group))
    for one, two in pairwise(groups):
        apart = two[0].offset - one[-1].end > gap * SECTOR
        assert (
            apart or len(one) == most or two[0].offset // (span * SECTOR) > one[0].offset // (span * SECTOR)
        )


def test_memory_does_not_grow_with_the_number_of_extents() -> None:
    count = 50_000
    step = 80 * 1024 * KIB  # 4 TiB in all

    def scattered(kind: Kind, length: int) -> Iterator[Extent]:
        return (Extent(number * step, length, kind) for number in range(count))

    dirty = widened(scattered(DATA, 4 * KIB), count * step)
    groups = grouped(dirty, gap=step, span=GIB, most=100)
    plan = rounded(
        (piece for group in groups for piece in overlaid(group, [Extent(group[0].offset, GIB, ZERO)])),
        count * step,
    )
    tracemalloc.start()
    try:
        assert sum(extent.length for extent in plan) == count * CHUNK
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 100 * KIB


def test_far_out_on_a_disk_ranges_share_a_request_too() -> None:
    ranges = [Extent(300 * GIB + number * CHUNK, KIB, DATA) for number in (1, 3, 5)]
    assert list(grouped(ranges, gap=CHUNK * 2, span=GIB, most=3)) == [ranges]
