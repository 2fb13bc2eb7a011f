"""Segments and catalogues against naive models: found rows, merges, what survives damage."""

from __future__ import annotations

import os
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from puller.errors import DamagedData
from puller.repository.index.catalogue import Catalogue
from puller.repository.index.index_file import BLOCK, BLOCK_ROWS, IndexFile, open_segment, write_segment
from puller.repository.index.merging import merge, untouched
from puller.repository.index.rows import Rows, prefixes_of

# Four prefixes, so that equal ones run over several blocks.
row = st.tuples(st.sampled_from([0, 1, 1 << 63, (1 << 64) - 1]), st.integers(0, 300), st.integers(0, 9))
Row = tuple[int, int, int]


def id_of(prefix: int, rest: int) -> bytes:
    return prefix.to_bytes(8, "little") + rest.to_bytes(8, "little")


def rows_of(drawn: Sequence[Row]) -> Rows:
    """The slot of a row is its position."""
    ids = np.frombuffer(b"".join(id_of(prefix, rest) for prefix, rest, _ in drawn), np.uint8)
    numbers = np.array([number for _, _, number in drawn], np.uint32)
    return Rows(ids.reshape(-1, 16), numbers, np.arange(len(drawn), dtype=np.uint16)).in_order()


def written(rows: Rows, name: bytes = bytes(16)) -> IndexFile:
    with tempfile.TemporaryFile() as file:
        return write_segment(os.dup(file.fileno()), name, [rows], len(rows))


def find(segment: IndexFile, ids: Sequence[bytes], live: bytes | None = None) -> dict[int, tuple[int, int]]:
    raw = np.frombuffer(b"".join(ids), np.uint8)
    positions, numbers, slots = segment.find(ids, prefixes_of(raw), live)
    return dict(zip(positions, zip(numbers, slots, strict=True), strict=True))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(row, max_size=3 * BLOCK_ROWS), st.lists(row, max_size=30), st.binary(min_size=10, max_size=10)
)
def test_a_segment_finds_exactly_its_live_rows(drawn: list[Row], asked: list[Row], live: bytes) -> None:
    model = defaultdict(set)
    for slot, (prefix, rest, number) in enumerate(drawn):
        if live[number]:
            model[id_of(prefix, rest)].add((number, slot))
    keys = [id_of(prefix, rest) for prefix, rest, _ in drawn + asked]
    found = find(written(rows_of(drawn)), keys, live)
    for position, key in enumerate(keys):
        assert found[position] in model[key] if model[key] else position not in found


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.lists(row, max_size=2 * BLOCK_ROWS), max_size=4), st.lists(st.integers(-1, 20), min_size=10)
)
def test_a_merge_keeps_every_row_in_order(parts: list[list[Row]], numbers: list[int]) -> None:
    expected = sorted(
        (id_of(prefix, rest)[:8], id_of(prefix, rest), numbers[number], slot)
        for drawn in parts
        for slot, (prefix, rest, number) in enumerate(drawn)
        if numbers[number] >= 0
    )
    steps = list(merge([written(rows_of(drawn)) for drawn in parts], np.array(numbers)))
    merged = Rows.join(steps)
    prefixes = prefixes_of(merged.ids)
    assert (prefixes[:-1] <= prefixes[1:]).all()
    columns = zip(merged.ids, merged.numbers.tolist(), merged.slots.tolist(), strict=True)
    found = [(key.tobytes()[:8], key.tobytes(), number, slot) for key, number, slot in columns]
    assert sorted(found) == expected


def test_a_merge_of_many_rows_takes_them_in_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("puller.repository.index.merging.STEP", 4 * BLOCK_ROWS)
    parts = [spread(seed, 1000) for seed in range(5)]
    steps = list(merge([written(part) for part in parts], None))
    assert sum(map(len, steps)) == 5000
    assert max(map(len, steps)) <= (4 + 5) * BLOCK_ROWS
    assert (np.diff(prefixes_of(Rows.join(steps).ids).astype(float)) >= 0).all()


def test_a_merge_keeps_all_rows_of_one_prefix() -> None:
    rows = rows_of([((1 << 64) - 1, rest, 0) for rest in range(5 * BLOCK_ROWS)])
    merged = Rows.join(list(merge([written(rows), written(rows)], None)))
    assert sorted(merged.ids.tolist()) == sorted(rows.ids.tolist() * 2)


