"""Which chunks of a disk differ, as values."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from puller.repository.reading.difference import Changes
from puller.units import CHUNK, PAGE_CHUNKS, chunk_count

SIZES = st.integers(0, 3 * PAGE_CHUNKS * CHUNK)
RUNS = st.lists(st.tuples(st.integers(0, 3 * PAGE_CHUNKS), st.integers(0, 2 * PAGE_CHUNKS)), max_size=6)


@given(SIZES, RUNS)
def test_what_is_taken_is_what_is_named(size: int, taken: list[tuple[int, int]]) -> None:
    changes = Changes(size)
    wanted: set[int] = set()
    for first, count in taken:
        changes.add_chunks(first, first + count)
        wanted |= set(range(first, min(first + count, chunk_count(size))))
    found = {
        number
        for offset, length in changes.ranges()
        for number in range(offset // CHUNK, chunk_count(offset + length))
    }
    assert found == wanted
    assert changes.bytes == sum(min(CHUNK, size - number * CHUNK) for number in wanted)
    assert bool(changes.pages) == bool(wanted)