def spread(seed: int, count: int) -> Rows:
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, 256, (count, 16), np.uint8)
    return Rows(ids, np.zeros(count, np.uint32), np.arange(count, dtype=np.uint16)).in_order()


@given(st.lists(st.integers(1, 10**8)), st.integers(1, 10**8))
def test_segments_stay_few(sizes: list[int], fresh: int) -> None:
    held: list[int] = []
    for size in [*sizes, fresh]:
        kept = untouched(held, size)
        held = [*held[:kept], sum(held[kept:]) + size]
        assert held == sorted(held, reverse=True)
    assert len(held) <= 12


def damaged(content: bytes, tmp_path: Path) -> IndexFile:
    path = tmp_path / "segment"
    path.write_bytes(content)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return open_segment(descriptor, bytes(16))
    except DamagedData:
        os.close(descriptor)
        raise


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_damaged_segment_never_gives_a_wrong_row(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    rows = spread(1, 3 * BLOCK_ROWS + 7)
    segment = written(rows)
    content = bytearray(os.pread(segment.descriptor, 1 << 20, 0))
    at = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content[at] ^= data.draw(st.integers(1, 255))
    else:
        del content[at:]
    keys = [key.tobytes() for key in rows.ids]
    try:
        found = find(damaged(bytes(content), tmp_path_factory.getbasetemp()), keys)
    except DamagedData:
        return
    assert at < 4 * BLOCK
    for position, (_, slot) in found.items():
        assert slot == rows.slots[position]
    assert len(found) >= len(keys) - BLOCK_ROWS


def test_a_segment_that_shrinks_while_open_is_noticed(tmp_path: Path) -> None:
    rows = spread(1, 3 * BLOCK_ROWS)
    path = tmp_path / "segment"
    segment = write_segment(os.open(path, os.O_RDWR | os.O_CREAT), bytes(16), [rows], len(rows))
    os.truncate(path, BLOCK + 100)
    assert set(find(segment, [key.tobytes() for key in rows.ids])) >= set(range(BLOCK_ROWS))
    with pytest.raises(DamagedData):
        segment.rows(0, 3)


@settings(max_examples=50)
@given(st.lists(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9)), max_size=4), max_size=5), st.data())
def test_catalogues_survive_their_file_and_forget_what_vanished(
    objects: list[list[tuple[int, int]]], data: st.DataObject
) -> None:
    found = {
        id_of(9, k): [(id_of(0, pack), alive) for pack, alive in packs] for k, packs in enumerate(objects)
    }
    catalogue = Catalogue.empty().extended(found)
    listed = [source for source in found if data.draw(st.booleans())]
    excluded = {id_of(0, 3)}
    catalogue = Catalogue.decode(catalogue.encode(bytes(16)), bytes(16)).keeping(listed)
    compact, numbers = catalogue.compacted()
    expected = live_of({source: found[source] for source in listed}, excluded)
    assert named(catalogue, excluded) == named(compact, excluded) == expected
    kept = numbers >= 0
    assert (catalogue.packs[kept] == compact.packs[numbers[kept]]).all()


def live_of(found: dict[bytes, list[tuple[bytes, int]]], excluded: set[bytes]) -> list[tuple[bytes, int]]:
    packs = [pack for named in found.values() for pack in named]
    least = {pack_id: min(alive for other, alive in packs if other == pack_id) for pack_id, _ in packs}
    return sorted(
        (pack_id, alive) for pack_id, alive in packs if alive == least[pack_id] and pack_id not in excluded
    )


def named(catalogue: Catalogue, excluded: set[bytes]) -> list[tuple[bytes, int]]:
    live = catalogue.live(excluded)
    packs = zip(catalogue.packs, catalogue.alive.tolist(), live, strict=True)
    return sorted((pack.tobytes(), alive) for pack, alive, flag in packs if flag)


@given(st.integers(0, 10**9), st.integers(0, 255))
def test_a_damaged_catalogue_is_refused(at: int, value: int) -> None:
    content = bytearray(Catalogue.empty().extended({id_of(1, 1): [(id_of(2, 2), 3)]}).encode(bytes(16)))
    if content[at % len(content)] == value:
        del content[at % len(content) :]
    else:
        content[at % len(content)] = value
    with pytest.raises(DamagedData):
        Catalogue.decode(bytes(content), bytes(16))
